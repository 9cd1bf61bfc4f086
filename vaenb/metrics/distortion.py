"""Distortion curves of a decoder under attack, and the area between a curve and its base line.

    DD(ε)  = metric(Dec(z), Dec(z'_ε)),  z'_ε the attacked latent with ‖z'_ε − z‖ ≤ ε
    AADDC  = ∫₀¹ ±(DD(ε(t)) − base) dt,  ε(t) = ε_min + t (ε_max − ε_min)

The sign is + for a metric where higher is better (SSIM: the area below the curve, above the base line) and − where
lower is better (LPIPS: the area above the curve, below the base line), so a larger area always means more robust.
Lu & Chen, "On the Adversarial Robustness of Generative Autoencoders in the Latent Space" (2307.02202). They do not say
which base line they used: `aaddc_abs` and `aaddc_rel` are the two readings. An area belongs to its range of radii.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from vaenb.checks import check_latents, check_model
from vaenb.contract import LatentModel

Metric = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class DDCurve:
    """What an attack does to N decoded latents at K radii; `values[name][k, i]` compares Dec(z_i) with Dec(z'_ki)."""

    radii: Tensor  # (K,) increasing, in latent units
    values: dict[str, Tensor]  # metric → (K, N)
    adversarial: Tensor  # (K, N, D)


def dd_curve(
    model: LatentModel,
    z: Tensor,
    radii: Tensor,
    attack: Callable[..., Tensor],
    metrics: Mapping[str, Metric],
    *,
    norm: str = "l2",
    chunk: int | None = None,
) -> DDCurve:
    """Attack latents z (N, D) at every radius and measure how far the decoded images move.

    `attack(z, eps=…)` gets all K·N latents in one call, with a radius for each row (K·N,), and returns the attacked
    ones in the same shape. Each metric maps two batches of M images, the clean one first, to (M,). `chunk` is the
    number of latents decoded at a time. Decoding and measuring keep no gradient.
    Raises ValueError where the attack moves a latent further than its radius, in `norm` (l2 or linf).
    """
    check_model(model)
    check_latents(z)
    _check_radii(radii, at_least=1)
    if norm not in ("l2", "linf"):
        raise ValueError(f"norm: l2 or linf expected, got {norm!r}")
    if not isinstance(metrics, Mapping):
        raise TypeError(
            f"metrics: names and functions, such as {{'SSIM': ssim}}, expected, got {type(metrics).__name__}"
        )
    if not metrics or chunk is not None and chunk < 1:
        raise ValueError(f"metrics and chunk: at least one of each expected, got {len(metrics)} metrics, chunk={chunk}")
    repeated, eps = z.detach().repeat(len(radii), 1), radii.to(z).repeat_interleave(len(z))
    adversarial = attack(repeated, eps=eps)
    if not isinstance(adversarial, Tensor) or adversarial.shape != repeated.shape:
        got = tuple(adversarial.shape) if isinstance(adversarial, Tensor) else type(adversarial).__name__
        raise ValueError(
            f"attack: attacked latents {tuple(repeated.shape)} expected (an AttackResult's .adversarial), got {got}"
        )
    moved = torch.linalg.vector_norm(adversarial.detach() - repeated, ord=2 if norm == "l2" else float("inf"), dim=1)
    if (outside := moved > eps * (1 + 1e-3) + 1e-5).any():
        row = outside.nonzero()[0].item()
        raise ValueError(
            f"attack: it moved a latent by {moved[row]:.4g} at radius {eps[row]:.4g}; it must stay within the {norm} "
            "radius eps (M,) of each row"
        )
    adversarial = adversarial.detach()
    values = _measure(model.decode, z.detach(), adversarial, metrics, chunk or len(adversarial))
    shape = (len(radii), len(z))
    return DDCurve(radii, {name: v.view(shape) for name, v in values.items()}, adversarial.view(*shape, -1))


def aaddc(radii: Tensor, values: Tensor, *, base: float, better: str) -> Tensor:
    """Area between one curve and the base line, by the trapezoid rule over radii rescaled to [0, 1].

    `values` is (K,) or (K, N), an area for each column; `better` is "higher" (SSIM) or "lower" (LPIPS). Radii need
    not be evenly spaced. Parts of a curve beyond the base line count negatively.
    """
    _check_radii(radii, at_least=2)
    _check_curve(radii, values, "values")
    _check_better(better)
    radii = radii.to(values)
    t = (radii - radii[0]) / (radii[-1] - radii[0])
    return torch.trapezoid(values - base if better == "higher" else base - values, t, dim=0)


def aaddc_abs(radii: Tensor, values: Tensor, *, better: str) -> Tensor:
    """Area to a fixed base line: 0 where higher is better, 1 where lower is better, as for SSIM and LPIPS.

    It lies in [0, 1] for metrics in [0, 1], it is 1 for a curve that stays at its best, and may be compared across
    models and papers that used the same radii.
    """
    _check_better(better)
    return aaddc(radii, values, base=0.0 if better == "higher" else 1.0, better=better)


def aaddc_rel(radii: Tensor, curves: Mapping[str, Tensor], *, better: str) -> dict[str, Tensor]:
    """Area to the worst value in a set of curves: the smallest, or largest, mean over images at any radius.

    `curves` maps a name to values (K,) or (K, N), all at the same radii; single images may lie beyond the base line,
    with a negative area, their mean never does. Never compare relative areas across sets: another curve in the set
    moves the base line and with it every area. Within a set they differ from `aaddc_abs` by one constant.
    """
    _check_radii(radii, at_least=2)
    _check_better(better)
    if not curves:
        raise ValueError("curves: at least one named curve expected, got none")
    for name, values in curves.items():
        _check_curve(radii, values, f"curves[{name!r}]")
    means = torch.cat([values.reshape(len(values), -1).mean(1) for values in curves.values()])
    base = (means.min() if better == "higher" else means.max()).item()
    return {name: aaddc(radii, values, base=base, better=better) for name, values in curves.items()}


def spread(latents: Tensor) -> Tensor:
    """Root mean square over dimensions of the standard deviation of latents (N, D): √(tr Cov / D), a number.

    Of draws from the aggregate posterior it is about 1 where the prior is N(0, I), used dimensions and unused ones
    alike; of posterior means it shrinks with every dimension that carries nothing. Say which of the two is meant.
    """
    check_latents(latents, "latents")
    if len(latents) < 2:
        raise ValueError(f"latents: at least two expected to measure their spread, got shape {tuple(latents.shape)}")
    return latents.std(0).square().mean().sqrt()


def scale_free(radii: Tensor, values: Tensor, *, unit: float, reach: float) -> tuple[Tensor, Tensor]:
    """Redraw a curve over multiples of a model's own `unit`, such as its codes' `spread`, from 0 to `reach`.

    `values` is (K,) or (K, N) at radii (K,) from 0. Gives 50 multiples and the values there, linearly interpolated, as
    `aaddc_abs` takes them. To compare models, take one `reach` for all: the smallest of their radii[-1] / unit. Raises
    ValueError where the curve was not measured so far.
    """
    _check_radii(radii, at_least=2)
    _check_curve(radii, values, "values")
    if not unit > 0 or not reach > 0:
        raise ValueError(f"unit and reach: positive numbers expected, got {unit} and {reach}")
    own = radii.to(values) / unit
    if radii[0] != 0 or reach > own[-1] * (1 + 1e-5):
        raise ValueError(f"reach: radii from 0 to {reach:g} units expected, measured are {own[0]:.3g} to {own[-1]:.3g}")
    grid = torch.linspace(0, min(reach, own[-1].item()), 50, dtype=own.dtype, device=own.device)
    right = torch.searchsorted(own, grid).clamp(1, len(own) - 1)
    weight = (grid - own[right - 1]) / (own[right] - own[right - 1])
    return grid, torch.lerp(values[right - 1], values[right], weight.view(-1, *[1] * (values.ndim - 1)))


@torch.no_grad()
def _measure(decode, z: Tensor, adversarial: Tensor, metrics: Mapping[str, Metric], chunk: int) -> dict[str, Tensor]:
    clean = torch.cat([decode(part) for part in z.split(chunk)])
    measured = {name: [] for name in metrics}
    for rows in torch.arange(len(adversarial), device=z.device).split(chunk):
        before, after = clean[rows % len(z)], decode(adversarial[rows])
        for name, metric in metrics.items():
            value = metric(before, after)
            if value.shape != rows.shape:
                raise ValueError(
                    f"metrics[{name!r}]: one value an image {tuple(rows.shape)} expected, got {value.shape}"
                )
            measured[name].append(value)
    return {name: torch.cat(parts) for name, parts in measured.items()}


def _check_radii(radii, *, at_least: int) -> None:
    if not isinstance(radii, Tensor) or not radii.is_floating_point():
        got = radii.dtype if isinstance(radii, Tensor) else type(radii).__name__
        raise TypeError(f"radii: a float tensor (K,) expected, got {got}")
    if radii.ndim != 1 or len(radii) < at_least:
        raise ValueError(f"radii: a vector of at least {at_least} radii expected, got shape {tuple(radii.shape)}")
    if not radii.isfinite().all() or (radii < 0).any() or (radii.diff() <= 0).any():
        raise ValueError(f"radii: finite, increasing and not negative expected, got {radii.tolist()}")


def _check_curve(radii: Tensor, values, name: str) -> None:
    if not isinstance(values, Tensor) or not values.is_floating_point():
        got = values.dtype if isinstance(values, Tensor) else type(values).__name__
        raise TypeError(f"{name}: a float tensor (K,) or (K, N) expected, got {got}")
    if values.ndim == 0 or len(values) != len(radii) or values.numel() == 0:
        raise ValueError(f"{name}: a row for each of the {len(radii)} radii expected, got shape {tuple(values.shape)}")
    if not values.isfinite().all():
        raise ValueError(f"{name}: finite values expected; PSNR is infinite at radius 0: leave that radius out")


def _check_better(better: str) -> None:
    if better not in ("higher", "lower"):
        raise ValueError(f'better: "higher" (as for SSIM) or "lower" (as for LPIPS) expected, got {better!r}')
