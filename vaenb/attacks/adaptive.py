"""Attackers who know document 002a's defence: that codes are moved by HMC on p(z|x') before they are used.

`attack` climbs E[code_loss(z_T)], where z_T ends a short chain from z₀ ~ q(z|x') on log p(z) + log p(x'|z), averaged
over several chains whose randomness is held fixed (expectation over transformations, Athalye et al., 2018). Its methods
differ in the gradient: `unrolled` is exact, through every leapfrog step at the accepts that happened; `bpda` takes the
chain for the identity backwards; `spsa` only looks at outputs (Spall, 1992; Uesato et al., 2018). `posterior_tilt`
needs no chain: it makes another code likelier than the image's own. An attack that is blind to the defence and
transferred to it is `encoder.attack`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Unpack

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from vaenb.attacks import pgd as engine
from vaenb.attacks.balls import per_row, row_lengths
from vaenb.attacks.pgd import AttackResult, LossFn, Search, loss_and_gradient
from vaenb.checks import (
    check_choice,
    check_counts,
    check_each,
    check_gradients,
    check_latents,
    check_model_and_images,
    ordinary,
)
from vaenb.contract import LatentModel, log_joint
from vaenb.distributions import rand_like, randn_like
from vaenb.metrics.blocks import BLOCK, joined
from vaenb.precision import no_autocast
from vaenb.sampling import hmc

METHODS = ("unrolled", "bpda", "spsa")
DEFAULTS: Search = {"norm": "linf", "steps": 40, "restarts": 2, "chunk": 64}
_SPSA_STEP = 0.02  # of a pixel, to each side, between the two values that make a slope


def attack(
    model: LatentModel,
    x: Tensor,
    code_loss: LossFn,
    *,
    eps: float | Tensor,
    defence: hmc.Chains,
    method: str = "unrolled",
    transitions: int = 10,
    leapfrog_steps: int = 5,
    draws: int = 10,
    probes: int = 4,
    **search: Unpack[Search],
) -> AttackResult:
    """Attack images x (N, C, H, W) so that `code_loss(z, index)` (M,) of their *defended* codes z (M, D) grows.

    `defence` is what `repair` gave for the clean images: the attacker's chains use its step sizes and scales, for
    `transitions` transitions of `leapfrog_steps`; `draws` chains are averaged. `spsa` takes `probes` pairs of
    evaluations a gradient, which `gradient_calls` counts as one, and draws them anew at every step, so that its result
    hangs on `chunk`: so many chains run at a time, 64 by default and no fewer than `draws`. Judge the result with
    `repair` and fresh randomness; unlike its chains, the attacker's have no jitter. By default 40 `steps` and
    2 `restarts` in the L∞ ball; `search`: see `pgd`.
    """
    search = DEFAULTS | search
    check_counts(chunk=search["chunk"])
    loss_fn = loss(
        model,
        x,
        code_loss,
        defence=defence,
        method=method,
        transitions=transitions,
        leapfrog_steps=leapfrog_steps,
        draws=draws,
        probes=probes,
        generator=search.get("generator"),
    )
    search["chunk"] = max(1, int(search["chunk"]) // int(draws))
    return engine.pgd(loss_fn, x, eps=eps, clip=(0.0, 1.0), **search)


def loss(
    model: LatentModel,
    x: Tensor,
    code_loss: LossFn,
    *,
    defence: hmc.Chains,
    method: str,
    transitions: int,
    leapfrog_steps: int,
    draws: int,
    probes: int = 4,
    generator: torch.Generator | None = None,
) -> LossFn:
    """Build E[code_loss(z_T)] for candidates x' with the gradient of `method`, at randomness drawn here once."""
    check_choice("method", method, METHODS)
    check_counts(transitions=transitions, leapfrog_steps=leapfrog_steps, draws=draws, probes=probes)
    transitions, draws, probes = int(transitions), int(draws), int(probes)
    check_model_and_images(model, x)
    x = ordinary(x)
    shape = len(x), model.posterior(x[:1]).mean.shape[1]
    if not isinstance(defence, hmc.Chains) or defence.last.shape != shape:
        raise ValueError(f"defence: the chains of `repair` for these {shape[0]} images and this model expected")
    like = defence.last.expand(transitions, draws, *shape)
    noise = randn_like(like[0], generator), randn_like(like, generator), rand_like(like[..., 0], generator)
    attacker = _Attacker(model, defence, leapfrog_steps, *noise)

    @no_autocast  # as the defence's chains
    def expected(x_adv: Tensor, index: Tensor) -> Tensor:
        z = attacker.codes(x_adv, index, method)  # (draws·M, D)
        each = code_loss(z, index.repeat(draws))
        check_each(each, "code_loss", len(z))
        return each.view(draws, -1).mean(0)

    if method != "spsa":
        return expected
    return lambda x_adv, index: _spsa(expected, x_adv, index, probes, generator)


@dataclass(frozen=True, eq=False)
class _Attacker:
    """The attacker's own chains, T transitions of `draws` chains of each of N images, and all their randomness."""

    model: LatentModel
    defence: hmc.Chains  # whose step sizes and scales they take
    leapfrog_steps: int
    start: Tensor  # (draws, N, D)
    momenta: Tensor  # (T, draws, N, D)
    uniforms: Tensor  # (T, draws, N)

    def codes(self, x_adv: Tensor, index: Tensor, method: str) -> Tensor:
        """Run the chains on p(z|x_adv): their last states (draws·M, D), the draws of all candidates in turn.

        `method` says what is differentiable in `x_adv` (M, C, H, W): all if unrolled, the start alone if bpda.
        """
        exact = method == "unrolled" and torch.is_grad_enabled()
        posterior = self.model.posterior(x_adv)
        start = torch.cat([posterior.rsample(noise=fixed) for fixed in self.start[:, index]])
        seen = x_adv if exact else x_adv.detach()  # some likelihoods have no gradient in x
        seen, chains = seen.repeat(len(self.start), 1, 1, 1), index.repeat(len(self.start))
        with torch.set_grad_enabled(exact):
            z = start if exact else start.detach()
            state = hmc.State(z, *self._density(seen, exact)(z))
            for momenta, uniforms in zip(self.momenta, self.uniforms, strict=True):
                noise = momenta[:, index].flatten(0, 1), uniforms[:, index].flatten()
                state = self._move(seen, state, noise, chains, exact)
        return start + (state.z - start).detach() if method == "bpda" else state.z

    def _density(self, x: Tensor, exact: bool) -> Callable:
        def density(z: Tensor, rows: Tensor) -> Tensor:
            return log_joint(self.model, x[rows], z)

        return hmc.value_and_gradient(density, torch.arange(len(x), device=x.device), len(x), create_graph=exact)

    def _move(
        self, x: Tensor, state: hmc.State, noise: tuple[Tensor, Tensor], chains: Tensor, exact: bool
    ) -> hmc.State:
        """Make a transition. An exact one makes its graph again on the way back: memory for one, not for all.

        There a chain that will reject takes steps of length 0 instead, for the gradient through a trajectory that has
        blown up is NaN, though what is chosen is the state before it.
        """
        step_size, scale = self.defence.step_size[chains], self.defence.scale[chains]

        def end(density: Callable, state: hmc.State, step_size: Tensor) -> hmc.State:
            chosen, _, _ = hmc.transition(density, state, *noise, step_size, scale, self.leapfrog_steps)
            return chosen

        with torch.no_grad():
            before = hmc.State(state.z.detach(), state.log_density.detach(), state.gradient.detach())
            after = end(self._density(x.detach(), exact=False), before, step_size)
        if not exact:
            return after
        step_size = torch.where((after.z != before.z).any(1), step_size, 0)
        density = self._density(x, exact)
        return checkpoint(end, density, state, step_size, use_reentrant=False, preserve_rng_state=False)


def _spsa(value: LossFn, x_adv: Tensor, index: Tensor, probes: int, generator: torch.Generator | None) -> Tensor:
    """Give `value` at x_adv a gradient from pairs of evaluations at x_adv ± c·d, d random signs."""
    with torch.no_grad():
        if not x_adv.requires_grad:
            return value(x_adv, index)
        slope = torch.zeros_like(x_adv)
        mean = x_adv.new_zeros(len(x_adv))
        for _ in range(probes):
            signs = (rand_like(x_adv, generator) < 0.5).to(x_adv) * 2 - 1
            up = value((x_adv + _SPSA_STEP * signs).clamp(0, 1), index)
            down = value((x_adv - _SPSA_STEP * signs).clamp(0, 1), index)
            slope += per_row((up - down) / (2 * _SPSA_STEP * probes), x_adv) * signs
            mean += (up + down) / (2 * probes)
    along = slope * (x_adv - x_adv.detach())
    return mean + along.flatten(1).sum(1)


@dataclass(frozen=True, eq=False)
class TiltAttack:
    """What `posterior_tilt` found for each image."""

    adversarial: Tensor  # (N, C, H, W)
    target: Tensor  # (N, D), the code that was made likely
    before: Tensor  # (N,), log p(z|x) − log p(target|x) in nats
    margin: Tensor  # (N,), the same given the adversarial image: below 0 the target is likelier than the image's code


def posterior_tilt(
    model: LatentModel,
    x: Tensor,
    z: Tensor,
    candidates: Tensor,
    *,
    eps: float | Tensor,
    allowed: Tensor | None = None,
) -> TiltAttack:
    """Change images x (N, C, H, W) so that another code becomes likelier than their own z (N, D), in closed form.

    Where log p(x|z) is linear in x (Bernoulli), e_i = room_i·sign(Δℓ_i) with Δℓ = ∇ₓ[log p(x|target) − log p(x|z)]
    and room_i the way that L∞ `eps` (a number or (N,)) and the box leave is the best change there is; it moves
    Σ room_i·|Δℓ_i| nats. The target is the one of `candidates` (K, D) with the least margin, of those `allowed`, bools
    (N, K). Densities of points are compared, not masses: what a chain makes of it is to be measured.
    """
    check_gradients()
    check_model_and_images(model, x)
    check_latents(z)
    check_latents(candidates, "candidates")
    codes = len(x), candidates.shape[1]
    if z.shape != codes:
        raise ValueError(f"z: a code for each image, as long as candidates, {codes}, expected, got {tuple(z.shape)}")
    eps = row_lengths("eps", eps, x)
    shape = len(x), len(candidates)
    allowed = torch.ones(shape, dtype=torch.bool) if allowed is None else allowed
    bools = isinstance(allowed, Tensor) and allowed.dtype == torch.bool and allowed.shape == shape
    if not bools or not allowed.any(1).all():
        raise ValueError(f"allowed: bools {shape} with at least one candidate for each image expected")
    x, z, candidates, allowed = ordinary(x), ordinary(z), ordinary(candidates), allowed.to(x.device)
    found = []
    for rows in torch.arange(len(x), device=x.device).split(BLOCK):
        tilt = partial(_tilt, model, x[rows], z[rows], eps[rows])
        margins = torch.stack([tilt(code.expand(len(rows), -1)).margin for code in candidates], 1)
        chosen = margins.masked_fill(~allowed[rows], torch.inf).argmin(1)
        found.append(tilt(candidates[chosen]))
    return joined(found)


def _tilt(model: LatentModel, x: Tensor, z: Tensor, eps: Tensor, target: Tensor) -> TiltAttack:
    def log_ratio(x: Tensor, index: Tensor) -> Tensor:
        return log_joint(model, x, z) - log_joint(model, x, target)

    each = torch.arange(len(x), device=x.device)
    before, slope = loss_and_gradient(log_ratio, x, each)
    if slope.isnan().any():
        raise ValueError("model: log_likelihood has a NaN gradient in x")
    with torch.no_grad():
        adversarial = (x - eps * slope.sign()).clamp(0, 1)
        return TiltAttack(adversarial, target, before, log_ratio(adversarial, each))
