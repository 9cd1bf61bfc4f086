"""What the explorers of a defence before a classifier have in common (see `cleaning` and `purifier`)."""

from collections.abc import Callable, Iterable

import ipywidgets as ipw
import torch
from torch import Tensor

from vaenb.attacks.classifier import predict
from vaenb.checks import check_classifier, check_images, check_labels, check_shape
from vaenb.plots import COLORS
from vaenb.widgets.chart import Chart, Explorer, Numbers, check_pairs, enlarged, slider_of

Images = dict[tuple, Tensor]


class BehindExplorer(Explorer):
    """Choose an attacker and an image, and see what a classifier says of it before a defence and behind it.

    `x` (N, C, H, W) in [0, 1] are the images as they were, with their true `labels` (N,). `attacked[kind, attacker]`
    are (K, N, C, H, W), at each of K `places`, and `cleaned` what the defence makes of them; `kinds` are the values of
    another slider.
    """

    @torch.no_grad()
    def __init__(
        self,
        caption: str,
        classifier: Callable[[Tensor], Tensor],
        x: Tensor,
        labels: Tensor,
        places: Numbers,
        kinds: Iterable,
        attacked: Images,
        cleaned: Images,
    ) -> None:
        check_classifier(classifier)
        check_images(x)
        check_labels(labels, len(x))
        attackers = check_pairs("attacked", attacked, kinds, "(…, attacker)")
        check_pairs("cleaned", cleaned, kinds, "(…, attacker)")
        self.x, self.labels, self.places = x, labels, places
        self.attacked, self.cleaned = attacked, cleaned
        self.before: Images = {}  # labels of what the attacker made, (K, N)
        self.behind: Images = {}  # and behind the defence
        shape = len(places), *x.shape
        for name, given, answers in (("attacked", attacked, self.before), ("cleaned", cleaned, self.behind)):
            for key, images in given.items():
                check_shape(images, f"{name}[{key!r}]", shape, f"images at each of {len(places)} places")
                check_images(images.flatten(0, 1), f"{name}[{key!r}]")
                answers[key] = predict(classifier, images.flatten(0, 1)).view(shape[:2])
        self.attacker = ipw.ToggleButtons(options=attackers, description="attacker")
        self.attacker.style.description_width = "11em"
        self.image = slider_of(range(len(x)), "test image")
        super().__init__(caption)

    def share(self, kind, attacker: str) -> list[float]:
        """The share of images that are classified right behind the defence, at each place."""
        right = self.behind[kind, attacker] == self.labels
        return right.double().mean(1).tolist()

    def show(self, kind, k: int, place: str) -> int:
        """Show the image beside what became of it at the place k, and the shares; how many are right there."""
        i, at = self.image.value, (kind, self.attacker.value)
        row = [self.x[i], self.attacked[at][k, i], self.cleaned[at][k, i]]
        self.picture.value = enlarged(torch.stack(row), width=128)
        chart = Chart((0, self.places[-1]), (0, 1), place, "share right")
        chart.make_room()
        for attacker, color in zip(self.attacker.options, COLORS, strict=False):
            share = self.share(kind, attacker)
            chart.line(self.places, share, color, name=attacker)
            if attacker == at[1]:
                chart.dot(self.places[k], share[k], color)
        self.curve.value = chart.svg()
        return int((self.behind[at][k] == self.labels).sum())
