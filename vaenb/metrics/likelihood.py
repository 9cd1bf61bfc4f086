"""Lower bounds on log p(x), per image and in nats, for any LatentModel.

With log weights w_k = log p(x|z_k) + log p(z_k) − log q(z_k|x), z_k ~ q(z|x): the ELBO is E[w], and the importance
weighted bound log mean exp(w_k) (Burda et al., 2016) lies between the ELBO and log p(x), rising with K. Annealed
importance sampling (Neal, 2001) lets the z_k wander from q(z|x) to p(z|x) while the weights are collected.

Terms are added in float32 at least. Those of a half-precision model stay as coarse as it gives them: at −600 nats a
bfloat16 is a multiple of 4. AIS, and whatever compares likelihoods, refuses it.
"""

import math
from functools import partial

import torch
from torch import Tensor

from vaenb.checks import check_images, check_model_and_images, check_nats, check_number, check_shape, check_whole
from vaenb.contract import LatentModel, Posterior
from vaenb.distributions import rand_like, randn_like
from vaenb.metrics.blocks import BLOCK, in_blocks
from vaenb.precision import check_precision, no_autocast, widened
from vaenb.sampling.hmc import State, start, transition, value_and_gradient

_PILOT = 4  # chains that find the step sizes of AIS
_ACCEPT = 0.8  # the acceptance rate that they aim at


def elbo(model: LatentModel, x: Tensor, *, samples: int = 16, generator: torch.Generator | None = None) -> Tensor:
    """Estimate the ELBO at β = 1 of images x (N, C, H, W) by `samples` draws from the posterior: (N,) nats."""
    return _drawn_weights(model, x, samples, generator).mean(0)


def iwae(model: LatentModel, x: Tensor, *, samples: int = 64, generator: torch.Generator | None = None) -> Tensor:
    """Estimate log p(x) from below by the importance weighted bound with `samples` draws: (N,) nats."""
    return _drawn_weights(model, x, samples, generator).logsumexp(0) - math.log(samples)


@torch.inference_mode(False)
@no_autocast
def ais(
    model: LatentModel,
    x: Tensor,
    *,
    chains: int = 16,
    temperatures: int = 50,
    leapfrog_steps: int = 3,
    step_size: float = 0.5,
    chunk: int = 512,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Estimate log p(x) of images x (N, C, H, W) by annealed importance sampling with `chains` chains: (N,) nats.

    A chain starts at q(z|x), makes one HMC transition at each of the densities q^(1−t) (p(z)p(x|z))^t with t from 0
    to 1 in equal steps, and collects its weight on the way; 2 temperatures are the importance weighted bound.
    The mean weight is unbiased for p(x), so its log is below log p(x) in expectation, because the step sizes, which
    begin at `step_size` standard deviations of q, are learnt by a pilot run and frozen in the measured one. An image
    costs about (chains + 4) · (temperatures − 1) · (leapfrog_steps + 1) gradients, `chunk` latents at a time.
    """
    check_model_and_images(model, x, chains=chains, leapfrog_steps=leapfrog_steps, chunk=chunk)
    check_whole("temperatures", temperatures, least=2)
    check_number("step_size", step_size, "a positive number", above=0)
    check_precision("x", x)
    chains, temperatures, chunk = int(chains), int(temperatures), int(chunk)
    schedule = torch.linspace(0, 1, temperatures, dtype=torch.float64).tolist()
    anneal = partial(_anneal, model, schedule=schedule, leapfrog_steps=leapfrog_steps, chunk=chunk, generator=generator)

    def evidence(part: Tensor) -> Tensor:
        begin = torch.full((len(part),), step_size, dtype=x.dtype, device=x.device)
        _, learnt = anneal(part, steps=[begin], chains=_PILOT, learn=True)
        weights, _ = anneal(part, steps=learnt, chains=chains, learn=False)
        return weights.logsumexp(1) - math.log(chains)

    return in_blocks(evidence, x, size=max(1, chunk // chains)).to(x.dtype)


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
        raise ValueError(
            "log_likelihood: its gradient in z is needed; take torch.no_grad(), .detach() or .data out of it"
        )


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


def _anneal(
    model: LatentModel,
    x: Tensor,
    *,
    schedule: list[float],
    steps: list[Tensor],
    chains: int,
    learn: bool,
    leapfrog_steps: int,
    chunk: int,
    generator: torch.Generator | None,
) -> tuple[Tensor, list[Tensor]]:
    """Log weights (N, chains) of annealed chains, and each image's step size (N,) at each temperature.

    With `learn`, `steps` holds the first temperature's, and each later one is moved towards the wanted acceptance.
    """
    x = x.repeat_interleave(chains, 0)
    index = torch.arange(len(x), device=x.device)
    with torch.no_grad():
        posterior = model.posterior(x)
        z = posterior.rsample(generator=generator)
    check_slope(model, x[:2], z[:2])

    def at(t: float):
        def density(z: Tensor, i: Tensor) -> Tensor:
            begin = posterior[i].log_prob(z)
            end = model.log_prior(z) + model.log_likelihood(x[i], z)
            return (1 - t) * begin + t * end

        return value_and_gradient(density, index, chunk)

    steps = list(steps)
    state = start(at(schedule[0]), z)
    weights = torch.zeros_like(state.log_density, dtype=torch.float64)
    for k, t in enumerate(schedule[1:]):
        density = at(t)
        here = State(state.z, *density(state.z))
        weights += here.log_density.double() - state.log_density.double()
        if t == schedule[-1]:  # what comes after the last weight does not count
            break
        momentum = randn_like(z, generator)
        uniform, wobble = rand_like(z.new_empty(2, len(z)), generator)
        stride = steps[k].repeat_interleave(chains) * (0.5 + wobble)  # or a whole period would bring a chain nowhere
        state, probability, _ = transition(density, here, momentum, uniform, stride, posterior.stddev, leapfrog_steps)
        if learn:
            accepted = probability.view(-1, chains).mean(1)
            steps.append(steps[k] * (0.5 * (accepted - _ACCEPT)).exp())
    return weights.view(-1, chains), steps
