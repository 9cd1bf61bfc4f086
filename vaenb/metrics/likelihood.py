"""Lower bounds on log p(x), per image and in nats, for any LatentModel.

With log weights w_k = log p(x|z_k) + log p(z_k) − log q(z_k|x), z_k ~ q(z|x): the ELBO is E[w], and the importance
weighted bound log mean exp(w_k) (Burda et al., 2016) lies between the ELBO and log p(x), rising with K.

Terms are added in float32 at least. Those of a half-precision model stay as coarse as it gives them: at −600 nats a
bfloat16 is a multiple of 4. Whatever compares likelihoods refuses it.
"""

import math

import torch
from torch import Tensor

from vaenb.checks import check_images, check_model_and_images, check_nats, check_shape, check_whole
from vaenb.contract import LatentModel, Posterior
from vaenb.metrics.blocks import BLOCK, in_blocks
from vaenb.precision import check_precision, no_autocast, widened


def elbo(model: LatentModel, x: Tensor, *, samples: int = 16, generator: torch.Generator | None = None) -> Tensor:
    """Estimate the ELBO at β = 1 of images x (N, C, H, W) by `samples` draws from the posterior: (N,) nats."""
    return _drawn_weights(model, x, samples, generator).mean(0)


def iwae(model: LatentModel, x: Tensor, *, samples: int = 64, generator: torch.Generator | None = None) -> Tensor:
    """Estimate log p(x) from below by the importance weighted bound with `samples` draws: (N,) nats."""
    return _drawn_weights(model, x, samples, generator).logsumexp(0) - math.log(samples)


@no_autocast
@torch.no_grad()
def shortfall(model: LatentModel, x: Tensor, target: Tensor) -> Tensor:
    """Compute log p(x_t|z_t) − log p(x_t|z) for images x and targets x_t, both (N, C, H, W): (N,) nats.

    z and z_t are the posterior means of x and of x_t. It is what an attacked image's code explains of its target less
    than the target's own code does (document 003's −log p(x_t|z*) without its floor): larger is more robust, 0 is
    lost. It is negative where the attacked code explains the target better than the encoder's own.
    """
    check_model_and_images(model, x)
    check_images(target, "target")
    check_shape(target, "target", x.shape, "as x")
    check_precision("x and target", x, target)

    def unexplained(part: Tensor, goal: Tensor) -> Tensor:
        own = model.log_likelihood(goal, model.posterior(goal).mean)
        return own - model.log_likelihood(goal, model.posterior(part).mean)

    return in_blocks(unexplained, x, target)


def bits_per_dim(nats: Tensor, x: Tensor, *, levels: int = 1) -> Tensor:
    """Convert a log likelihood in nats (N,) of images x (N, C, H, W) to bits per dimension: −nats / (C·H·W·log 2).

    A density on [0, 1] knows no grey levels; with `levels` = 256 the result, log₂ 256 higher, is in bits per pixel of 8
    bits, as a discrete family's is with 1 (of dequantised images it is no less than the discrete one's).
    """
    check_images(x)
    check_nats(nats, "nats", len(x))
    check_whole("levels", levels)
    return math.log2(levels) - widened(nats) / (x[0].numel() * math.log(2))


def log_weight(model: LatentModel, x: Tensor, q: Posterior, z: Tensor) -> Tensor:
    """Compute log p(x|z) + log p(z) − log q(z) of a latent z (N, D) for each image: (N,) nats, differentiable."""
    return widened(model.log_likelihood(x, z)) + widened(model.log_prior(z)) - widened(q.log_prob(z))


def check_slope(model: LatentModel, x: Tensor, z: Tensor) -> None:
    """Refuse a likelihood of x at latents z that has no gradient in z: the prior's alone would be followed."""
    with torch.enable_grad():
        z = z.detach().requires_grad_()
        value = model.log_likelihood(x, z).sum()
        slope = torch.autograd.grad(value, z, allow_unused=True)[0] if value.requires_grad else None
    if slope is None:
        raise ValueError("log_likelihood: its gradient in z is needed; take torch.no_grad() or .detach() out of it")


@no_autocast
@torch.no_grad()
def _drawn_weights(model: LatentModel, x: Tensor, samples: int, generator: torch.Generator | None) -> Tensor:
    """The log weights of draws from each image's posterior: (samples, N)."""
    check_model_and_images(model, x, samples=samples)
    blocks = []
    for part in x.split(BLOCK):
        q = model.posterior(part)
        weights = []
        for _ in range(samples):
            z = q.rsample(generator=generator)
            weights.append(log_weight(model, part, q, z))
        blocks.append(torch.stack(weights))
    return torch.cat(blocks, dim=1)
