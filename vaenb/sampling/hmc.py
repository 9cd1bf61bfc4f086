"""Hamiltonian Monte Carlo: many chains at once, none of which knows of the others (Neal, 2011).

A chain for log density log p(z) draws a momentum r ~ N(0, I), follows H(z, r) = −log p(z) + ½‖r‖² by `leapfrog_steps`
steps of z ← z + η·s∘r, r ← r + η·s∘∇log p(z) (half of it first and last), and accepts the end with probability
min(1, exp(−ΔH)). η is the chain's own step size, by dual averaging towards an acceptance rate in the warm-up
(Hoffman and Gelman, 2014) and frozen after it; s (D,) its scale, a diagonal mass matrix M = diag(s⁻²).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from vaenb.checks import check_counts, check_gradients, check_latents, check_number, check_whole, first_of, ordinary
from vaenb.distributions import as_rows
from vaenb.precision import check_precision, no_autocast
from vaenb.sampling.adaptation import Adaptation
from vaenb.sampling.chains import ess, split_rhat

LogDensity = Callable[[Tensor, Tensor], Tensor]
"""log_density(z, index) -> (M,): up to a constant, for M latents, where index (M,) says which chains they belong to."""

DIVERGENCE = 1000.0  # an energy error beyond this, as in Stan, says that the leapfrog has lost the trajectory
_BLOCK = 64  # transitions whose noise is drawn together; another number gives other chains
_NO_GRADIENT = "log_density: its value does not depend on z differentiably; HMC needs the gradient"


@dataclass(frozen=True, eq=False)
class Chains:
    """N chains of S kept states in D dimensions, and what they cost."""

    start: Tensor  # (N, D), z0
    samples: Tensor  # (N, S, D), after the warm-up
    log_density: Tensor  # (N, S)
    last: Tensor  # (N, D), the state that each chain ended in, which document 002a uses
    warmup: Tensor  # (N, W, D), the states of the warm-up: the way to the target, not draws from it
    accept_rate: Tensor  # (N,), the mean acceptance probability over the kept transitions
    step_size: Tensor  # (N,)
    scale: Tensor  # (N, D)
    divergences: Tensor  # (N,), kept transitions with an energy error beyond DIVERGENCE, or not finite; all rejected
    seeds: Tensor  # (N,), of the chains' randomness
    gradient_calls: int  # gradients of the log density taken for each chain

    @property
    def path(self) -> Tensor:
        """The start and every state after it, warm-up and kept: (N, 1 + W + S, D)."""
        return torch.cat([self.start[:, None], self.warmup, self.samples], dim=1)

    @property
    def mean(self) -> Tensor:
        """The mean of each chain (N, D)."""
        return self.samples.mean(1)

    def __getitem__(self, index: Any) -> "Chains":
        """Some of the chains; of a number, one chain in the same shapes, N = 1."""
        rows = as_rows(index)
        chosen: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            chosen[field.name] = value[rows] if isinstance(value, Tensor) else value
        return Chains(**chosen)

    @cached_property
    def ess(self) -> Tensor:
        """The effective sample size of each chain's worst dimension (N,)."""
        return ess(self.samples.transpose(1, 2)[:, :, None]).amin(1)

    @cached_property
    def rhat(self) -> Tensor:
        """The split R-hat of each chain's worst dimension (N,)."""
        return split_rhat(self.samples.transpose(1, 2)[:, :, None]).amax(1)


@dataclass(frozen=True, eq=False)
class State:
    """Where chains are, with log density and gradient there: a transition need not compute them again."""

    z: Tensor  # (N, D)
    log_density: Tensor  # (N,)
    gradient: Tensor  # (N, D)


@no_autocast
def sample(
    log_density: LogDensity,
    z0: Tensor,
    *,
    num_samples: int,
    warmup: int,
    leapfrog_steps: int = 10,
    step_size: float | Tensor = 0.1,
    target_accept: float = 0.8,
    jitter: float = 0.5,
    scale: Tensor | None = None,
    adapt_scale: bool = True,
    chunk: int = 64,
    generator: torch.Generator | None = None,
    seeds: Tensor | None = None,
    progress: bool = False,
) -> Chains:
    """Run a chain from every row of `z0` (N, D): `warmup` transitions that adapt, then `num_samples` that are kept.

    `step_size` (a number or (N,)) is where adaptation begins, and what is used when `warmup` is 0. `scale` (D,) or
    (N, D) is the target's rough standard deviation in each dimension, 1 by default (document 002a's unit mass);
    `adapt_scale` learns it in the warm-up. A transition costs `leapfrog_steps` gradients, evaluated for `chunk` chains
    at a time. Each chain has a seed of its own, drawn from `generator` or given as `seeds` (N,): a batch equals its
    chains run alone. A chain that diverges stays where it is and is counted. Raises ValueError for arguments out of
    range and where the density at `z0` is not finite.

    `jitter` varies each transition's step size by up to that share: with a fixed length of trajectory a dimension
    whose period it happens to match would never move.
    """
    check_gradients()
    check_latents(z0, "z0")
    check_precision("z0", z0)
    check_counts(num_samples=num_samples, leapfrog_steps=leapfrog_steps, chunk=chunk)
    check_whole("warmup", warmup, least=0)
    check_number("target_accept", target_accept, "a rate between 0 and 1", above=0, below=1)
    check_number("jitter", jitter, "a share of the step size, from 0 to below 1,", least=0, below=1)
    num_samples, warmup, leapfrog_steps = int(num_samples), int(warmup), int(leapfrog_steps)
    count, dims = z0.shape
    first_step = _positive("step_size", step_size, z0, (count,)).expand(count)
    first_scale = _positive("scale", 1.0 if scale is None else scale, z0, (dims,), (count, dims)).expand_as(z0)
    z0 = ordinary(z0)
    index = torch.arange(len(z0), device=z0.device)
    seeds = _seeds(seeds, generator, len(z0))
    density = value_and_gradient(log_density, index, int(chunk))
    state = start(density, z0)
    noise = _noise(seeds, z0)
    adaptation = Adaptation(first_step, first_scale, warmup, target_accept, adapt_scale)
    history: list[tuple[Tensor, ...]] = []
    transitions = range(warmup + num_samples)
    for k in tqdm(transitions, leave=False, disable=not progress, unit="transition", mininterval=1):
        momentum, uniform, wobble = next(noise)
        step = adaptation.step_size * (1 + jitter * wobble)
        state, probability, divergent = transition(
            density, state, momentum, uniform, step, adaptation.scale, leapfrog_steps
        )
        history.append((state.z, state.log_density, probability, divergent))
        if k < warmup:
            adaptation.update(probability, state.z)
    states, densities, accepted, diverged = (torch.stack(part, 1) for part in zip(*history, strict=True))
    return Chains(
        start=z0,
        samples=states[:, warmup:],
        log_density=densities[:, warmup:],
        last=states[:, -1],
        warmup=states[:, :warmup],
        accept_rate=accepted[:, warmup:].mean(1),
        step_size=adaptation.step_size,
        scale=adaptation.scale.expand_as(z0),
        divergences=diverged[:, warmup:].sum(1),
        seeds=seeds.to(z0.device),
        gradient_calls=1 + leapfrog_steps * len(history),
    )


def value_and_gradient(
    log_density: LogDensity, index: Tensor, chunk: int, *, create_graph: bool = False
) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """Make z (N, D) → (log density (N,), gradient (N, D)), `chunk` chains at a time.

    With `create_graph` both remain differentiable, in z and in whatever the density depends on.
    """

    def part(z: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():  # also where the caller has switched gradients off
            z = z if create_graph and z.requires_grad else z.detach().requires_grad_()
            value = _value(log_density, z, rows)
            (gradient,) = torch.autograd.grad(value.sum(), z, create_graph=create_graph, allow_unused=True)
        if gradient is None:
            raise ValueError(_NO_GRADIENT)
        return (value, gradient) if create_graph else (value.detach(), gradient)

    def whole(z: Tensor) -> tuple[Tensor, Tensor]:
        if len(z) <= chunk:
            return part(z, index)
        values, gradients = [], []
        for some, rows in zip(z.split(chunk), index.split(chunk), strict=True):
            value, gradient = part(some, rows)
            values.append(value)
            gradients.append(gradient)
        return torch.cat(values), torch.cat(gradients)

    return whole


def start(density: Callable, z: Tensor) -> State:
    """Evaluate the density where chains begin; raises ValueError where it is not finite."""
    state = State(z, *density(z))
    finite = state.log_density.isfinite() & state.gradient.isfinite().all(1)
    if bad := first_of(~finite):
        raise ValueError(f"log_density: NaN or infinite (it or its gradient) at z0 of chain(s) {bad}")
    return state


def transition(
    density: Callable,
    state: State,
    momentum: Tensor,
    uniform: Tensor,
    step_size: Tensor,
    scale: Tensor,
    leapfrog_steps: int,
) -> tuple[State, Tensor, Tensor]:
    """Make one transition of every chain: its new state, acceptance probability (N,), and whether it diverged (N,).

    `momentum` (N, D) is N(0, I) and `uniform` (N,) in [0, 1). A chain that rejects keeps its current state.
    """
    end, momentum_end = leapfrog(density, state, momentum, step_size, scale, leapfrog_steps)
    energy = _energy(state, momentum).detach()
    energy_end = _energy(end, momentum_end).detach()
    error = torch.where(energy_end.isfinite(), energy_end - energy, math.inf)
    probability = (-error).clamp_max(0).exp()
    accept = uniform < probability
    chosen = State(
        torch.where(accept[:, None], end.z, state.z),
        torch.where(accept, end.log_density, state.log_density),
        torch.where(accept[:, None], end.gradient, state.gradient),
    )
    return chosen, probability, error > DIVERGENCE


def leapfrog(
    density: Callable, state: State, momentum: Tensor, step_size: Tensor, scale: Tensor, leapfrog_steps: int
) -> tuple[State, Tensor]:
    """Follow Hamilton's equations for `leapfrog_steps` steps, a gradient each: the end state and momentum (N, D)."""
    stride = step_size[:, None] * scale
    momentum = momentum + 0.5 * stride * state.gradient
    for k in range(leapfrog_steps):
        z = state.z + stride * momentum
        # Where this overflows, so does the energy, and the end is rejected: densities only ever see finite latents.
        z = torch.where(z.isfinite(), z, state.z)
        state = State(z, *density(z))
        momentum = momentum + (1.0 if k < leapfrog_steps - 1 else 0.5) * stride * state.gradient
    return state, momentum


def _energy(state: State, momentum: Tensor) -> Tensor:
    return 0.5 * (momentum**2).sum(1) - state.log_density


def _noise(seeds: Tensor, like: Tensor):
    """Yield each transition's momentum (N, D) and uniform number (N,), every chain's from a generator of its own."""
    generators = [torch.Generator().manual_seed(seed) for seed in seeds.tolist()]
    dims, dtype = like.shape[1], like.dtype
    while True:
        momenta = torch.stack([torch.randn(_BLOCK, dims, generator=g, dtype=dtype) for g in generators], 1)
        uniforms = torch.stack([torch.rand(2, _BLOCK, generator=g, dtype=dtype) for g in generators], 2)
        accept, wobble = uniforms.to(like.device)
        yield from zip(momenta.to(like.device), accept, 2 * wobble - 1, strict=True)


def _seeds(seeds: Tensor | None, generator: torch.Generator | None, count: int) -> Tensor:
    if seeds is None:
        home = generator.device if generator else None
        return torch.randint(2**62, (count,), generator=generator, device=home).cpu()
    if not isinstance(seeds, Tensor) or seeds.shape != (count,) or seeds.is_floating_point():
        raise ValueError(f"seeds: a tensor of whole numbers ({count},), one for each chain, expected, got {seeds!r}")
    return seeds.cpu()


def _value(log_density: LogDensity, z: Tensor, rows: Tensor) -> Tensor:
    """Evaluate a user's density: one value a chain, that depends on z."""
    value = log_density(z, rows)
    if not isinstance(value, Tensor) or value.shape != rows.shape:
        got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(f"log_density: one value for each chain, {tuple(rows.shape)}, expected, got {got}")
    if not value.requires_grad:
        raise ValueError(_NO_GRADIENT)
    return value


def _positive(name: str, value: float | Tensor, like: Tensor, *shapes: tuple[int, ...]) -> Tensor:
    """Refuse what is not positive, a number or of one of the shapes; give it as a tensor like `like`."""
    wanted = " or ".join(["a number", *map(str, shapes)])
    expected = f"{name}: positive, {wanted}, expected, got"
    try:
        given = torch.as_tensor(value, dtype=like.dtype, device=like.device).detach()
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"{expected} {value!r}") from None
    if given.shape not in ((), *shapes):
        raise ValueError(f"{expected} shape {tuple(given.shape)}")
    fine = given.isfinite() & (given > 0)
    if not fine.all():
        raise ValueError(f"{expected} {given[~fine].flatten()[0]:.3g}")
    return given
