"""Attacks on encoders that pay for the change instead of keeping it in a ball (document 003, Willetts et al. 2019).

    x^a = argmin_{x'} Δ(x', x_t) + λ‖x' − x‖₂,    x' in [0, 1]

for a target image x_t, by box-constrained L-BFGS from x on; Δ is a divergence of `encoder`: the document's are
kl_reverse, w2 and output. λ has no meaning across models, as Δ has each model's own scale, so that a grid of λ is
walked: at its small end nothing keeps the attack from painting x_t over x, at its large end x' = x. Compare models at
equal `distance`, and with `interpolation`, which needs no model at all.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from vaenb.attacks import encoder
from vaenb.attacks.encoder import Divergence
from vaenb.attacks.latent import target_images
from vaenb.attacks.lbfgs import minimize
from vaenb.attacks.pgd import warn_of_stuck
from vaenb.checks import check_counts, check_images, check_vector, ordinary
from vaenb.contract import LatentModel


@dataclass(frozen=True, eq=False)
class PenaltyPath:
    """What an attack found for N images at K penalties, and what it cost."""

    penalties: Tensor  # (K,), λ
    adversarial: Tensor  # (K, N, C, H, W)
    divergence: Tensor  # (K, N), Δ reached, in its own unit
    start: Tensor  # (N,), Δ at x
    distance: Tensor  # (K, N), ‖x' − x‖₂
    gradient_calls: Tensor  # (K, N)
    stuck: Tensor  # (N,) bool: Δ is not 0 at x and has no gradient there, so that no search set out


def penalty_grid(count: int = 50) -> Tensor:
    """Document 003's λ: 0, and 2^c for `count` values of c from −20 to 20; (count + 1,)."""
    check_counts(count=count)
    return torch.cat([torch.zeros(1), 2 ** torch.linspace(-20, 20, int(count))])


def attack(
    model: LatentModel,
    x: Tensor,
    target: str | Tensor,
    *,
    penalties: Tensor,
    divergence: str | Divergence = "kl_reverse",
    steps: int = 50,
    generator: torch.Generator | None = None,
    chunk: int = 512,
) -> PenaltyPath:
    """Attack images x (N, C, H, W) towards `target` (see `encoder.attack`) at every λ of `penalties` (K,) ≥ 0.

    `divergence` is any of `encoder.attack` but "classifier". All K·N searches, of at most `steps` iterations each, are
    one batch, of which `chunk` are evaluated at a time. A UserWarning gives the share of `stuck` images.
    """
    if target is None:
        raise ValueError("target: black, white, noise, inverted or images expected, got None")
    if divergence == "classifier":
        raise ValueError("divergence: the classifier's is not one of a penalised attack; see `encoder.attack`")
    check_vector(penalties, "penalties", what="weights")
    if (penalties < 0).any():
        raise ValueError(f"penalties: weights ≥ 0 expected, got {penalties.tolist()}")
    delta = encoder.loss(model, x, target=target, divergence=divergence, generator=generator, chunk=chunk)
    x, count = ordinary(x), len(x)
    first = x.repeat(len(penalties), 1, 1, 1)  # (K·N, C, H, W)
    weight = penalties.to(x).repeat_interleave(count)  # (K·N,)

    def total(x_adv: Tensor, index: Tensor) -> Tensor:
        return delta(x_adv, index % count) + weight[index] * _norm(x_adv - first[index])

    def unpenalised(images: Tensor) -> Tensor:
        rows = torch.arange(len(images), device=x.device).split(int(chunk))
        return torch.cat([delta(images[part], part % count) for part in rows])

    found = minimize(total, first, steps=steps, chunk=chunk)
    shape = len(penalties), count
    with torch.no_grad():
        start, reached = unpenalised(x), unpenalised(found.x).view(shape)
    adversarial, distance = found.x.view(*shape, *x.shape[1:]), _norm(found.x - first).view(shape)
    stuck = found.stuck.view(shape).all(0) & (start.abs() > 1e-5)  # at 0 x is where it is to go already
    warn_of_stuck(stuck)
    return PenaltyPath(penalties, adversarial, reached, start, distance, found.gradient_calls.view(shape), stuck)


def interpolation(x: Tensor, target: str | Tensor, distance: Tensor) -> Tensor:
    """Go from x (N, C, H, W) straight towards target images, ‖x' − x‖₂ = `distance` (N,) or (K, N), at most to them.

    The control beside an attack: what mixing the two images does. Returns (N, C, H, W), or (K, N, C, H, W).
    """
    check_images(x)
    if isinstance(target, str) and target == "noise":
        raise ValueError("target: the attack's noise as images expected, got 'noise', which would be drawn anew")
    goal = target_images(target, x)
    lengths = isinstance(distance, Tensor) and distance.ndim in (1, 2) and distance.shape[-1] == len(x)
    if not lengths or not (distance >= 0).all():
        raise ValueError(f"distance: lengths ≥ 0 of shape ({len(x)},) or (K, {len(x)}) expected, got {distance!r}")
    whole = _norm(goal - x).clamp_min(torch.finfo(x.dtype).tiny)
    share = (distance.to(x) / whole).clamp_max(1)
    return x + share[..., None, None, None] * (goal - x)


def _norm(change: Tensor) -> Tensor:
    return torch.linalg.vector_norm(change.flatten(1), dim=1)
