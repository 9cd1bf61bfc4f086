"""The posterior that an image deserves, p(z|x) ∝ p(z) p(x|z), sampled from where the encoder put the image."""

from typing import TypedDict, Unpack

import torch
from torch import Tensor

from vaenb.checks import check_each, check_model_and_images, ordinary
from vaenb.contract import LatentModel
from vaenb.precision import no_autocast
from vaenb.sampling.hmc import Chains, LogDensity, sample


class Schedule(TypedDict, total=False):
    """How chains run: see `hmc.sample`."""

    num_samples: int
    warmup: int
    leapfrog_steps: int
    step_size: float | Tensor
    target_accept: float
    jitter: float
    chunk: int
    generator: torch.Generator | None
    progress: bool


class PosteriorSchedule(Schedule, total=False):
    """How chains on a posterior run: see `sample_posterior`."""

    unit_mass: bool


SHORT: Schedule = {"num_samples": 20, "warmup": 40, "leapfrog_steps": 5}  # 301 gradients


def posterior_density(model: LatentModel, x: Tensor) -> LogDensity:
    """Build log p(z) + log p(x|z) = log p(z|x) + log p(x): the posterior that images x (N, C, H, W) deserve."""
    check_model_and_images(model, x)
    return _log_joint(model, ordinary(x))


def _log_joint(model: LatentModel, x: Tensor) -> LogDensity:
    def log_joint(z: Tensor, index: Tensor) -> Tensor:
        prior = model.log_prior(z)
        likelihood = model.log_likelihood(x[index], z)
        check_each(prior, "log_prior", len(z))  # a sum over the batch would be added to every chain
        check_each(likelihood, "log_likelihood", len(z))
        if z.requires_grad and not likelihood.requires_grad:  # the prior alone would lead the chains
            raise ValueError("log_likelihood: HMC needs its gradient in z; take torch.no_grad() or .detach() out of it")
        return prior + likelihood

    return log_joint


@no_autocast
def sample_posterior(model: LatentModel, x: Tensor, *, unit_mass: bool = False, **schedule: Unpack[Schedule]) -> Chains:
    """Sample p(z|x) of images x (N, C, H, W) by HMC from z₀ ~ q(z|x).

    The chains begin at the scale of q(z|x) and adapt it; with `unit_mass` they do neither, as in document 002a. The
    schedule is SHORT where it is not given; see `hmc.sample` for the rest of it. Raises ValueError where q(z|x) is a
    point.
    """
    check_model_and_images(model, x)
    density = _log_joint(model, ordinary(x))
    chosen = SHORT | schedule
    with torch.no_grad():
        posterior = [model.posterior(part) for part in x.split(512)]
        z0 = torch.cat([q.rsample(generator=chosen.get("generator")) for q in posterior])
        stddev = torch.cat([q.stddev for q in posterior])
        model.log_prior(z0[:1])  # a model without one says so, before its stddev of 0 is refused as a scale
    if unit_mass:
        return sample(density, z0, adapt_scale=False, **chosen)
    if not (stddev > 0).all():
        raise ValueError("model: posterior(x).stddev > 0 expected, where the chains' scale begins; or use unit_mass")
    return sample(density, z0, scale=stddev, **chosen)
