"""Distortion curves of a decoder under attack, and the area between a curve and its base line.

    DD(ε)  = metric(Dec(z), Dec(z'_ε)),  z'_ε the attacked latent with ‖z'_ε − z‖ ≤ ε
    AADDC  = ∫₀¹ ±(DD(ε(t)) − base) dt,  ε(t) = ε_min + t (ε_max − ε_min)

The sign is + for a metric where higher is better (SSIM: the area below the curve, above the base line) and − where
lower is better (LPIPS: the area above the curve, below the base line), so a larger area always means more robust.
Lu & Chen, "On the Adversarial Robustness of Generative Autoencoders in the Latent Space" (2307.02202). They do not say
which base line they used; `aaddc_abs` takes a fixed one. An area belongs to its range of radii.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vaenb.checks import (
    check_choice,
    check_counts,
    check_curve,
    check_latents,
    check_model,
    check_number,
    check_radii,
    check_shape,
    check_whole,
    evaluating,
)
from vaenb.contract import LatentModel
from vaenb.metrics.blocks import in_blocks
from vaenb.precision import check_precision, no_autocast, widened

Metric = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class DDCurve:
    """What an attack does to N decoded latents at K radii; `values[name][k, i]` compares Dec(z_i) with Dec(z'_ki)."""

    radii: Tensor  # (K,) increasing, in latent units
    values: dict[str, Tensor]  # metric → (K, N)
    adversarial: Tensor  # (K, N, D)


@no_autocast
def dd_curve(
    model: LatentModel,
    z: Tensor,
    radii: Tensor,
    attack: Callable[..., Any],
    metrics: Mapping[str, Metric],
    *,
    chunk: int = 512,
    **search,
) -> DDCurve:
    """Attack latents z (N, D) at every radius and measure how far the decoded images move.

    `attack` is one of `attacks.latent`, or works as they do: `attack(model, z, eps=…, **search)` gets all K·N latents
    in one call, with a radius (L2) for each row (K·N,), and returns an AttackResult or the attacked latents. Each
    metric maps two batches of M images, the clean one first, to (M,). `chunk` latents are decoded at a time, without
    gradient. Raises ValueError where the attack moves a latent beyond its radius.
    """
    check_model(model)
    check_latents(z)
    check_precision("z", z)  # an attack's small steps would be rounded away
    check_radii(radii)
    if not isinstance(metrics, Mapping):
        raise TypeError(f"metrics: names and functions, {{'SSIM': ssim}}, expected, got {metrics!r}")
    z = z.detach()
    repeated = z.repeat(len(radii), 1)  # (K·N, D): all latents at the first radius, then at the second, …
    eps = radii.to(z).repeat_interleave(len(z))  # (K·N,)
    found = attack(model, repeated, eps=eps, **search)
    adversarial = getattr(found, "adversarial", found)
    check_shape(adversarial, "attack", repeated.shape, "attacked latents (an AttackResult's .adversarial)")
    adversarial = adversarial.detach()
    _check_reach(adversarial - repeated, eps)
    values = measure_distortion(model.decode, z, adversarial, metrics, chunk=chunk)
    return DDCurve(radii, values, adversarial.view(len(radii), *z.shape))


@no_autocast
@torch.no_grad()
def measure_distortion(
    decode: Callable[[Tensor], Tensor],
    clean: Tensor,
    adversarial: Tensor,
    metrics: Mapping[str, Metric],
    *,
    chunk: int,
) -> dict[str, Tensor]:
    """Compare the images of `adversarial` (K·N, …) with those of `clean` (N, …) by each metric: its name → (K, N).

    `decode` maps `chunk` rows of either to images at a time.
    """
    check_counts(chunk=chunk)
    with evaluating("model"):
        before = in_blocks(decode, clean, size=chunk)
    measured: dict[str, list[Tensor]] = {name: [] for name in metrics}
    for rows in torch.arange(len(adversarial), device=clean.device).split(int(chunk)):
        after = decode(adversarial[rows])
        for name, metric in metrics.items():
            value = metric(before[rows % len(clean)], after)
            check_shape(value, f"metrics[{name!r}]", rows.shape, "one value an image")
            measured[name].append(widened(value))
    return {name: torch.cat(values).view(-1, len(clean)) for name, values in measured.items()}


def aaddc_abs(radii: Tensor, values: Tensor, *, better: str) -> Tensor:
    """Area between a curve and a fixed base line, by the trapezoid rule over radii (K,) rescaled to [0, 1].

    `values` is (K,) or (K, N), an area for each column. The base line is 0 where `better` is "higher" (SSIM) and 1
    where it is "lower" (LPIPS). In [0, 1] for metrics in [0, 1], 1 for a curve that stays at its best: comparable
    wherever the radii are the same, which need not be evenly spaced. What lies beyond the base line counts negatively.
    """
    check_radii(radii, least=2)
    check_choice("better", better, ("higher", "lower"))
    check_curve(values, "values", radii)
    values = widened(values)
    radii = radii.to(values)
    t = (radii - radii[0]) / (radii[-1] - radii[0])
    height = values if better == "higher" else 1 - values
    return torch.trapezoid(height, t, dim=0)


def spread(latents: Tensor) -> Tensor:
    """Root mean square over dimensions of the standard deviation of latents (N, D): √(tr Cov / D), a number.

    Of draws from the aggregate posterior it is about 1 where the prior is N(0, I); of posterior means it shrinks with
    every dimension that carries nothing. Say which of the two is meant.
    """
    check_latents(latents, "latents")
    check_whole("len(latents)", len(latents), least=2)
    return widened(latents).std(0).square().mean().sqrt()


def scale_free(radii: Tensor, values: Tensor, *, unit: float, reach: float, points: int = 50) -> tuple[Tensor, Tensor]:
    """Redraw a curve over multiples of a model's own `unit`, such as its codes' `spread`, from 0 to `reach`.

    `values` is (K,) or (K, N) at radii (K,) from 0. Gives `points` multiples and the values there, linearly
    interpolated, as `aaddc_abs` takes them. To compare models, take one `reach` for all: the smallest of their
    radii[-1] / unit.
    """
    check_radii(radii, least=2)
    check_curve(values, "values", radii)
    check_whole("points", points, least=2)
    for name, value in (("unit", unit), ("reach", reach)):
        check_number(name, value, "a positive number", above=0)
    values = widened(values)
    own = radii.to(values) / unit
    if radii[0] != 0:
        raise ValueError(f"radii: radii from 0 expected, got {radii[0]:g} first")
    if reach > own[-1] * (1 + 1e-5):
        raise ValueError(f"reach: at most {own[-1]:.3g} units, as far as was measured, expected, got {reach:g}")
    grid = torch.linspace(0, min(reach, own[-1].item()), points, dtype=own.dtype, device=own.device)
    right = torch.searchsorted(own, grid).clamp(1, len(own) - 1)
    left = right - 1
    weight = (grid - own[left]) / (own[right] - own[left])
    weight = weight.view(-1, *[1] * (values.ndim - 1))  # one for a row of values
    return grid, torch.lerp(values[left], values[right], weight)


def _check_reach(moves: Tensor, eps: Tensor) -> None:
    lengths = torch.linalg.vector_norm(moves, dim=1)
    outside = (lengths > eps * (1 + 1e-3) + 1e-5).nonzero()
    if len(outside):
        length, radius = lengths[outside[0]].item(), eps[outside[0]].item()
        raise ValueError(f"attack: it moved a latent by {length:.4g} at radius {radius:.4g}; stay within it (L2)")
