"""The explorer of a purifier: noise that is added and taken away before a classifier (notebook 07)."""

from collections.abc import Callable, Sequence

import ipywidgets as ipw
import torch
from torch import Tensor

from vaenb.attacks.classifier import predict
from vaenb.checks import check_classifier, check_images, check_labels, check_shape
from vaenb.plots import COLORS
from vaenb.widgets.chart import Chart, Explorer, check_pairs, enlarged, slider_of


class PurifierExplorer(Explorer):
    """Drag the noise that a purifier adds to an attacked image, and see what a classifier says of what comes back.

    `noise` are K shares of noise that rise, the first of them 0, no purifier. `attacked[delta, attacker]` are images
    (K, N, C, S, S) in [0, 1] that an attacker within δ sends to the purifier of each, and `cleaned` what this makes
    of them; `x` (N, C, S, S) are the images as they were, with their true `labels` (N,).
    """

    @torch.no_grad()
    def __init__(
        self,
        classifier: Callable[[Tensor], Tensor],
        x: Tensor,
        labels: Tensor,
        noise: Sequence[float],
        attacked: dict[tuple[float, str], Tensor],
        cleaned: dict[tuple[float, str], Tensor],
    ) -> None:
        check_classifier(classifier)
        check_images(x)
        check_labels(labels, len(x))
        self.noise = list(noise)
        if len(self.noise) < 2 or self.noise[0] != 0 or self.noise != sorted(set(self.noise)):
            raise ValueError(f"noise: two shares or more expected that rise from 0, got {self.noise}")
        deltas = sorted({delta for delta, _ in attacked})
        attackers = check_pairs("attacked", attacked, deltas, "(delta, attacker)")
        check_pairs("cleaned", cleaned, deltas, "(delta, attacker)")
        self.x, self.labels = x, labels
        self.attacked, self.cleaned = attacked, cleaned
        self.answers: dict[tuple[float, str], Tensor] = {}  # behind the purifier, (K, N)
        shape = len(self.noise), *x.shape
        for at in attacked:
            for name, images in {"attacked": attacked[at], "cleaned": cleaned[at]}.items():
                check_shape(images, f"{name}[{at!r}]", shape, "images for each share of noise")
                check_images(images.flatten(0, 1), f"{name}[{at!r}]")
            self.answers[at] = predict(classifier, cleaned[at].flatten(0, 1)).view(shape[:2])
        self.level = slider_of(range(shape[0]), "noise added", self._shown, index=shape[0] // 2)
        self.delta = slider_of(deltas, "attack radius δ", index=0)
        self.attacker = ipw.ToggleButtons(options=attackers, description="attacker")
        self.attacker.style.description_width = "11em"
        self.image = slider_of(range(len(x)), "test image")
        super().__init__("image · attacked · behind the purifier")

    def _shown(self, k: int) -> str:
        return f"{self.noise[k]:.0%}" if k else "no purifier"

    def share(self, delta: float, attacker: str) -> list[float]:
        """The share of images whose label is right behind the purifier, for each share of noise."""
        right = self.answers[delta, attacker] == self.labels
        return right.double().mean(1).tolist()

    def _draw(self, change=None) -> None:
        at = self.delta.value, self.attacker.value
        k, i = self.level.value, self.image.value
        row = [self.x[i], self.attacked[at][k, i], self.cleaned[at][k, i]]
        self.picture.value = enlarged(torch.stack(row), width=128)
        right = int((self.answers[at][k] == self.labels).sum())
        behind = f"behind {self._shown(k)} noise" if k else "without a purifier"
        self.say(
            f"a {self.labels[i]}, attacked within δ = {at[0]:g}: {behind} the classifier says "
            f"<b>{self.answers[at][k, i]}</b>",
            f"right: <b>{right}</b> of {len(self.labels)}",
        )
        chart = Chart((0, self.noise[-1]), (0, 1), "share of noise 1 − ᾱ added", "share right")
        chart.make_room()
        legend = []
        for attacker, color in zip(self.attacker.options, COLORS, strict=False):
            share = self.share(at[0], attacker)
            chart.line(self.noise, share, color)
            if attacker == at[1]:
                chart.dot(self.noise[k], share[k], color)
            legend.append((attacker, color))
        self.curve.value = chart.svg(*legend)
