"""Attacks on encoders that pay for the change instead of keeping it in a ball (document 003, Willetts et al. 2019).

    x^a = argmin_{x'} Δ(x', x_t) + λ‖x' − x‖₂,    x' in [0, 1]

for a target image x_t, by box-constrained L-BFGS from x on; Δ is an objective of `encoder`: the document's are
kl_reverse, w2 and output. λ has no meaning across models, as Δ has each model's own scale, so that a grid of λ is
walked: at its small end nothing keeps the attack from painting x_t over x, at its large end x' = x. Compare models at
equal `distance`, and with `interpolation`, which needs no model at all.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from vaenb.attacks import encoder
from vaenb.attacks.encoder import Objective
from vaenb.attacks.latent import target_images
from vaenb.attacks.lbfgs import minimize
from vaenb.checks import check_images
from vaenb.contract import LatentModel


@dataclass(frozen=True, eq=False)
class PenaltyPath:
    """What an attack found for N images at K penalties, and what it cost."""

    penalties: Tensor  # (K,), λ
    adversarial: Tensor  # (K, N, C, H, W)
    objective: Tensor  # (K, N), Δ reached, in its own unit
    start: Tensor  # (N,), Δ at x
    distance: Tensor  # (K, N), ‖x' − x‖₂
    gradient_calls: Tensor  # (K, N)


def penalty_grid(count: int = 50) -> Tensor:
    """Document 003's λ: 0, and 2^c for `count` values of c from −20 to 20; (count + 1,)."""
    if not isinstance(count, int) or count < 1:
        raise ValueError(f"count: a whole number ≥ 1 expected, got {count!r}")
    return torch.cat([torch.zeros(1), 2 ** torch.linspace(-20, 20, count)])


def attack(
    model: LatentModel,
    x: Tensor,
    target: str | Tensor,
    *,
    penalties: Tensor,
    objective: str | Objective = "kl_reverse",
    steps: int = 50,
    generator: torch.Generator | None = None,
    chunk: int = 512,
) -> PenaltyPath:
    """Attack images x (N, C, H, W) towards `target` (see `encoder.attack`) at every λ of `penalties` (K,) ≥ 0.

    All K·N searches, of at most `steps` iterations each, are one batch, of which `chunk` are evaluated at a time.
    """
    if objective == "classifier":
        raise ValueError("objective: the classifier's is not one of a penalised attack; see `encoder.attack`")
    delta = encoder.loss(model, x, target=target, objective=objective, generator=generator)
    if not isinstance(penalties, Tensor) or penalties.ndim != 1 or not len(penalties):
        raise ValueError(f"penalties: a tensor (K,) of weights expected, got {penalties!r}")
    if not (penalties.to(x).isfinite() & (penalties >= 0)).all():
        raise ValueError(f"penalties: finite weights ≥ 0 expected, got {penalties.tolist()}")
    x, count = x.detach(), len(x)
    first, weight = x.repeat(len(penalties), 1, 1, 1), penalties.to(x).repeat_interleave(count)

    def total(x_adv: Tensor, index: Tensor) -> Tensor:
        return delta(x_adv, index % count) + weight[index] * _norm(x_adv - first[index])

    found = minimize(total, first, steps=steps, chunk=chunk)
    adversarial = found.x.view(len(penalties), *x.shape)
    rows = torch.arange(len(found.x), device=x.device) % count
    with torch.no_grad():
        start = torch.cat([delta(x[i], i) for i in rows[:count].split(chunk)])
        reached = torch.cat([delta(part, i) for part, i in zip(found.x.split(chunk), rows.split(chunk), strict=True)])
    distance, shape = _norm(found.x - first), adversarial.shape[:2]
    return PenaltyPath(
        penalties, adversarial, reached.view(shape), start, distance.view(shape), found.gradient_calls.view(shape)
    )


def interpolation(x: Tensor, target: Tensor, distance: Tensor) -> Tensor:
    """Go from x (N, C, H, W) straight towards target images, ‖x' − x‖₂ = `distance` (N,) or (K, N), at most to them.

    The control beside an attack: what mixing the two images does. Returns (N, C, H, W), or (K, N, C, H, W).
    """
    check_images(x)
    if not isinstance(target, Tensor):
        raise TypeError(f"target: a tensor of images expected, got {target!r}")
    goal = target_images(target, x)
    if not isinstance(distance, Tensor) or distance.ndim not in (1, 2) or distance.shape[-1] != len(x):
        raise ValueError(f"distance: lengths of shape ({len(x)},) or (K, {len(x)}) expected, got {distance!r}")
    if not (distance >= 0).all():
        raise ValueError(f"distance: lengths ≥ 0 expected, got {distance.min():.4g}")
    part = (distance.to(x) / _norm(goal - x).clamp_min(torch.finfo(x.dtype).tiny)).clamp_max(1)
    return x + part[..., None, None, None] * (goal - x)


def _norm(change: Tensor) -> Tensor:
    return torch.linalg.vector_norm(change.flatten(1), dim=1)
