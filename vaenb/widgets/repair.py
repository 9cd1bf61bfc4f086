"""The explorer of HMC as a defence (notebook 05)."""

import base64
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from vaenb.contract import LatentModel
from vaenb.metrics.slices import Slice, slice_through
from vaenb.plots import COLORS, tile
from vaenb.sampling.hmc import Chains
from vaenb.sampling.posterior import posterior_density
from vaenb.widgets.chart import LAZY, Explorer, check_pairs, circle, drawing, enlarged, polyline, slider_of, text

_SIZE, _EDGE = 300, 30  # of the slice, in pixels
_END = ' text-anchor="end"'
_HALO = ' stroke="white" stroke-width="3" paint-order="stroke"'
_NOTE = "log p(z | attacked image) on a plane, white: high;", "the path is projected"
_HEAT = (
    f'<image x="{_EDGE}" y="{_EDGE}" width="{_SIZE}" height="{_SIZE}" '
    'preserveAspectRatio="none" href="data:image/png;base64,{}"/>'
)


class RepairExplorer(Explorer):
    """Drag the attack radius δ, the kind and the number of gradients of HMC, and watch a code go back.

    `models` are keyed by `kind`: by β, or by where chains start, or by the attacker; it is what the slider is called.
    `attacked`, images like `x` (N, C, H, W), and the `chains` that sampled their posteriors, by (kind, δ). All chains
    are equally long. A slice of the attacked image's posterior shows the chain's path, projected on it; it is computed
    when it is first looked at.
    """

    def __init__(
        self,
        models: dict[Any, LatentModel],
        attacked: dict[tuple[Any, float], Tensor],
        chains: dict[tuple[Any, float], Chains],
        x: Tensor,
        *,
        kind: str = "KL weight β",
    ) -> None:
        deltas = sorted(check_pairs("attacked", attacked, models, "(kind, δ)"))
        lengths = {(*found.path.shape[:2], found.gradient_calls) for found in chains.values()}
        images, length, calls = lengths.pop() if len(lengths) == 1 else (0, 0, 0)
        if attacked.keys() != chains.keys() or images != len(x):
            raise ValueError(f"chains: of {len(x)} images, equally long, for each (kind, δ) of attacked expected")
        self.each = (calls - 1) // (length - 1)  # gradients of a transition
        self.models, self.x = models, x
        self.attacked, self.chains = attacked, chains
        self._slice = lru_cache(maxsize=64)(self._compute_slice)
        self.delta = slider_of(deltas, "attack radius δ", index=len(deltas) - 1)
        self.transitions = slider_of(range(length), "gradients of HMC", lambda t: str(t * self.each))
        self.kind = slider_of(models, kind, **LAZY)
        self.image = slider_of(range(len(x)), "test image", **LAZY)
        super().__init__("clean · its reconstruction · attacked · its reconstruction · repaired")

    @torch.no_grad()
    def _compute_slice(self, kind: Any, delta: float, i: int) -> tuple[Slice, Tensor]:
        """The slice through both images' codes and where the chain ended; and these two codes (2, D)."""
        model = self.models[kind]
        path = self.chains[kind, delta].path[i]
        hit = self.attacked[kind, delta][i : i + 1]
        codes = model.posterior(torch.cat([self.x[i : i + 1], hit])).mean
        density = posterior_density(model, hit)
        points = torch.cat([codes, path[-1:]])

        def log_density(z: Tensor) -> Tensor:
            return density(z, torch.zeros(len(z), dtype=torch.long))

        return slice_through(log_density, points, path), codes

    @torch.no_grad()
    def _draw(self, change=None) -> None:
        at = self.kind.value, self.delta.value
        i, t = self.image.value, self.transitions.value
        plane, codes = self._slice(*at, i)
        path = self.chains[at].path[i]
        goal, gone, now = self.models[at[0]].decode(torch.cat([codes, path[t : t + 1]]))
        row = torch.stack([self.x[i], goal, self.attacked[at][i], gone, now])
        self.picture.value = enlarged(row, width=96)
        before = (gone - goal).square().mean()
        after = (now - goal).square().mean()
        self.say(
            f"MSE to the clean reconstruction: attacked <b>{before:.4f}</b>",
            f"after {t * self.each} gradients <b>{after:.4f}</b>",
        )
        self.curve.value = _path_svg(plane, path, codes, t)


def _path_svg(plane: Slice, path: Tensor, codes: Tensor, t: int) -> bytes:
    """Draw the slice in grey with the path up to transition t."""
    shade = (1 + plane.values.clamp_min(-200).flip(0) / 200)[None, None]
    heat = base64.b64encode(tile([shade], zoom=4, gap=0)).decode()
    places = [_place(plane, z) for z in path[: t + 1]]
    width = _SIZE + 2 * _EDGE
    marks = [
        _HEAT.format(heat),
        polyline(places, COLORS[1], ' stroke-width="1.5"'),
        _named_dot(_place(plane, codes[0]), COLORS[0], "clean code"),
        _named_dot(_place(plane, codes[1]), COLORS[3], "attacked"),
        _named_dot(places[t], COLORS[1], "now", left=True),
        text(_EDGE, _EDGE - 18, _NOTE[0], ""),
        text(_EDGE, _EDGE - 4, _NOTE[1], ""),
        text(width / 2, width - 10, "clean code to attacked code →"),
    ]
    return drawing(width, width + 20, marks)


def _place(plane: Slice, z: Tensor) -> tuple[float, float]:
    """Where a code lies in the picture, in pixels."""
    a, b = plane.project(z[None])[0]
    x, y = _share(a, plane.a), _share(b, plane.b)
    return _EDGE + _SIZE * x, _EDGE + _SIZE * (1 - y)


def _share(at: Tensor, ticks: Tensor) -> float:
    """How far along the picture a place is: the ticks are the middles of its cells."""
    cells = len(ticks)
    along = (at - ticks[0]) / (ticks[-1] - ticks[0]) * (cells - 1)
    return (0.5 + along.item()) / cells


def _named_dot(place: tuple[float, float], color: str, name: str, *, left: bool = False) -> str:
    """A dot with its name to the right, or to the left, where it may lie on another."""
    x, y = place
    if left:
        label = text(f"{x - 9:.1f}", f"{y + 4:.1f}", name, f"{_END}{_HALO}")
    else:
        label = text(f"{x + 9:.1f}", f"{y + 4:.1f}", name, _HALO)
    return circle(x, y, color, ' stroke="white"') + label
