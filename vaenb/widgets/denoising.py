"""The explorer of diffusion models as denoisers (notebook 07, document 002b: Deja et al., 2022, 2206.00070)."""

import math
from collections.abc import Sequence

import ipywidgets as ipw
import torch
from torch import Tensor

from vaenb.checks import check_whole
from vaenb.distributions import seeded
from vaenb.models.diffusion import DDGM, as_images
from vaenb.plots import COLORS, tile
from vaenb.widgets.chart import Chart, Explorer, slider_of

_WAYS = {"noisy": "#777777", "walk back": COLORS[0], "single guess": COLORS[2]}  # and their colours
_NOISE = 'share of noise, 1 − ᾱ<tspan dy="3" font-size="9">t</tspan>'
_STYLE = "display:inline-block;width:20%;text-align:center;vertical-align:top"
_CELL = f'<span style="{_STYLE}">{{}}</span>'
_DENOISER = "denoiser β₁ = {:g}"


class DenoisingExplorer(Explorer):
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
        if not images or not denoisers or not steps:
            raise ValueError("images, denoisers, steps: one or more of each expected")
        for t in steps:
            check_whole("steps", t, most=ddgm.steps)
        for beta, denoiser in denoisers.items():
            own = 1 - denoiser.alpha_bar[1].item()
            if abs(beta - own) > 1e-6:
                raise ValueError(f"denoisers[{beta!r}]: the key is not the model's β₁, which is {own:.4g}")
        sizes = {name: len(x) for name, x in images.items()}
        if len(set(sizes.values())) > 1:
            raise ValueError(f"images: as many of each source expected, got {sizes}")
        self.steps = sorted(set(steps))
        x = torch.cat(list(images.values())).to(ddgm.alpha_bar.device)
        made: dict[str, list[Tensor]] = {}
        self.noise: list[float] = []
        for t in self.steps:
            self.noise.append(1 - ddgm.alpha_bar[t].item())
            for name, pictures in _denoised(ddgm, denoisers, x, t, seed).items():
                made.setdefault(name, []).append(pictures.cpu())
        self.images = x.cpu().unflatten(0, (len(images), -1))  # (A, N, C, S, S)
        self.pictures, self.errors = {}, {}  # (K, A, N, C, S, S), (K, A, N)
        for name, parts in made.items():
            self.pictures[name] = torch.stack(parts).view(-1, *self.images.shape)
            change = self.pictures[name] - self.images
            self.errors[name] = change.square().mean((3, 4, 5))
        self.source = slider_of(range(len(images)), "source", list(images).__getitem__)
        middle = len(self.steps) // 2
        self.step = slider_of(self.steps, "noise level", self._level, index=middle)
        self.beta = slider_of(denoisers, "β₁ of the denoiser")
        self.image = slider_of(range(self.images.shape[1]), "image")
        self.zoom = max(1, 112 // x.shape[-1])
        super().__init__("an image, its noise, and three ways to take it out")
        side = self.zoom * x.shape[-1] + 4
        wide = f"{5 * side}px"  # as the picture, whose parts are named below it
        for shown in (self.picture, self.numbers):
            shown.layout = ipw.Layout(width=wide, min_width=wide)

    def _level(self, t: int) -> str:
        noise = 100 * self.noise[self.steps.index(t)]
        digits = ".2g" if noise < 10 else ".0f"
        return f"t = {t} · {noise:{digits}} % noise"

    def _draw(self, change=None) -> None:
        source, i, beta = self.source.value, self.image.value, self.beta.value
        k = self.steps.index(self.step.value)
        row = [self.images[source, i]]
        captions = ["clean<br>MSE to it:"]
        for name in (*_WAYS, _DENOISER.format(beta)):
            row.append(self.pictures[name][k, source, i])
            error = self.errors[name][k, source, i]
            captions.append(f"{name}<br><b>{error:.3g}</b>")
        self.picture.value = tile([torch.stack(row)], zoom=self.zoom)
        cells = "".join(map(_CELL.format, captions))
        self.numbers.value = f'<div style="line-height:1.4">{cells}</div>'
        self.curve.value = self._chart(beta, source, k)

    def _chart(self, beta: float, source: int, k: int) -> bytes:
        """Mean errors over the noise 1 − ᾱ_t, and where the denoiser was trained."""
        colors = _WAYS | {_DENOISER.format(beta): COLORS[3]}
        means = torch.stack([self.errors[name][:, source].mean(1) for name in colors])
        top = max(1e-6, means.max().item())
        most = self.noise[-1]
        chart = Chart((0, most), (0, 1.5 * top), _NOISE, "mean MSE")
        chart.height, chart.bottom = 330, 290  # room for a legend over the curves
        if beta <= most:
            chart.guide([beta, beta], [0, top])
        for mean, color in zip(means.tolist(), colors.values(), strict=True):
            chart.line(self.noise, mean, color)
            chart.dot(self.noise[k], mean[k])
        return chart.svg(*colors.items(), ("trained at β₁, dashed", "#666"))


@torch.no_grad()
def _denoised(ddgm: DDGM, denoisers: dict[float, DDGM], x: Tensor, t: int, seed: int) -> dict[str, Tensor]:
    """Images noised to step t, and what each way makes of them."""
    generator = seeded(seed)  # anew for each step: the same noise, and more of it
    x_t = ddgm.noised(x, t, generator=generator)
    level = ddgm.alpha_bar[t].item()
    made = {
        "noisy": as_images(x_t / math.sqrt(level)),
        "walk back": ddgm.denoise(x_t, t, generator=generator),
        "single guess": ddgm.denoise(x_t, t, evaluations=1),
    }
    for beta, denoiser in denoisers.items():
        own_level = denoiser.alpha_bar[1].item()
        made[_DENOISER.format(beta)] = denoiser.denoise(x_t * math.sqrt(own_level / level), 1)
    return made
