"""Lower bounds on log p(x), per image and in nats, for any LatentModel.

With log weights w_k = log p(x|z_k) + log p(z_k) − log q(z_k|x), z_k ~ q(z|x): the ELBO is E[w], and the importance
weighted bound log mean exp(w_k) (Burda et al., 2016) lies between the ELBO and log p(x), rising with K.
"""

import math

import torch
from torch import Tensor

from vaenb.models.contract import LatentModel, check_images, check_model


def elbo(model: LatentModel, x: Tensor, *, samples: int = 16, generator: torch.Generator | None = None) -> Tensor:
    """Estimate the ELBO at β = 1 of images x (N, C, H, W) by `samples` draws from the posterior: (N,) nats."""
    return _log_weights(model, x, samples, generator).mean(0)


def iwae(model: LatentModel, x: Tensor, *, samples: int = 64, generator: torch.Generator | None = None) -> Tensor:
    """Estimate log p(x) from below by the importance weighted bound with `samples` draws: (N,) nats."""
    return _log_weights(model, x, samples, generator).logsumexp(0) - math.log(samples)


def bits_per_dim(nats: Tensor, x: Tensor) -> Tensor:
    """Convert a log likelihood in nats (N,) of images x (N, C, H, W) to bits per dimension: −nats / (C·H·W·log 2)."""
    check_images(x)
    if nats.shape != (len(x),):
        raise ValueError(f"nats: one number for each of the {len(x)} images expected, got shape {tuple(nats.shape)}")
    return -nats / (x[0].numel() * math.log(2))


@torch.no_grad()
def _log_weights(model: LatentModel, x: Tensor, samples: int, generator: torch.Generator | None) -> Tensor:
    check_model(model)
    check_images(x)
    if not isinstance(samples, int) or samples < 1:
        raise ValueError(f"samples: a whole number ≥ 1 expected, got {samples!r}")

    def weights(part: Tensor) -> Tensor:
        posterior = model.posterior(part)
        draws = (posterior.rsample(generator=generator) for _ in range(samples))
        return torch.stack([model.log_likelihood(part, z) + model.log_prior(z) - posterior.log_prob(z) for z in draws])

    return torch.cat([weights(part) for part in x.split(512)], dim=1)
