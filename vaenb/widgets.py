"""The explorers: sliders in front of results that are already there, so that a slider never waits for a computation.

An explorer is a small class whose attributes are its sliders and outputs, and whose `view` is what a notebook shows.
"""

from functools import lru_cache

import ipywidgets as ipw
import torch
from torch import Tensor

from vaenb.metrics.distortion import DDCurve
from vaenb.models.contract import LatentModel
from vaenb.plots import COLORS, tile


class LatentAttackExplorer:
    """Drag the attack radius ε and β, and watch one image's reconstruction break.

    `models` and `curves` are keyed by β; a curve is a `dd_curve` of the latents of images `x` (N, C, H, W), all of them
    over the same radii and with SSIM among its metrics. Moving a slider decodes at most one curve of one image.
    """

    def __init__(self, models: dict[float, LatentModel], curves: dict[float, DDCurve], x: Tensor) -> None:
        if models.keys() != curves.keys() or not models:
            raise ValueError(f"curves: one for each β of models {list(models)} expected, got {list(curves)}")
        first = next(iter(curves.values()))
        if any(not torch.equal(c.radii, first.radii) or c.adversarial.shape[1] != len(x) for c in curves.values()):
            raise ValueError(f"curves: the same radii, and {len(x)} images as in x, expected for every β")
        if first.radii[0] != 0 or "SSIM" not in first.values:
            raise ValueError("curves: radii from 0 (the plain reconstruction) and SSIM among the metrics expected")
        self.models, self.curves, self.x = models, curves, x
        radii = [(f"{r:.3g}", k) for k, r in enumerate(first.radii.tolist())]
        wide = {"style": {"description_width": "11em"}, "layout": ipw.Layout(width="34em")}
        self.eps = ipw.SelectionSlider(options=radii, description="attack radius ε", continuous_update=True, **wide)
        betas = [(f"{beta:g}", beta) for beta in models]
        self.beta = ipw.SelectionSlider(options=betas, description="KL weight β", continuous_update=False, **wide)
        self.image = ipw.IntSlider(0, 0, len(x) - 1, description="test image", continuous_update=False, **wide)
        self.picture = ipw.Image(format="png")
        self.curve = ipw.Image(format="svg+xml")
        self.numbers = ipw.HTML(layout=ipw.Layout(min_width="34em"))
        self._decoded = lru_cache(maxsize=64)(self._decode)
        for slider in (self.eps, self.beta, self.image):
            slider.observe(self._draw, "value")
        sliders = ipw.VBox([self.eps, self.beta, self.image])
        captions = ipw.HTML("<b>original · reconstruction · attacked reconstruction</b>")
        self.view = ipw.VBox([sliders, ipw.HBox([ipw.VBox([captions, self.picture, self.numbers]), self.curve])])
        self._draw()

    @torch.no_grad()
    def _decode(self, beta: float, image: int) -> Tensor:
        """Decode one image's attacked latents at every radius: (K, C, H, W)."""
        return self.models[beta].decode(self.curves[beta].adversarial[:, image])

    def _draw(self, change=None) -> None:
        k, beta, i = self.eps.value, self.beta.value, self.image.value
        decoded, curve = self._decoded(beta, i), self.curves[beta]
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
