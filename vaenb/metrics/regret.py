"""Likelihood regrets: what an image's log likelihood gains when q suits it better than the encoder's q(z|x).

likelihood_regret   max_q ELBO(x; q) − ELBO(x; q(z|x)), q diagonal Gaussian   Xiao et al., 2020, 2003.02977
hmc_regret          E_p(z|x)[log p(x, z)] − E_q(z|x)[log p(x, z)]             ours
"""

from functools import partial
from typing import Unpack

import torch
from torch import Tensor

from vaenb.checks import check_model_and_images, check_number, first_of, ordinary
from vaenb.contract import LatentModel, NotDefined, log_joint
from vaenb.distributions import DiagonalGaussian, randn_like
from vaenb.metrics.blocks import BLOCK, in_blocks
from vaenb.metrics.likelihood import check_slope, log_weight
from vaenb.precision import check_precision, no_autocast
from vaenb.sampling.posterior import Schedule, sample_posterior

_FLAT = 1e-2  # nats for each unit of a latent: Adam would follow the rounding of smaller gradients at full speed


@torch.inference_mode(False)
@no_autocast
def likelihood_regret(
    model: LatentModel,
    x: Tensor,
    *,
    steps: int = 100,
    lr: float = 0.2,
    samples: int = 16,
    generator: torch.Generator | None = None,
    chunk: int = 512,
) -> Tensor:
    """Measure by how many nats the ELBO of images x (N, C, H, W) rises when each gets the q that suits it best: (N,).

    q is a diagonal Gaussian whose mean and log-variance start at q(z|x) and make `steps` steps of Adam, each with a
    fresh pair of draws and at a rate that falls linearly from `lr` to 0. `samples` draws, the same before and after,
    measure the rise, slightly negative where there was nothing to gain. `chunk` images are decoded at a time; the draws
    do not depend on it. Raises NotDefined for a posterior that is no DiagonalGaussian.
    """
    check_model_and_images(model, x, steps=steps, samples=samples, chunk=chunk)
    steps, samples = int(steps), int(samples)
    check_number("lr", lr, "a positive learning rate", above=0)
    check_precision("x", x)

    def regret(part: Tensor) -> Tensor:
        with torch.no_grad():
            q = model.posterior(part)
        check_precision("posterior(x)", q.mean)
        if not isinstance(q, DiagonalGaussian):
            raise NotDefined(
                f"likelihood_regret moves the mean and variance of a diagonal Gaussian, not of a {type(q).__name__}; "
                "hmc_regret takes any posterior"
            )
        check_slope(model, part[:2], q.mean[:2])
        noise = [randn_like(q.mean, generator) for _ in range(samples)]
        best = _best_gaussian(model, part, q, steps=steps, lr=lr, generator=generator, chunk=chunk)
        return _elbo(model, part, best, noise, chunk) - _elbo(model, part, q, noise, chunk)

    found = in_blocks(regret, ordinary(x))
    if bad := first_of(~found.isfinite()):
        raise ValueError(f"lr: the ELBO of image(s) {bad} is not finite; try less than {lr}")
    return found


@torch.inference_mode(False)
@no_autocast
def hmc_regret(model: LatentModel, x: Tensor, *, samples: int = 16, **schedule: Unpack[Schedule]) -> Tensor:
    """Measure how much log p(x, z) rises, in the mean, from `samples` draws of q(z|x) to a chain's states: (N,) nats.

    It is log p(x) − ELBO(x) + H[q(z|x)] − H[p(z|x)], negative where q is too narrow. The chains are those of
    `sample_posterior`, which has the other arguments.
    """
    check_model_and_images(model, x, samples=samples)
    check_precision("x", x)
    x = ordinary(x)
    chains = sample_posterior(model, x, **schedule)
    joint = partial(log_joint, model)

    def before(part: Tensor) -> Tensor:
        q, chunk = model.posterior(part), schedule.get("chunk", BLOCK)
        draws = (q.rsample(generator=schedule.get("generator")) for _ in range(samples))
        return torch.stack([in_blocks(joint, part, z, size=chunk) for z in draws]).mean(0)

    with torch.no_grad():
        return chains.log_density.mean(1) - in_blocks(before, x)


def _best_gaussian(
    model: LatentModel,
    x: Tensor,
    q: DiagonalGaussian,
    *,
    steps: int,
    lr: float,
    generator: torch.Generator | None,
    chunk: int,
) -> DiagonalGaussian:
    """Maximise each image's ELBO over q's mean and log-variance."""
    mean, logvar = q.mean.detach().clone(), q.logvar.detach().clone()
    optimizer = torch.optim.Adam([mean, logvar], lr=lr, eps=_FLAT)
    for k in range(steps):
        optimizer.param_groups[0]["lr"] = lr * (1 - k / steps)
        noise = randn_like(mean, generator)
        slopes = []
        for rows in torch.arange(len(x), device=x.device).split(int(chunk)):
            slopes.append(_slopes(model, x[rows], mean[rows], logvar[rows], noise[rows]))
        of_mean, of_logvar = zip(*slopes, strict=True)
        mean.grad, logvar.grad = torch.cat(of_mean), torch.cat(of_logvar)
        optimizer.step()
    return DiagonalGaussian(mean, logvar)


def _slopes(model: LatentModel, x: Tensor, mean: Tensor, logvar: Tensor, noise: Tensor) -> tuple[Tensor, ...]:
    """The negative ELBO's gradient in mean and log-variance, by the pair of draws ±ε.

    log q is taken at fixed parameters, which leaves out a part of the gradient that is zero in the mean (Roeder et al.,
    2017): where q is exact, so is the gradient of every draw, 0.
    """
    fixed = DiagonalGaussian(mean, logvar)
    with torch.enable_grad():  # also where the caller has switched gradients off
        places = mean.detach().requires_grad_(), logvar.detach().requires_grad_()
        moving = DiagonalGaussian(*places)
        there = moving.rsample(noise=noise)
        back = moving.rsample(noise=-noise)
        gained = log_weight(model, x, fixed, there).sum()
        gained = gained + log_weight(model, x, fixed, back).sum()
        return torch.autograd.grad(-gained / 2, places)  # none for the model's own weights


@torch.no_grad()
def _elbo(model: LatentModel, x: Tensor, q: DiagonalGaussian, noise: list[Tensor], chunk: int) -> Tensor:
    def bound(rows: Tensor) -> Tensor:
        some, weights = q[rows], []
        for draw in noise:
            z = some.rsample(noise=draw[rows])
            weights.append(log_weight(model, x[rows], some, z))
        return torch.stack(weights).mean(0)

    return in_blocks(bound, torch.arange(len(x), device=x.device), size=chunk)
