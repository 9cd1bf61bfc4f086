"""The explorer of attacks on decoders (notebooks 00, 03 and 04)."""

from functools import lru_cache
from html import escape

import torch
from torch import Tensor

from vaenb.contract import LatentModel
from vaenb.metrics.distortion import DDCurve
from vaenb.widgets.chart import LAZY, Chart, Explorer, check_curves, check_pairs, enlarged, slider_of

Name = float | str


class LatentAttackExplorer(Explorer):
    """Drag the attack radius ε, its target, and the model (by β or by name), and watch a reconstruction break.

    `models` are keyed by β or by name; `curves` by (β or name, target) are `dd_curve`s of the latents of images `x`
    (N, C, H, W), all of them over the same radii from 0, and with SSIM among the metrics. Moving a slider decodes
    at most one curve of one image.
    """

    def __init__(
        self,
        models: dict[Name, LatentModel],
        curves: dict[tuple[Name, str], DDCurve],
        x: Tensor,
    ) -> None:
        targets = check_pairs("curves", curves, models, "(model, target)")
        radii = check_curves("curves", curves.values(), x)
        self.models, self.curves = models, curves
        self.x = x.cpu()
        self._decoded = lru_cache(maxsize=64)(self._decode)
        named = any(isinstance(name, str) for name in models)
        self.eps = slider_of(range(len(radii)), "attack radius ε", lambda k: f"{radii[k]:.3g}")
        self.target = slider_of(targets, "target", **LAZY)
        self.model = slider_of(models, "model" if named else "weight β", **LAZY)
        self.image = slider_of(range(len(x)), "test image", **LAZY)
        super().__init__("original · reconstruction · attacked reconstruction")
        if len(targets) == 1:
            self.sliders.children = self.eps, self.model, self.image

    @torch.no_grad()
    def _decode(self, name: Name, target: str, image: int) -> Tensor:
        """Decode one image's attacked latents at every radius: (K, C, H, W)."""
        codes = self.curves[name, target].adversarial[:, image]
        return self.models[name].decode(codes).cpu()

    def _draw(self, change=None) -> None:
        k, i = self.eps.value, self.image.value
        at = self.model.value, self.target.value
        curve = self.curves[at]
        decoded = self._decoded(*at, i)
        row = torch.stack([self.x[i], decoded[0], decoded[k]])
        self.picture.value = enlarged(row, width=192)
        shown = []
        for metric, values in curve.values.items():
            shown.append(f"{escape(metric)} <b>{values[k, i]:.3f}</b>")
        self.say(f"reconstruction against attacked reconstruction: {shown[0]}", *shown[1:])
        radii, ssim = curve.radii.tolist(), curve.values["SSIM"]
        low = min(0.0, ssim.min().item())
        chart = Chart((0, radii[-1]), (low, 1), "attack radius ε (latent units)", "SSIM")
        self.curve.value = chart.one_of_many(radii, ssim, i, k, "this image", "mean")
