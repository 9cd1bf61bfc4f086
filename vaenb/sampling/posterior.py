"""The posterior that an image deserves, p(z|x) ∝ p(z) p(x|z), sampled from where the encoder put the image."""

from typing import TypedDict

import torch
from torch import Tensor

from vaenb.checks import check_images, check_model
from vaenb.contract import LatentModel
from vaenb.sampling.hmc import Chains, LogDensity, sample


class Schedule(TypedDict, total=False):
    """What `sample_posterior` and the HMC defence take beside a model and images; see `hmc.sample`."""

    num_samples: int
    warmup: int
    leapfrog_steps: int
    step_size: float | Tensor
    target_accept: float
    jitter: float
    unit_mass: bool
    chunk: int
    generator: torch.Generator | None
    progress: bool


def posterior_density(model: LatentModel, x: Tensor) -> LogDensity:
    """Build log p(z) + log p(x|z) = log p(z|x) + log p(x): the posterior that images x (N, C, H, W) deserve."""
    check_model(model)
    check_images(x)
    return lambda z, index: model.log_prior(z) + model.log_likelihood(x[index], z)


def sample_posterior(
    model: LatentModel,
    x: Tensor,
    *,
    num_samples: int = 20,
    warmup: int = 40,
    leapfrog_steps: int = 5,
    step_size: float | Tensor = 0.1,
    target_accept: float = 0.8,
    jitter: float = 0.5,
    unit_mass: bool = False,
    chunk: int = 64,
    generator: torch.Generator | None = None,
    progress: bool = False,
) -> Chains:
    """Sample p(z|x) of images x (N, C, H, W) by HMC from z₀ ~ q(z|x).

    The chains begin at the scale of q(z|x) and adapt it; with `unit_mass` they do neither. Other arguments: see
    `hmc.sample`.
    """
    density = posterior_density(model, x)
    with torch.no_grad():
        posterior = [model.posterior(part) for part in x.split(512)]
        z0 = torch.cat([q.rsample(generator=generator) for q in posterior])
        stddev = torch.cat([q.stddev for q in posterior])
        model.log_prior(z0[:1])  # a model without one says so, before its stddev of 0 is refused as a scale
    if not unit_mass and not (stddev > 0).all():
        raise ValueError("model: posterior(x).stddev > 0 expected, where the chains' scale begins; or use unit_mass")
    return sample(
        density,
        z0,
        num_samples=num_samples,
        warmup=warmup,
        leapfrog_steps=leapfrog_steps,
        step_size=step_size,
        target_accept=target_accept,
        jitter=jitter,
        scale=None if unit_mass else stddev,
        adapt_scale=not unit_mass,
        chunk=chunk,
        generator=generator,
        progress=progress,
    )
