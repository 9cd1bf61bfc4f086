"""The explorer of HMC as a defence (notebook 05)."""

import base64
from functools import lru_cache

import ipywidgets as ipw
import torch
from torch import Tensor

from vaenb.contract import LatentModel
from vaenb.metrics.slices import Slice, slice_through
from vaenb.plots import COLORS, tile
from vaenb.sampling import hmc
from vaenb.sampling.posterior import posterior_density


class RepairExplorer:
    """Drag the attack radius δ, β and the number of HMC transitions, and watch a code go back.

    `models` are keyed by β; `attacked`, images like `x` (N, C, H, W), and the `chains` that `hmc.repair` gave for them
    by (β, δ). All chains are equally long. A slice of the attacked image's posterior shows the chain's path; it is
    computed when it is first looked at.
    """

    def __init__(
        self,
        models: dict[float, LatentModel],
        attacked: dict[tuple[float, float], Tensor],
        chains: dict[tuple[float, float], hmc.Chains],
        x: Tensor,
    ) -> None:
        deltas = sorted({delta for _, delta in attacked})
        if set(attacked) != {(beta, delta) for beta in models for delta in deltas} or not attacked:
            raise ValueError(f"attacked: one for each (β, δ) of β {list(models)} expected, got {list(attacked)}")
        lengths = {tuple(c.path.shape[:2]) for c in chains.values()}
        if attacked.keys() != chains.keys() or len(lengths) != 1 or next(iter(lengths))[0] != len(x):
            raise ValueError(f"chains: of {len(x)} images, equally long, for each of {list(attacked)} expected")
        self.models, self.attacked, self.chains, self.x = models, attacked, chains, x
        transitions = next(iter(lengths))[1] - 1
        wide = {"style": {"description_width": "11em"}, "layout": ipw.Layout(width="34em")}
        self.delta = ipw.SelectionSlider(
            options=[(f"{d:g}", d) for d in deltas], value=deltas[-1], description="attack radius δ", **wide
        )
        self.transitions = ipw.IntSlider(0, 0, transitions, description="HMC transitions", **wide)
        betas = [(f"{beta:g}", beta) for beta in models]
        self.beta = ipw.SelectionSlider(options=betas, description="KL weight β", continuous_update=False, **wide)
        self.image = ipw.IntSlider(0, 0, len(x) - 1, description="test image", continuous_update=False, **wide)
        self.picture, self.curve = ipw.Image(format="png"), ipw.Image(format="svg+xml")
        self.numbers = ipw.HTML(layout=ipw.Layout(min_width="34em"))
        self._slice = lru_cache(maxsize=64)(self._compute_slice)
        for slider in (self.delta, self.transitions, self.beta, self.image):
            slider.observe(self._draw, "value")
        captions = ipw.HTML("<b>clean · its reconstruction · attacked · its reconstruction · repaired</b>")
        left = ipw.VBox([captions, self.picture, self.numbers])
        self.view = ipw.VBox([self.delta, self.transitions, self.beta, self.image, ipw.HBox([left, self.curve])])
        self._draw()

    def _compute_slice(self, beta: float, delta: float, i: int) -> tuple[Slice, Tensor]:
        """The slice through the clean image's code, the attacked one's and where its chain ended; and the former."""
        model, path = self.models[beta], self.chains[beta, delta].path[i]
        with torch.no_grad():
            clean = model.posterior(self.x[i : i + 1]).mean[0]
        density = posterior_density(model, self.attacked[beta, delta][i : i + 1])
        points = torch.stack([clean, path[0], path[-1]])
        return slice_through(lambda z: density(z, torch.zeros(len(z), dtype=torch.long)), points, path), clean

    @torch.no_grad()
    def _draw(self, change=None) -> None:
        beta, delta, i, t = self.beta.value, self.delta.value, self.image.value, self.transitions.value
        model, chains = self.models[beta], self.chains[beta, delta]
        plane, clean = self._slice(beta, delta, i)
        path = chains.path[i]
        decoded = model.decode(torch.stack([clean, path[0], path[t]]))
        row = [self.x[i], decoded[0], self.attacked[beta, delta][i], decoded[1], decoded[2]]
        self.picture.value = tile([torch.stack(row).cpu()], zoom=max(1, 96 // self.x.shape[-1]))
        gradients = (chains.gradient_calls - 1) // (len(path) - 1) * t
        gone, left = ((decoded[k] - decoded[0]).square().mean().item() for k in (1, 2))
        self.numbers.value = (
            f"MSE to the clean reconstruction: attacked <b>{gone:.4f}</b> · after {t} transitions "
            f"({gradients} gradients) <b>{left:.4f}</b>"
        )
        self.curve.value = _path_svg(plane, path, clean, t).encode()


def _path_svg(plane: Slice, path: Tensor, clean: Tensor, t: int) -> str:
    """Draw the slice in grey with the path up to transition t."""
    size, edge = 300, 30
    shade = (1 + plane.values.clamp_min(-200).flip(0) / 200)[None, None]
    heat = base64.b64encode(tile([shade.cpu()], zoom=4, gap=0)).decode()

    def place(z: Tensor) -> tuple[float, float]:
        a, b = plane.project(z[None])[0]
        x = (a - plane.a[0]) / (plane.a[-1] - plane.a[0])
        y = (b - plane.b[0]) / (plane.b[-1] - plane.b[0])
        return edge + size * x.item(), edge + size * (1 - y.item())

    def dot(z: Tensor, color: str, name: str) -> str:
        x, y = place(z)
        label = (
            f'<text x="{x + 9:.1f}" y="{y + 4:.1f}" stroke="white" stroke-width="3" paint-order="stroke">{name}</text>'
        )
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="6" fill="{color}" stroke="white"/>{label}'

    way = " ".join(f"{x:.1f},{y:.1f}" for x, y in map(place, path[: t + 1]))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{size + 2 * edge}" height="{size + 2 * edge + 20}" '
        f'font-family="Helvetica, Arial, sans-serif" font-size="12"><rect width="100%" height="100%" fill="white"/>'
        f'<image x="{edge}" y="{edge}" width="{size}" height="{size}" preserveAspectRatio="none" '
        f'href="data:image/png;base64,{heat}"/>'
        f'<polyline points="{way}" fill="none" stroke="{COLORS[1]}" stroke-width="1.5"/>'
        f"{dot(clean, COLORS[0], 'clean code')}{dot(path[0], COLORS[3], 'attacked')}{dot(path[t], COLORS[1], 'now')}"
        f'<text x="{edge}" y="{edge - 10}">log p(z | attacked image) on a plane; white: high, black: −200 nats</text>'
        f'<text x="{edge + size / 2}" y="{size + edge + 20}" text-anchor="middle">clean code to attacked code →</text>'
        "</svg>"
    )
