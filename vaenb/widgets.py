"""The explorers: sliders in front of results that are already there, so that a slider never waits for a computation.

An explorer is a small class whose attributes are its sliders and outputs, and whose `view` is what a notebook shows.
"""

import base64
from functools import lru_cache

import ipywidgets as ipw
import torch
from torch import Tensor

from vaenb import hmc
from vaenb.metrics.distortion import DDCurve
from vaenb.metrics.slices import Slice, slice_through
from vaenb.models.contract import LatentModel
from vaenb.plots import COLORS, tile


class LatentAttackExplorer:
    """Drag the attack radius ε, its target, and the model (by β or by name), and watch a reconstruction break.

    `models` are keyed by β or by name; `curves` by (β or name, target) are `dd_curve`s of the latents of images `x`
    (N, C, H, W), all of them over the same radii from 0 and with SSIM among the metrics. Moving a slider
    decodes at most one curve of one image.
    """

    def __init__(
        self,
        models: dict[float | str, LatentModel],
        curves: dict[tuple[float | str, str], DDCurve],
        x: Tensor,
    ) -> None:
        targets = list(dict.fromkeys(target for _, target in curves))
        if set(curves) != {(name, target) for name in models for target in targets} or not curves:
            raise ValueError(
                f"curves: one for each (model, target) of models {list(models)} expected, got {list(curves)}"
            )
        first = next(iter(curves.values()))
        if any(not torch.equal(c.radii, first.radii) or c.adversarial.shape[1] != len(x) for c in curves.values()):
            raise ValueError(f"curves: the same radii, and {len(x)} images as in x, expected in each")
        if any(c.radii[0] != 0 or "SSIM" not in c.values for c in curves.values()):
            raise ValueError("curves: radii from 0 (the plain reconstruction) and SSIM among the metrics expected")
        self.models, self.curves, self.x = models, curves, x
        wide = {"style": {"description_width": "11em"}, "layout": ipw.Layout(width="34em")}
        steps = [(f"{r:.3g}", k) for k, r in enumerate(first.radii.tolist())]
        self.eps = ipw.SelectionSlider(options=steps, description="attack radius ε", continuous_update=True, **wide)
        numbers = all(isinstance(name, (int, float)) for name in models)
        names = [(f"{name:g}" if numbers else str(name), name) for name in models]
        label = "weight β" if numbers else "model"
        self.model = ipw.SelectionSlider(options=names, description=label, continuous_update=False, **wide)
        self.target = ipw.SelectionSlider(options=targets, description="target", continuous_update=False, **wide)
        self.image = ipw.IntSlider(0, 0, len(x) - 1, description="test image", continuous_update=False, **wide)
        self.picture = ipw.Image(format="png")
        self.curve = ipw.Image(format="svg+xml")
        self.numbers = ipw.HTML(layout=ipw.Layout(min_width="34em"))
        self._decoded = lru_cache(maxsize=64)(self._decode)
        sliders = [self.eps, self.target, self.model, self.image]
        if len(targets) == 1:
            sliders.remove(self.target)
        for slider in sliders:
            slider.observe(self._draw, "value")
        captions = ipw.HTML("<b>original · reconstruction · attacked reconstruction</b>")
        left = ipw.VBox([captions, self.picture, self.numbers])
        self.view = ipw.VBox([ipw.VBox(sliders), ipw.HBox([left, self.curve])])
        self._draw()

    @torch.no_grad()
    def _decode(self, name: float | str, target: str, image: int) -> Tensor:
        """Decode one image's attacked latents at every radius: (K, C, H, W)."""
        return self.models[name].decode(self.curves[name, target].adversarial[:, image])

    def _draw(self, change=None) -> None:
        k, i, at = self.eps.value, self.image.value, (self.model.value, self.target.value)
        decoded, curve = self._decoded(*at, i), self.curves[at]
        zoom = max(1, 192 // self.x.shape[-1])
        self.picture.value = tile([torch.stack([self.x[i].cpu(), decoded[0].cpu(), decoded[k].cpu()])], zoom=zoom)
        values = {name: v[k, i].item() for name, v in curve.values.items()}
        shown = " · ".join(f"{name} <b>{value:.3f}</b>" for name, value in values.items())
        self.numbers.value = f"reconstruction against attacked reconstruction: {shown}"
        self.curve.value = _curve_svg(curve, "SSIM", k, i).encode()


def _curve_svg(curve: DDCurve, metric: str, k: int, i: int) -> str:
    """Draw the mean curve, this image's curve and the point on it; plotly would take 300 ms where this takes 0.1."""
    width, height, left, bottom, top = 380, 240, 50, 200, 20
    radii, values = curve.radii.tolist(), curve.values[metric]
    low = min(0.0, values.min().item())

    def x(r: float) -> float:
        return left + (r - radii[0]) / (radii[-1] - radii[0]) * (width - left - 20)

    def y(v: float) -> float:
        return bottom - (v - low) / (1 - low) * (bottom - top)

    def line(numbers: list[float], color: str, extra: str = "") -> str:
        points = " ".join(f"{x(r):.1f},{y(v):.1f}" for r, v in zip(radii, numbers, strict=True))
        return f'<polyline points="{points}" fill="none" stroke="{color}" stroke-width="2.5" {extra}/>'

    one = values[:, i].tolist()
    mean = line(values.mean(1).tolist(), "#999999", 'stroke-dasharray="6 4"')
    ticks = "".join(
        f'<text x="{x(r):.1f}" y="{bottom + 17}" text-anchor="middle">{r:.2g}</text>'
        for r in (radii[0], radii[len(radii) // 2], radii[-1])
    ) + "".join(f'<text x="{left - 8}" y="{y(v) + 4:.1f}" text-anchor="end">{v:.1f}</text>' for v in (0.0, 0.5, 1.0))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="Helvetica, Arial, '
        f'sans-serif" font-size="12"><rect width="100%" height="100%" fill="white"/>'
        f'<path d="M{left},{top}V{bottom}H{width - 20}" fill="none" stroke="#888"/>{ticks}'
        f'<text x="{(left + width) / 2}" y="{height - 4}" text-anchor="middle">attack radius ε (latent units)</text>'
        f'<text x="14" y="{(top + bottom) / 2}" transform="rotate(-90 14 {(top + bottom) / 2})" text-anchor="middle">'
        f"{metric}</text>{mean}{line(one, COLORS[0])}"
        f'<circle cx="{x(radii[k]):.1f}" cy="{y(one[k]):.1f}" r="6" fill="{COLORS[1]}"/>'
        f'<text x="{width - 20}" y="{top + 2}" text-anchor="end" fill="{COLORS[0]}">this image</text>'
        f'<text x="{width - 20}" y="{top + 18}" text-anchor="end" fill="#666">mean, dashed</text></svg>'
    )


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
        density = hmc.posterior_density(model, self.attacked[beta, delta][i : i + 1])
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
