"""The explorer of diffusion models as denoisers (notebook 07, document 002b: Deja et al., 2022, 2206.00070)."""

import math
from collections.abc import Sequence
from numbers import Integral

import ipywidgets as ipw
import torch
from torch import Tensor

from vaenb.checks import check_images
from vaenb.models.diffusion import DDGM, _image
from vaenb.plots import COLORS, tile
from vaenb.widgets.chart import Chart, slider_of, view_of

_WAYS = {"noisy": "#777777", "walk back": COLORS[0], "single guess": COLORS[2]}  # and their colours
_NOISE = 'share of noise, 1 − ᾱ<tspan dy="3" font-size="9">t</tspan>'


class _TallChart(Chart):
    """With room for a legend over the curves."""

    height, bottom = 330, 290


class DenoisingExplorer:
    """Drag the noise up, and compare three ways to take it out again, each with its error.

    `images` are sources by name, such as training and unseen images, as many of each, (N, C, S, S). Every image is
    noised to each of `steps` of the `ddgm`, with the same noise ε at each, and denoised by its walk back (ancestral,
    step by step), by its single guess from x_t, and by each of the `denoisers` (document 002b's DAEs, by their β₁).
    All this is computed here, sum(steps) + len(steps) · (1 + len(denoisers)) calls of a network on all images, so that
    no slider waits. MSEs are those of the pictures shown, which are clipped to [0, 1], the noisy one too.

    A denoiser is given x_t · √((1 − β₁)/ᾱ_t): the noisy picture x_t/√ᾱ_t at the signal level that it was trained for.
    Only the noise may then be other than in training: as strong where 1 − ᾱ_t = β₁ (the chart's dashed line), weaker
    to the left, stronger to the right. Given x_t itself, it would also return a dimmed image.
    """

    def __init__(
        self,
        images: dict[str, Tensor],
        ddgm: DDGM,
        denoisers: dict[float, DDGM],
        *,
        steps: Sequence[int],
        seed: int = 0,
    ) -> None:
        _check_models(ddgm, denoisers)
        _check_sources(images, ddgm)
        self.steps = _sorted_steps(steps, ddgm)
        self.images = torch.stack(list(images.values())).cpu()  # (A, N, C, S, S)
        self.noise = {t: 1 - ddgm.alpha_bar[t].item() for t in self.steps}
        x = torch.cat(list(images.values())).to(ddgm.alpha_bar.device)
        made = [_denoised(ddgm, denoisers, x, t, seed) for t in self.steps]
        self.pictures = {n: torch.stack([m[n].view(self.images.shape) for m in made]) for n in made[0]}  # (K, A, N, …)
        self.errors = {n: (p - self.images).square().mean((3, 4, 5)) for n, p in self.pictures.items()}  # (K, A, N)
        self.source = slider_of([(name, k) for k, name in enumerate(images)], "source")
        levels = [(f"t = {t} · {_percent(self.noise[t])} noise", t) for t in self.steps]
        self.step = slider_of(levels, "noise level", value=self.steps[len(self.steps) // 2])
        self.beta = slider_of([(f"{beta:g}", beta) for beta in denoisers], "β₁ of the denoiser")
        self.image = slider_of(list(range(self.images.shape[1])), "image")
        self.zoom = max(1, 112 // self.images.shape[-1])
        wide = f"{5 * (self.zoom * self.images.shape[-1] + 4)}px"  # as the picture, whose parts are named below it
        self.picture = ipw.Image(format="png", layout=ipw.Layout(width=wide, min_width=wide))
        self.numbers = ipw.HTML(layout=ipw.Layout(width=wide, min_width=wide))
        self.curve = ipw.Image(format="svg+xml")
        sliders = [self.source, self.step, self.beta, self.image]
        for slider in sliders:
            slider.observe(self._draw, "value")
        caption = "an image, its noise, and three ways to take it out"
        self.view = view_of(sliders, caption, [self.picture, self.numbers], self.curve)
        self._draw()

    def _draw(self, change=None) -> None:
        source, i, beta = self.source.value, self.image.value, self.beta.value
        k, names = self.steps.index(self.step.value), [*_WAYS, beta]
        row = [self.images[source, i], *(self.pictures[name][k, source, i] for name in names)]
        self.picture.value = tile([torch.stack(row)], zoom=self.zoom)
        lines = ["clean<br>MSE to it:"]
        for name in names:
            lines.append(f"{_title(name)}<br><b>{self.errors[name][k, source, i]:.3g}</b>")
        cell = f"display:inline-block;width:{100 / len(row):g}%;text-align:center;vertical-align:top"
        cells = "".join(f'<span style="{cell}">{line}</span>' for line in lines)
        self.numbers.value = f'<div style="line-height:1.4">{cells}</div>'
        self.curve.value = self._chart(names, source, k, beta).encode()

    def _chart(self, names: list, source: int, k: int, beta: float) -> str:
        """Mean errors over the noise 1 − ᾱ_t, and where the denoiser was trained."""
        noise = [self.noise[t] for t in self.steps]
        means = {name: self.errors[name][:, source].mean(1).tolist() for name in names}
        colors, top = [*_WAYS.values(), COLORS[3]], max(1e-6, *(max(m) for m in means.values()))
        chart = _TallChart((0, noise[-1]), (0, 1.5 * top), _NOISE, "mean MSE")
        if beta <= noise[-1]:
            chart.line([beta, beta], [0, top], "#999999", dashed=True)
        for mean, color in zip(means.values(), colors, strict=True):
            chart.line(noise, mean, color)
            chart.dot(noise[k], mean[k])
        legend = zip(map(_title, names), colors, strict=True)
        return chart.svg(*legend, ("trained at β₁, dashed", "#666"))


@torch.no_grad()
def _denoised(ddgm: DDGM, denoisers: dict[float, DDGM], x: Tensor, t: int, seed: int) -> dict[str | float, Tensor]:
    generator = torch.Generator().manual_seed(seed)  # anew for each step: the same noise, and more of it
    x_t, level = ddgm.noised(x, t, generator=generator), ddgm.alpha_bar[t].item()
    made = {
        "noisy": _image(x_t / math.sqrt(level)),
        "walk back": ddgm.denoise(x_t, t, generator=generator),
        "single guess": ddgm.denoise(x_t, t, evaluations=1),
    }
    for beta, denoiser in denoisers.items():
        made[beta] = denoiser.denoise(x_t * math.sqrt(denoiser.alpha_bar[1].item() / level), 1)
    return {name: images.cpu() for name, images in made.items()}


def _check_models(ddgm: DDGM, denoisers: dict[float, DDGM]) -> None:
    if not isinstance(ddgm, DDGM):
        raise TypeError(f"ddgm: a diffusion.DDGM expected, got {type(ddgm).__name__}")
    if not denoisers:
        raise ValueError("denoisers: one or more, by β₁, expected, got none; diffusion.denoiser builds them")
    for beta, model in denoisers.items():
        where = f"denoisers[{beta!r}]"
        if not isinstance(model, DDGM):
            raise TypeError(f"{where}: a diffusion.DDGM expected, got {type(model).__name__}")
        if model.steps != 1 or model.image_shape != ddgm.image_shape:
            got = f"{model.steps} of {model.image_shape}"
            raise ValueError(f"{where}: a model of one step of images {ddgm.image_shape} expected, got {got}")
        if abs(beta - (own := 1 - model.alpha_bar[1].item())) > 1e-6:
            raise ValueError(f"{where}: the key is not the model's β₁, which is {own:.4g}")


def _check_sources(images: dict[str, Tensor], ddgm: DDGM) -> None:
    if not images:
        raise ValueError("images: one source or more expected, got none")
    for name, x in images.items():
        check_images(x, f"images[{name!r}]")
    shapes = {name: tuple(x.shape) for name, x in images.items()}
    if len(set(shapes.values())) > 1 or next(iter(shapes.values()))[1:] != ddgm.image_shape:
        raise ValueError(
            f"images: as many of each source, (N, {', '.join(map(str, ddgm.image_shape))}), expected, got {shapes}"
        )


def _sorted_steps(steps: Sequence[int], ddgm: DDGM) -> list[int]:
    whole = [t for t in steps if isinstance(t, Integral) and not isinstance(t, bool) and 1 <= t <= ddgm.steps]
    if not whole or len(whole) < len(steps):
        raise ValueError(f"steps: one whole number or more from 1 to {ddgm.steps} expected, got {list(steps)}")
    return sorted({int(t) for t in whole})


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %" if share < 0.1 else f"{100 * share:.0f} %"


def _title(name: str | float) -> str:
    return name if isinstance(name, str) else f"denoiser β₁ = {name:g}"
