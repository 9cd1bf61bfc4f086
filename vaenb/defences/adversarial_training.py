"""Latent adversarial training: a VAE whose decoder also learns from attacked codes (document 001, Algorithm 1).

After the usual step on a batch x, `updates` times: z ~ q(z|x); z' = argmax 1 − SSIM(Dec(z'), Dec(z)) in the ball of
radius `eps` around z; and a step on the decoder alone that brings Dec(z') back to x.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from vaenb.attacks import latent
from vaenb.distributions import rand_like
from vaenb.metrics.images import ssim
from vaenb.models.autoencoder import VAE, vae


class AdversarialVAE(VAE):
    """A VAE with Algorithm 1's second update, which `fit` makes; `mixture` draws each image's radius in (0, eps)."""

    eps: float
    steps: int
    updates: int
    mixture: bool

    def further_losses(self, x: Tensor, generator: torch.Generator | None = None) -> Iterator[Tensor]:
        """Yield −log p(x|z') of attacked codes, with the Gaussian likelihood the squared error, once an update.

        The attack and the update see BatchNorm with its running statistics, as every later attack will: in training
        mode the images of the batch would defend each other, and attacked codes would shift the statistics.
        """
        mode = self.training
        self.eval()
        try:
            for _ in range(self.updates):
                with torch.no_grad():
                    z = self.posterior(x).rsample(generator=generator)
                if self.eps > 0:
                    radius = self.eps * (rand_like(z[:, 0], generator) if self.mixture else torch.ones_like(z[:, 0]))
                    search = {"steps": self.steps, "restarts": 1, "generator": generator}
                    z = latent.attack(self, z, eps=radius, distance=_dissimilarity, **search).adversarial
                yield -self.log_likelihood(x, z).mean()
        finally:
            self.train(mode)


def adversarial_vae(
    *, eps: float, steps: int = 10, updates: int = 1, mixture: bool = False, likelihood: str = "gaussian", **config
) -> AdversarialVAE:
    """Build a VAE (`config` as for `vae`) that is trained against latent attacks of `eps`, by PGD of `steps` steps.

    `mixture` draws each image's radius uniformly from (0, eps) instead of always taking eps, which document 001 does.
    `eps=0` is the control: as many steps on the decoder, on codes that were not attacked.
    A training step costs about `updates`·(`steps` + 2) passes through the decoder more.
    """
    if not 0 <= eps < float("inf"):
        raise ValueError(f"eps: a finite radius ≥ 0 expected, got {eps!r}")
    for name, value in {"steps": steps, "updates": updates}.items():
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{name}: a whole number ≥ 1 expected, got {value!r}")
    plain = vae(likelihood=likelihood, **config)
    shapes = {"image_shape": plain.image_shape, "latent_dim": plain.latent_dim}
    parts = {"likelihood": plain.likelihood, "regularizer": plain.regularizer}
    model = AdversarialVAE(plain.encoder, plain.decoder, **shapes, **parts)
    model.eps, model.steps, model.updates, model.mixture = eps, steps, updates, mixture
    return model


def _dissimilarity(a: Tensor, b: Tensor) -> Tensor:
    return 1 - ssim(a, b)
