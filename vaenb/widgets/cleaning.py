"""The explorer of cleaners before a classifier, and of attackers who know them or do not (notebook 02)."""

from collections.abc import Callable

import ipywidgets as ipw
import torch
from torch import Tensor

from vaenb.attacks.classifier import predict
from vaenb.checks import check_classifier, check_images, check_labels, check_radii, check_shape
from vaenb.plots import COLORS
from vaenb.widgets.chart import Chart, Explorer, check_pairs, enlarged, slider_of


class CleaningExplorer(Explorer):
    """Drag the attack radius ε, choose a cleaner and an attacker, and see what a classifier says behind the cleaner.

    `attacked[cleaner, attacker]` are images at each of `radii` (E,), from 0 on, (E, N, C, H, W) in [0, 1], and
    `cleaned` what the cleaner made of them; `labels` (N,) are the true ones.
    """

    @torch.no_grad()
    def __init__(
        self,
        classifier: Callable[[Tensor], Tensor],
        radii: Tensor,
        attacked: dict[tuple[str, str], Tensor],
        cleaned: dict[tuple[str, str], Tensor],
        labels: Tensor,
    ) -> None:
        check_classifier(classifier)
        check_radii(radii, least=2)
        if radii[0] != 0:
            raise ValueError(f"radii: 0 first, for the images as they are, expected, got {radii[0]:g}")
        cleaners = list(dict.fromkeys(cleaner for cleaner, _ in attacked))
        attackers = check_pairs("attacked", attacked, cleaners, "(cleaner, attacker)")
        check_pairs("cleaned", cleaned, cleaners, "(cleaner, attacker)")
        self.radii, self.labels = radii.tolist(), labels
        self.attacked, self.cleaned = attacked, cleaned
        self.before: dict[tuple[str, str], Tensor] = {}  # labels, (E, N)
        self.behind: dict[tuple[str, str], Tensor] = {}
        shape = len(radii), *next(iter(attacked.values())).shape[1:]
        for key in attacked:
            for name, images in {"attacked": attacked[key], "cleaned": cleaned[key]}.items():
                check_shape(images, f"{name}[{key!r}]", shape, "images at each of radii")
                check_images(images.flatten(0, 1), f"{name}[{key!r}]")
            self.before[key] = predict(classifier, attacked[key].flatten(0, 1)).view(shape[:2])
            self.behind[key] = predict(classifier, cleaned[key].flatten(0, 1)).view(shape[:2])
        check_labels(labels, shape[1])
        shown = [f"{eps:.3g}" for eps in self.radii]
        self.eps = slider_of(range(len(shown)), "attack radius ε", shown.__getitem__, index=len(shown) // 2)
        self.cleaner = slider_of(cleaners, "cleaner")
        self.attacker = ipw.ToggleButtons(options=attackers, description="attacker")
        self.attacker.style.description_width = "11em"
        self.image = slider_of(range(shape[1]), "test image")
        super().__init__("image · attacked · behind the cleaner")

    def share(self, cleaner: str, attacker: str) -> list[float]:
        """The share of images that are classified right behind a cleaner, for each ε."""
        right = self.behind[cleaner, attacker] == self.labels
        return right.double().mean(1).tolist()

    def _draw(self, change=None) -> None:
        cleaner, attacker = key = self.cleaner.value, self.attacker.value
        k, i = self.eps.value, self.image.value
        row = [self.attacked[key][0, i], self.attacked[key][k, i], self.cleaned[key][k, i]]
        self.picture.value = enlarged(torch.stack(row), width=128)
        right = int((self.behind[key][k] == self.labels).sum())
        self.say(
            f"a {self.labels[i]}, attacked: the classifier says <b>{self.before[key][k, i]}</b>",
            f"behind {cleaner} <b>{self.behind[key][k, i]}</b>",
            f"right behind it <b>{right}</b> of {len(self.labels)}",
        )
        chart = Chart((0, self.radii[-1]), (0, 1), "attack radius ε (of the pixel range)", "share right")
        chart.make_room()
        legend = []
        for other, color in zip(self.attacker.options, COLORS, strict=False):
            share = self.share(cleaner, other)
            chart.line(self.radii, share, color)
            if other == attacker:
                chart.dot(self.radii[k], share[k], color)
            legend.append((other, color))
        self.curve.value = chart.svg(*legend)
