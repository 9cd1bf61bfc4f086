"""A density of many dimensions on a plane through three points, to look at a chain's way through it."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from vaenb.checks import check_batch, check_shape
from vaenb.metrics.blocks import in_blocks
from vaenb.precision import check_precision, no_autocast

_TICKS = 31  # along each axis


@dataclass(frozen=True, eq=False)
class Slice:
    """log p on the plane origin + a·axes[0] + b·axes[1], in nats below its highest value there."""

    origin: Tensor  # (D,)
    axes: Tensor  # (2, D), orthonormal
    a: Tensor  # (K,)
    b: Tensor  # (K,)
    values: Tensor  # (K, K), row k at b[k], at most 0

    def project(self, z: Tensor) -> Tensor:
        """The coordinates (M, 2) of z (M, D), whatever lies off the plane left out."""
        return (z - self.origin) @ self.axes.T


@no_autocast
@torch.no_grad()
def slice_through(log_density: Callable[[Tensor], Tensor], points: Tensor, path: Tensor | None = None) -> Slice:
    """Evaluate log_density(z) (M,) on the plane through `points` (3, D), wide enough for them and for `path` (M, D).

    The first point is the origin and the second lies on the first axis; the three must not be on one line.
    """
    check_batch(points, "points", dims=2, shape="points (3, D)")
    check_precision("points", points)
    check_shape(points, "points", (3, max(2, points.shape[1])), "three points of two dimensions or more")
    axes, lengths = torch.linalg.qr((points[1:] - points[0]).T)
    if (lengths.diagonal().abs() < 1e-6 * lengths.abs().max().clamp_min(1e-30)).any():
        raise ValueError("points: they lie on one line, so they span no plane")
    axes = (axes * lengths.diagonal().sign()).T
    shown = points if path is None else torch.cat([points, path])
    seen = (shown - points[0]) @ axes.T
    low, high = seen.amin(0), seen.amax(0)
    half = 0.6 * (high - low).max()
    ticks = torch.linspace(-1, 1, _TICKS, device=points.device) * half
    a, b = (ticks + middle for middle in (high + low) / 2)
    along = a.repeat(_TICKS)[:, None] * axes[0]
    across = b.repeat_interleave(_TICKS)[:, None] * axes[1]
    values = in_blocks(log_density, points[0] + along + across).view(_TICKS, _TICKS)
    return Slice(points[0], axes, a, b, values - values.max())
