"""Lower bounds on log p(x), per image and in nats, for any LatentModel.

With log weights w_k = log p(x|z_k) + log p(z_k) − log q(z_k|x), z_k ~ q(z|x): the ELBO is E[w], and the importance
weighted bound log mean exp(w_k) (Burda et al., 2016) lies between the ELBO and log p(x), rising with K. Annealed
importance sampling (Neal, 2001) lets the z_k wander from q(z|x) to p(z|x) while the weights are collected.
"""

import math
from numbers import Integral

import torch
from torch import Tensor

from vaenb.checks import check_images, check_model
from vaenb.contract import LatentModel
from vaenb.distributions import rand_like, randn_like
from vaenb.sampling.hmc import State, start, transition, value_and_gradient

_PILOT = 4  # chains that find the step sizes of AIS
_ACCEPT = 0.8  # the acceptance rate that they aim at


def elbo(model: LatentModel, x: Tensor, *, samples: int = 16, generator: torch.Generator | None = None) -> Tensor:
    """Estimate the ELBO at β = 1 of images x (N, C, H, W) by `samples` draws from the posterior: (N,) nats."""
    return _log_weights(model, x, samples, generator).mean(0)


def iwae(model: LatentModel, x: Tensor, *, samples: int = 64, generator: torch.Generator | None = None) -> Tensor:
    """Estimate log p(x) from below by the importance weighted bound with `samples` draws: (N,) nats."""
    return _log_weights(model, x, samples, generator).logsumexp(0) - math.log(samples)


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
    The mean weight is unbiased for p(x), so its log is below log p(x) in expectation (by Markov's inequality it
    exceeds it by b nats with a probability of at most e^−b). That holds because the step sizes, which begin at
    `step_size` in units of q's standard deviation, are learnt for each image and temperature by a pilot run and
    frozen in the measured one. An image costs about (chains + 4) · (temperatures − 1) · (leapfrog_steps + 1) gradients;
    `chunk` is the number of latents decoded at a time.
    """
    check_model(model)
    check_images(x)
    counts = {"chains": (chains, 1), "temperatures": (temperatures, 2), "leapfrog_steps": (leapfrog_steps, 1)}
    for name, (value, least) in (counts | {"chunk": (chunk, 1)}).items():
        if not isinstance(value, Integral) or value < least:
            raise ValueError(f"{name}: a whole number ≥ {least} expected, got {value!r}")
    if not 0 < step_size < math.inf:
        raise ValueError(f"step_size: a positive number expected, got {step_size!r}")
    schedule = torch.linspace(0, 1, temperatures, dtype=torch.float64).tolist()

    def evidence(part: Tensor) -> Tensor:
        run = {"leapfrog_steps": leapfrog_steps, "chunk": chunk, "generator": generator}
        begin = torch.full((len(part),), step_size, dtype=x.dtype, device=x.device)
        _, steps = _anneal(model, part, schedule, [begin], chains=_PILOT, learn=True, **run)
        weights, _ = _anneal(model, part, schedule, steps, chains=chains, learn=False, **run)
        return weights.logsumexp(1) - math.log(chains)

    return torch.cat([evidence(part) for part in x.split(max(1, chunk // chains))]).to(x.dtype)


@torch.no_grad()
def shortfall(model: LatentModel, x: Tensor, target: Tensor) -> Tensor:
    """Compute log p(x_t|z_t) − log p(x_t|z) for images x and targets x_t, both (N, C, H, W): (N,) nats.

    z and z_t are the posterior means of x and of x_t. It is what an attacked image's code explains of its target less
    than the target's own code does (document 003's −log p(x_t|z*) without its floor): larger is more robust, 0 is
    lost, and a model that tells x from x_t in no way has nothing to lose. It is negative where the attacked code
    explains the target better than the encoder's own, which is not the best one.
    """
    check_model(model)
    check_images(x)
    check_images(target, "target")
    if x.shape != target.shape:
        raise ValueError(f"target: images of the shape of x, {tuple(x.shape)}, expected, got {tuple(target.shape)}")

    def explained(images: Tensor, goal: Tensor) -> Tensor:
        return model.log_likelihood(goal, model.posterior(images).mean)

    pairs = zip(x.split(512), target.split(512), strict=True)
    return torch.cat([explained(goal, goal) - explained(part, goal) for part, goal in pairs])


def bits_per_dim(nats: Tensor, x: Tensor, *, levels: int = 1) -> Tensor:
    """Convert a log likelihood in nats (N,) of images x (N, C, H, W) to bits per dimension: −nats / (C·H·W·log 2).

    A density on [0, 1] knows no grey levels; with `levels` = 256 the result, log₂ 256 higher, is in bits per pixel of 8
    bits, as a discrete family's is with 1 (of dequantised images it is no less than the discrete one's).
    """
    check_images(x)
    if not isinstance(nats, Tensor) or nats.shape != (len(x),):
        got = tuple(nats.shape) if isinstance(nats, Tensor) else type(nats).__name__
        raise ValueError(f"nats: one number for each of the {len(x)} images expected, got {got}")
    if not isinstance(levels, Integral) or levels < 1:
        raise ValueError(f"levels: a number of grey levels ≥ 1 expected, got {levels!r}")
    return math.log2(levels) - nats / (x[0].numel() * math.log(2))


@torch.no_grad()
def _log_weights(model: LatentModel, x: Tensor, samples: int, generator: torch.Generator | None) -> Tensor:
    check_model(model)
    check_images(x)
    if not isinstance(samples, Integral) or samples < 1:
        raise ValueError(f"samples: a whole number ≥ 1 expected, got {samples!r}")

    def weights(part: Tensor) -> Tensor:
        posterior = model.posterior(part)
        draws = (posterior.rsample(generator=generator) for _ in range(samples))
        return torch.stack([model.log_likelihood(part, z) + model.log_prior(z) - posterior.log_prob(z) for z in draws])

    return torch.cat([weights(part) for part in x.split(512)], dim=1)


def _anneal(
    model, x: Tensor, schedule: list[float], steps: list[Tensor], *, leapfrog_steps, chains, learn, chunk, generator
) -> tuple[Tensor, list[Tensor]]:
    """Log weights (N, chains) of annealed chains, and each image's step size (N,) at each temperature.

    With `learn`, `steps` holds the first temperature's, and each later one is moved towards the wanted acceptance.
    """
    x, steps = x.repeat_interleave(chains, 0), list(steps)
    index = torch.arange(len(x), device=x.device)
    with torch.no_grad():
        posterior = model.posterior(x)
        z = posterior.rsample(generator=generator)

    def at(t: float):
        def density(z: Tensor, i: Tensor) -> Tensor:
            return (1 - t) * posterior[i].log_prob(z) + t * (model.log_prior(z) + model.log_likelihood(x[i], z))

        return value_and_gradient(density, index, chunk)

    state = start(at(schedule[0]), z)
    weights = torch.zeros_like(state.log_density, dtype=torch.float64)
    for k, t in enumerate(schedule[1:]):
        density = at(t)
        here = State(state.z, *density(state.z))
        weights += here.log_density.double() - state.log_density.double()
        if t == schedule[-1]:  # what comes after the last weight does not count
            break
        momentum, (uniform, wobble) = randn_like(z, generator), rand_like(z.new_empty(2, len(z)), generator)
        stride = steps[k].repeat_interleave(chains) * (0.5 + wobble)  # or a whole period would bring a chain nowhere
        state, probability, _ = transition(density, here, momentum, uniform, stride, posterior.stddev, leapfrog_steps)
        if learn:
            steps.append(steps[k] * (0.5 * (probability.view(-1, chains).mean(1) - _ACCEPT)).exp())
    return weights.view(-1, chains), steps
