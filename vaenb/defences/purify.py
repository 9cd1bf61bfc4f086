"""Cleaning an image before a classifier sees it: a VAE that knows the data takes off what does not belong to them.

`passes` decodes codes of the image (document 000; MagNet, Meng and Chen, 2017). `elbo_ascent` moves the image itself,
within a ball, to where the model finds it likelier (PixelDefend, Song et al., 2018, with the ELBO for the density).
`diffused` adds a diffusion model's noise and walks back (DiffPure, Nie et al., 2022), with document 002b's denoiser
in one step. `defended` puts a classifier behind a cleaner and `Cleaned` a LatentModel, for an attacker who knows it to
differentiate through: at random cleaners over the mean of several draws (EOT), at others with `straight_through`
(BPDA; both Athalye et al., 2018).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Unpack

import torch
from torch import Tensor

from vaenb.attacks.pgd import Search, pgd
from vaenb.checks import (
    check_classifier,
    check_counts,
    check_decoded,
    check_images,
    check_model,
    check_model_and_images,
    check_posterior,
    check_rest,
    evaluating,
)
from vaenb.contract import LatentModel, Posterior
from vaenb.models.classifier import logits
from vaenb.models.diffusion import DDGM, Sampler

Cleaner = Callable[[Tensor], Tensor]
"""clean(x) -> images (N, C, H, W) in [0, 1]; a random one draws anew at every call."""


@evaluating("model")
def passes(model: LatentModel, x: Tensor, *, samples: int = 1, generator: torch.Generator | None = None) -> Tensor:
    """The mean of `samples` reconstructions of images x from draws z ~ q(z|x): (N, C, H, W), differentiable in x."""
    check_model(model)
    check_images(x)
    check_counts(samples=samples)
    x = x.clone() if x.is_inference() else x
    posterior = model.posterior(x)
    check_posterior(posterior, len(x))  # what came is looked at: an attack calls this at every step
    images = [model.decode(posterior.rsample(generator=generator)) for _ in range(samples)]
    check_decoded(images[0], x)
    return sum(images, start=torch.zeros_like(x)) / samples


def elbo_ascent(
    model: LatentModel,
    x: Tensor,
    *,
    eps: float,
    steps: int = 20,
    samples: int = 4,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Move every pixel of images x by at most `eps`, in [0, 1], to raise the ELBO of `model`: (N, C, H, W).

    Steps go along the gradient's sign (`pgd`), each estimated with `samples` draws of z ~ q(z|x). With a Bernoulli
    likelihood ∇ₓ log p(x|z) is the logit of the mean image, so that pixels are pushed to black or white: hold it
    against a plain threshold.
    """
    check_model_and_images(model, x, samples=samples)

    def negative_elbo(x: Tensor, index: Tensor) -> Tensor:
        posterior = model.posterior(x)
        draws = [posterior.rsample(generator=generator) for _ in range(samples)]
        terms = [posterior.log_prob(z) - model.log_prior(z) - model.log_likelihood(x, z) for z in draws]
        return torch.stack(terms).mean(0)

    search: Search = {"norm": "linf", "steps": steps, "random_start": False}
    return pgd(negative_elbo, x, eps=eps, clip=(0.0, 1.0), targeted=True, **search).adversarial


def diffused(model: DDGM, x: Tensor, t: int | None = None, *, noise: bool = True, **sampler: Unpack[Sampler]) -> Tensor:
    """Add the noise of step `t` to images x and walk back: images (N, C, S, S) in [0, 1], differentiable in x.

    A `denoiser` has one step and needs no t. Without `noise` the image is only dimmed to √ᾱ_t (2x − 1), as the step's
    mean is: with one call of the network (`evaluations`), or at `eta` 0, nothing random is left. Where the result is
    clipped to black or white the gradient is 0: attack it with `straight_through`, too. Other arguments (`evaluations`,
    `eta`, `generator`): `DDGM.reverse`.
    """
    if not isinstance(model, DDGM):
        got = type(model).__name__
        raise TypeError(f"model: a DDGM, such as a denoiser or the `ddgm` of a DAED, expected, got {got}")
    check_rest(model, "model")
    if t is None and model.steps > 1:
        raise ValueError(f"t: the step to add noise up to, 1 to {model.steps}, expected for a model of several steps")
    t = 1 if t is None else t
    x = x.clone() if x.is_inference() else x
    x_t = model.noised(x, t, generator=sampler.get("generator")) if noise else model.dimmed(x, t)
    return model.denoise(x_t, t, **sampler)


@dataclass(frozen=True)
class Cleaned:
    """A LatentModel that cleans images before it encodes them, and after it has decoded them."""

    model: LatentModel
    clean: Cleaner

    def posterior(self, x: Tensor) -> Posterior:
        return self.model.posterior(self.clean(x))

    def decode(self, z: Tensor) -> Tensor:
        return self.clean(self.model.decode(z))

    def log_prior(self, z: Tensor) -> Tensor:
        return self.model.log_prior(z)

    def log_likelihood(self, x: Tensor, z: Tensor) -> Tensor:
        """log p(x|z) of the model itself, x as it comes and the mean image not cleaned: (N,)."""
        return self.model.log_likelihood(x, z)


def defended(classifier: Callable[[Tensor], Tensor], clean: Cleaner, *, draws: int = 1) -> Callable[[Tensor], Tensor]:
    """Put `classifier` behind `clean`: images to log mean probabilities over `draws` cleanings (N, K).

    Its cross-entropy is the loss of an attacker who averages over the cleaner's randomness; attack it as any
    classifier. A cleaner that detaches gives no gradient: see `straight_through`.
    """
    check_classifier(classifier)
    check_counts(draws=draws)

    def classify(x: Tensor) -> Tensor:
        each = [logits(classifier, clean(x)).log_softmax(1) for _ in range(draws)]
        return torch.stack(each).logsumexp(0) - math.log(draws)

    return classify


def straight_through(clean: Cleaner, *, like: Cleaner | None = None) -> Cleaner:
    """Give a cleaner the gradient of the identity, or of `like`: what an attacker does where there is none of use."""

    def cleaned(x: Tensor) -> Tensor:
        if not torch.is_grad_enabled():
            return clean(x)
        smooth = x if like is None else like(x)
        return smooth + (clean(x.detach()) - smooth).detach()

    return cleaned
