"""Latent adversarial training: a VAE whose decoder also learns from attacked codes (document 001, Algorithm 1).

After the usual step on a batch x, `updates` times: z ~ q(z|x); z' = argmax 1 − SSIM(Dec(z'), Dec(z)) in the ball of
radius `eps` around z; and a step on the decoder alone that brings Dec(z') back to x.
"""

from typing import Unpack

import torch
from torch import Tensor

from vaenb.attacks import latent
from vaenb.attacks.pgd import Search
from vaenb.checks import check_counts, check_number
from vaenb.distributions import rand_like
from vaenb.metrics.images import ssim
from vaenb.models.autoencoder import VAE, Parts, resting, vae
from vaenb.models.likelihoods import dequantize


class AdversarialVAE(VAE):
    """A VAE with Algorithm 1's second update, which `fit` makes `further_steps` times."""

    def __init__(self, *, eps: float, steps: int, updates: int, mixture: bool, **parts: Unpack[Parts]) -> None:
        super().__init__(**parts)
        self.eps, self.steps, self.mixture = eps, steps, mixture
        self.further_steps = updates

    def further_loss(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """−log p(x|z') of attacked codes, with the Gaussian likelihood the squared error.

        The attack and the update see BatchNorm with its running statistics, as every later attack will: in training
        mode the images of the batch would defend each other, and attacked codes would shift the statistics.
        """
        if self.likelihood.dequantized:
            x = dequantize(x, generator)
        with resting(self):
            with torch.no_grad():
                z = self.posterior(x).rsample(generator=generator)
            if self.eps > 0:
                z = self._attacked(z, generator)
            return -self.log_likelihood(x, z).mean()

    def _attacked(self, z: Tensor, generator: torch.Generator | None) -> Tensor:
        share = rand_like(z[:, 0], generator) if self.mixture else torch.ones_like(z[:, 0])
        search: Search = {"steps": self.steps, "restarts": 1, "generator": generator}
        found = latent.attack(self, z, eps=self.eps * share, distance=lambda a, b: 1 - ssim(a, b), **search)
        return found.adversarial


def adversarial_vae(
    *, eps: float, steps: int = 10, updates: int = 1, mixture: bool = False, likelihood: str = "gaussian", **config
) -> AdversarialVAE:
    """Build a VAE (`config` as for `vae`) that is trained against latent attacks of `eps`, by PGD of `steps` steps.

    `mixture` draws each image's radius uniformly from (0, eps) instead of always taking eps, which document 001 does.
    `eps=0` is the control: as many steps on the decoder, on codes that were not attacked.
    A training step costs about `updates`·(`steps` + 2) passes through the decoder more.
    """
    check_number("eps", eps, "a finite radius ≥ 0", least=0)
    check_counts(steps=steps, updates=updates)
    plain = vae(likelihood=likelihood, **config)
    return AdversarialVAE(eps=eps, steps=steps, updates=updates, mixture=mixture, **plain.parts)
