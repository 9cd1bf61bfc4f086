"""The explorer of attacks on decoders (notebooks 00, 03 and 04)."""

from functools import lru_cache

import ipywidgets as ipw
import torch
from torch import Tensor

from vaenb.contract import LatentModel
from vaenb.metrics.distortion import DDCurve
from vaenb.plots import COLORS, tile
from vaenb.widgets.chart import Chart


class LatentAttackExplorer:
    """Drag the attack radius ε, its target, and the model (by β or by name), and watch a reconstruction break.

    `models` are keyed by β or by name; `curves` by (β or name, target) are `dd_curve`s of the latents of images `x`
    (N, C, H, W), all of them over the same radii from 0, in `unit`, and with SSIM among the metrics. Moving a slider
    decodes at most one curve of one image.
    """

    def __init__(
        self,
        models: dict[float | str, LatentModel],
        curves: dict[tuple[float | str, str], DDCurve],
        x: Tensor,
        *,
        unit: str = "latent units",
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
        self.models, self.curves, self.x, self.unit = models, curves, x, unit
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
        self.curve.value = _curve_svg(curve, "SSIM", k, i, self.unit).encode()


def _curve_svg(curve: DDCurve, metric: str, k: int, i: int, unit: str) -> str:
    """Draw the mean curve, this image's curve and the point on it."""
    radii, values = curve.radii.tolist(), curve.values[metric]
    one, mean = values[:, i].tolist(), values.mean(1).tolist()
    chart = Chart((radii[0], radii[-1]), (min(0.0, values.min().item()), 1.0), f"attack radius ε ({unit})", metric)
    chart.line(radii, mean, "#999999", dashed=True)
    chart.line(radii, one, COLORS[0])
    chart.dot(radii[k], one[k])
    return chart.svg(("this image", COLORS[0]), ("mean, dashed", "#666"))
