"""Attackers who know document 002a's defence: that codes are moved by HMC on p(z|x') before they are used.

`attack` climbs E[loss(z_T)], where z_T ends a short chain from z₀ ~ q(z|x') on log p(z) + log p(x'|z), averaged over
several chains whose randomness is held fixed (expectation over transformations, Athalye et al., 2018). Its methods
differ in the gradient: `unrolled` is exact, through every leapfrog step at the accepts that happened; `bpda` takes the
chain for the identity backwards; `spsa` only looks at outputs (Spall, 1992; Uesato et al., 2018). `posterior_tilt`
needs no chain: it makes another code likelier than the image's own. An attack that is blind to the defence and
transferred to it is `encoder.attack`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from vaenb.attacks import pgd as engine
from vaenb.attacks.pgd import AttackResult, LossFn, _loss_and_gradient, _per_row, _rows
from vaenb.checks import check_counts, check_gradients, check_images, check_latents, check_model
from vaenb.contract import LatentModel
from vaenb.distributions import rand_like, randn_like
from vaenb.sampling import hmc

METHODS = ("unrolled", "bpda", "spsa")


def attack(
    model: LatentModel,
    x: Tensor,
    loss: LossFn,
    *,
    eps: float | Tensor,
    defence: hmc.Chains,
    method: str = "unrolled",
    transitions: int = 10,
    leapfrog_steps: int = 5,
    draws: int = 10,
    probes: int = 4,
    norm: str = "linf",
    steps: int = 40,
    alpha: float | Tensor | None = None,
    restarts: int = 2,
    generator: torch.Generator | None = None,
    chunk: int = 64,
) -> AttackResult:
    """Attack images x (N, C, H, W) so that `loss(z, index)` (M,) of their *defended* codes z (M, D) grows.

    `defence` is what `hmc.repair` gave for the clean images: the attacker's chains use its step sizes and scales, for
    `transitions` transitions of `leapfrog_steps`; `draws` chains are averaged. `spsa` takes `probes` pairs of
    evaluations a gradient, which `gradient_calls` counts as one, and draws them anew at every step, so that its result
    hangs on `chunk`: so many chains run at a time, and no fewer than `draws`. Judge the result with `hmc.repair` and
    fresh randomness; unlike its chains, the attacker's have no jitter. Other arguments: see `pgd`.
    """
    loss_fn = objective(
        model,
        x,
        loss,
        defence=defence,
        method=method,
        transitions=transitions,
        leapfrog_steps=leapfrog_steps,
        draws=draws,
        probes=probes,
        generator=generator,
    )
    return engine.pgd(
        loss_fn,
        x,
        eps=eps,
        alpha=alpha,
        steps=steps,
        norm=norm,
        clip=(0.0, 1.0),
        restarts=restarts,
        generator=generator,
        chunk=max(1, chunk // draws),
    )


def objective(
    model: LatentModel,
    x: Tensor,
    loss: LossFn,
    *,
    defence: hmc.Chains,
    method: str,
    transitions: int,
    leapfrog_steps: int,
    draws: int,
    probes: int = 4,
    generator: torch.Generator | None = None,
) -> LossFn:
    """Build E[loss(z_T)] for candidates x' with the gradient of `method`, at randomness drawn here once."""
    check_model(model)
    check_images(x)
    shape = len(x), model.posterior(x[:1]).mean.shape[1]
    _check(method, defence, shape, transitions=transitions, leapfrog_steps=leapfrog_steps, draws=draws, probes=probes)
    noise = _Noise.draw(defence, transitions, draws, generator)
    chain = partial(_defended_codes, model, noise=noise, defence=defence, leapfrog_steps=leapfrog_steps)

    def expected(x_adv: Tensor, index: Tensor, gradient: str) -> Tensor:
        z = chain(x_adv, index, gradient=gradient)  # (draws·M, D)
        return loss(z, index.repeat(draws)).view(draws, -1).mean(0)

    if method != "spsa":
        return lambda x_adv, index: expected(x_adv, index, method)
    return lambda x_adv, index: _spsa(partial(expected, gradient="none"), x_adv, index, probes, generator)


@dataclass(frozen=True, eq=False)
class _Noise:
    """All randomness of the attacker's chains: for T transitions of `draws` chains of each of N images."""

    start: Tensor  # (draws, N, D)
    momenta: Tensor  # (T, draws, N, D)
    uniforms: Tensor  # (T, draws, N)

    @classmethod
    def draw(cls, defence: hmc.Chains, transitions: int, draws: int, generator: torch.Generator | None) -> "_Noise":
        like = defence.last.expand(transitions, draws, *defence.last.shape)
        return cls(randn_like(like[0], generator), randn_like(like, generator), rand_like(like[..., 0], generator))


def _defended_codes(
    model: LatentModel,
    x_adv: Tensor,
    index: Tensor,
    *,
    noise: _Noise,
    defence: hmc.Chains,
    leapfrog_steps: int,
    gradient: str = "unrolled",
) -> Tensor:
    """Run the attacker's chains on p(z|x_adv): their last states (draws·M, D), the draws of all candidates in turn.

    `gradient` says what is differentiable in `x_adv` (M, C, H, W): unrolled, bpda (the start alone) or none.
    """
    draws, exact = len(noise.start), gradient == "unrolled" and torch.is_grad_enabled()
    posterior = model.posterior(x_adv)
    start = torch.cat([posterior.rsample(noise=fixed) for fixed in noise.start[:, index]])
    seen, rows = x_adv.repeat(draws, *[1] * (x_adv.ndim - 1)), index.repeat(draws)
    step_size, scale = defence.step_size[rows], defence.scale[rows]

    def density(x: Tensor) -> Callable:
        log_joint = lambda z, rows: model.log_prior(z) + model.log_likelihood(x[rows], z)  # noqa: E731
        return hmc.value_and_gradient(log_joint, torch.arange(len(x), device=x.device), len(x), create_graph=exact)

    def move(x, momentum, uniform, step_size, *state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        end, _, _ = hmc.transition(density(x), hmc.State(*state), momentum, uniform, step_size, scale, leapfrog_steps)
        return end.z, end.log_density, end.gradient

    def differentiable(x, momentum, uniform, step_size, *state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """A transition whose graph is made again on the way back: memory for one, not for all.

        A chain that will reject takes steps of length 0 instead, for the gradient through a trajectory that has blown
        up is NaN, though what is chosen is the state before it.
        """
        with torch.no_grad():
            end, *_ = move(x.detach(), momentum, uniform, step_size, *(part.detach() for part in state))
            accepted = (end != state[0]).any(1)
        step_size = torch.where(accepted, step_size, 0)
        return checkpoint(move, x, momentum, uniform, step_size, *state, use_reentrant=False, preserve_rng_state=False)

    with torch.set_grad_enabled(exact):
        z = start if exact else start.detach()
        state = (z, *density(seen)(z))
        for momenta, uniforms in zip(noise.momenta, noise.uniforms, strict=True):
            given = seen, momenta[:, index].flatten(0, 1), uniforms[:, index].flatten(), step_size
            state = (differentiable if exact else move)(*given, *state)
    return start + (state[0] - start).detach() if gradient == "bpda" else state[0]


def _spsa(value: LossFn, x_adv: Tensor, index: Tensor, probes: int, generator: torch.Generator | None) -> Tensor:
    """Give `value` at x_adv a gradient from pairs of evaluations at x_adv ± c·d, d random signs."""
    with torch.no_grad():
        if not x_adv.requires_grad:
            return value(x_adv, index)
        size, slope, mean = 0.02, torch.zeros_like(x_adv), 0.0
        for _ in range(probes):
            d = (rand_like(x_adv, generator) < 0.5).to(x_adv) * 2 - 1
            up, down = (value((x_adv + s * size * d).clamp(0, 1), index) for s in (1, -1))
            slope += ((up - down) / (2 * size * probes)).view(-1, *[1] * (x_adv.ndim - 1)) * d
            mean = mean + (up + down) / (2 * probes)
    return mean + (slope * (x_adv - x_adv.detach())).flatten(1).sum(1)


@dataclass(frozen=True, eq=False)
class Tilt:
    """What `posterior_tilt` found for each image."""

    adversarial: Tensor  # (N, C, H, W)
    target: Tensor  # (N, D), the code that was made likely
    before: Tensor  # (N,), log p(z|x) − log p(target|x) in nats
    margin: Tensor  # (N,), the same given the adversarial image: below 0 the target is likelier than the image's code


def posterior_tilt(
    model: LatentModel, x: Tensor, z: Tensor, candidates: Tensor, *, eps: float | Tensor, allowed: Tensor | None = None
) -> Tilt:
    """Change images x (N, C, H, W) so that another code becomes likelier than their own z (N, D), in closed form.

    Where log p(x|z) is linear in x (Bernoulli), e_i = room_i·sign(Δℓ_i) with Δℓ = ∇ₓ[log p(x|target) − log p(x|z)]
    and room_i the way that L∞ `eps` (a number or (N,)) and the box leave is the best change there is; it moves
    Σ room_i·|Δℓ_i| nats. The target is the one of `candidates` (K, D) with the least margin, of those `allowed`, bools
    (N, K). Densities of points are compared, not masses: what a chain makes of it is to be measured.
    """
    check_model(model)
    check_images(x)
    check_latents(z)
    check_latents(candidates, "candidates")
    if len(z) != len(x) or z.shape[1] != candidates.shape[1]:
        raise ValueError(
            f"z: one code for each of {len(x)} images, with as many dimensions as candidates' {candidates.shape[1]}, "
            f"expected, got {tuple(z.shape)}"
        )
    check_gradients()
    eps = _rows(_per_row("eps", eps, x), x)
    allowed = torch.ones(len(x), len(candidates), dtype=torch.bool) if allowed is None else allowed
    bools = isinstance(allowed, Tensor) and allowed.dtype == torch.bool
    if not bools or allowed.shape != (len(x), len(candidates)) or not allowed.any(1).all():
        shape = (len(x), len(candidates))
        raise ValueError(f"allowed: bools {shape} with at least one candidate for each image expected")
    margins = torch.stack([_tilt(model, x, z, c.expand_as(z), eps).margin for c in candidates], 1)
    chosen = margins.masked_fill(~allowed.to(x.device), torch.inf).argmin(1)
    return _tilt(model, x, z, candidates[chosen], eps)


def _tilt(model: LatentModel, x: Tensor, z: Tensor, target: Tensor, eps: Tensor) -> Tilt:
    def log_ratio(x: Tensor, index: Tensor) -> Tensor:
        log_joint = [model.log_prior(code) + model.log_likelihood(x, code) for code in (z, target)]
        return log_joint[0] - log_joint[1]

    each = torch.arange(len(x), device=x.device)
    before, slope = _loss_and_gradient(log_ratio, x.detach(), each)
    if slope.isnan().any():
        raise ValueError("model: log_likelihood has a NaN gradient in x")
    with torch.no_grad():
        adversarial = (x - eps * slope.sign()).clamp(0, 1)
        return Tilt(adversarial, target, before, log_ratio(adversarial, each))


def _check(method: str, defence: hmc.Chains, shape: tuple[int, int], **counts: int) -> None:
    if method not in METHODS:
        raise ValueError(f"method: one of {', '.join(METHODS)} expected, got {method!r}")
    if not isinstance(defence, hmc.Chains) or defence.last.shape != shape:
        raise ValueError(f"defence: the chains of hmc.repair for these {shape[0]} images and this model expected")
    check_counts(**counts)
