"""The explorer of what a radius is (notebook 03)."""

from collections.abc import Mapping
from functools import lru_cache
from html import escape
from itertools import cycle

import ipywidgets as ipw
import torch
from torch import Tensor

from vaenb.checks import check_number
from vaenb.contract import LatentModel
from vaenb.metrics.distortion import DDCurve, aaddc_abs, scale_free
from vaenb.plots import COLORS
from vaenb.widgets.chart import LAZY, Chart, Explorer, check_curves, enlarged, radius_slider, slider_of

LATENT, OWN = "latent units", "own spreads"


class UnitExplorer(Explorer):
    """Drag the attack radius ε, switch the unit that it is counted in, and watch the order of the models.

    `models[λ]` are the models that are compared, by name, at one weight λ of their regularizers (a model that has none
    stands under each λ). `curves[λ][name]` are `dd_curve`s of the codes of images `x` (N, C, H, W), all of them over
    the same radii from 0, with SSIM among the metrics; `units[λ][name]` is the `spread` of that model's codes. With one
    λ there is no slider for it.

    In own spreads there are as many radii, from 0 to the smallest radii[-1] / unit at that λ. SSIM is linearly
    interpolated there (`scale_free`), and a picture is of the measured radius that is nearest. The order is that of the
    means over images, at ε and by the area under the curve in the chosen unit (`aaddc_abs`). Moving a slider decodes at
    most one curve of one image for each model.
    """

    def __init__(
        self,
        models: dict[float, dict[str, LatentModel]],
        curves: dict[float, dict[str, DDCurve]],
        x: Tensor,
        units: dict[float, dict[str, float]],
    ) -> None:
        _check_names(models, curves=curves, units=units)
        every: list[DDCurve] = []
        for group in curves.values():
            every += group.values()
        self.radii = check_curves("curves", every, x).cpu()
        for lam, own in units.items():
            for name, unit in own.items():
                check_number(f"units[{lam!r}][{name!r}]", unit, "a positive spread", above=0)
        self.models, self.curves, self.units = models, curves, units
        self.x = x.cpu()
        self._decoded = lru_cache(maxsize=64)(self._decode)
        self.unit = ipw.ToggleButtons(options=[LATENT, OWN], description="radius in")
        self.unit.style.description_width = "11em"
        self.eps = radius_slider(self.radii.tolist(), "attack radius ε")
        self.lam = slider_of(models, "weight λ", **LAZY)
        self.image = slider_of(range(len(x)), "test image", **LAZY)
        self.unit.observe(self._relabel, "value")
        self.lam.observe(self._relabel, "value")
        names = escape(", ".join(next(iter(models.values()))))
        super().__init__(f"original · reconstructions by {names}, and below them attacked ones")
        if len(models) == 1:
            self.sliders.children = self.unit, self.eps, self.image

    def compared(self, unit: str, lam: float) -> tuple[Tensor, dict[str, Tensor]]:
        """The radii in this unit, (K,), and each model's SSIM there, (K, N)."""
        units = self.units[lam]
        radii = self.radii
        reach = radii[-1].item() / max(units.values())
        values = {}
        for name, curve in self.curves[lam].items():
            values[name] = curve.values["SSIM"].cpu()
            if unit == OWN:
                radii, values[name] = scale_free(
                    self.radii, values[name], unit=units[name], reach=reach, points=len(self.radii)
                )
        return radii, values

    @torch.no_grad()
    def _decode(self, lam: float, name: str, image: int) -> Tensor:
        """Decode one image's attacked codes at every measured radius: (K, C, H, W)."""
        codes = self.curves[lam][name].adversarial[:, image]
        return self.models[lam][name].decode(codes).cpu()

    def _relabel(self, change=None) -> None:
        """Name the slider's places by the radii of this unit, without moving it or drawing."""
        radii, _ = self.compared(self.unit.value, self.lam.value)
        at = self.eps.index
        self.eps.unobserve(self._draw, "value")
        with self.eps.hold_sync():
            self.eps.options = [(f"{eps:.3g}", k) for k, eps in enumerate(radii.tolist())]
            self.eps.index = at
        self.eps.observe(self._draw, "value")

    def _draw(self, change=None) -> None:
        k, i = self.eps.value, self.image.value
        unit, lam = self.unit.value, self.lam.value
        radii, values = self.compared(unit, lam)
        rows, shown = self._pictures(radii[k].item())
        self.picture.value = enlarged(*rows, width=128)
        here, areas, this = {}, {}, {}
        for name, ssim in values.items():
            mean = ssim.mean(1)
            here[name] = mean[k].item()
            areas[name] = aaddc_abs(radii, mean, better="higher").item()
            this[name] = ssim[k, i].item()
        lines = (
            f"mean SSIM at ε = {radii[k]:.3g} {unit}: <b>{ordered(here)}</b>",
            f"by the area under the curve (AADDC): <b>{ordered(areas)}</b>",
            f"SSIM of this image: {ordered(this)}",
            f"pictures at the nearest measured radii, in latent units: {shown}",
        )
        self.numbers.value = "<br>".join(lines)
        self.curve.value = _chart(radii, values, k, i, unit)

    def _pictures(self, eps: float) -> tuple[list[Tensor], str]:
        """Two rows of images, clean and attacked, and the measured radii at which they were attacked, in words."""
        lam, i = self.lam.value, self.image.value
        clean, attacked = [self.x[i]], [torch.ones_like(self.x[i])]
        shown = []
        for name in self.models[lam]:
            step = eps * self.units[lam][name] if self.unit.value == OWN else eps
            at = (self.radii - step).abs().argmin()
            decoded = self._decoded(lam, name, i)
            clean.append(decoded[0])
            attacked.append(decoded[at])
            shown.append(f"{escape(name)} {self.radii[at]:.3g}")
        return [torch.stack(clean), torch.stack(attacked)], ", ".join(shown)


def ordered(scores: Mapping[str, float]) -> str:
    """Names and scores from the largest down; = stands between scores that look equal."""
    text, last = "", ""
    for name in sorted(scores, key=scores.__getitem__, reverse=True):
        score = f"{scores[name]:z.2f}"
        if text:
            text += " = " if score == last else " > "
        text += f"{escape(name)} {score}"
        last = score
    return text


def _chart(radii: Tensor, values: dict[str, Tensor], k: int, i: int, unit: str) -> bytes:
    """Each model's mean over images, with a dot at this radius and a ring for the one image."""
    places = radii.tolist()
    low = min(0.0, torch.stack([*values.values()]).min().item())
    chart = Chart((0, places[-1]), (low, 1), f"attack radius ε ({unit})", "mean SSIM")
    chart.make_room()
    chart.guide([places[k], places[k]], [low, 1])
    for (name, ssim), color in zip(values.items(), cycle(COLORS), strict=False):
        mean = ssim.mean(1).tolist()
        chart.line(places, mean, color, name=name)
        chart.dot(places[k], mean[k], color)
        chart.ring(places[k], ssim[k, i].item(), color)
    return chart.svg(("ring: this image", "#666"))


def _check_names(models: Mapping, **results: Mapping) -> None:
    """Refuse what is not there for the same models at each λ."""
    names = _names(models)
    first = next(iter(names.values()), "")
    if not first or isinstance(first, str) or names != dict.fromkeys(models, first):
        raise ValueError(f"models: {{λ: {{name: model}}}}, the same names at each λ, expected, got {names}")
    for argument, found in results.items():
        got = _names(found)
        if got != names:
            raise ValueError(f"{argument}: one for each of the models {names} expected, got {got}")


def _names(results: Mapping) -> dict[float, list[str] | str]:
    found: dict[float, list[str] | str] = {}
    for lam, group in results.items():
        found[lam] = sorted(group) if isinstance(group, Mapping) else type(group).__name__
    return found
