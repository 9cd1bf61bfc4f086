"""The explorers of a defence before a classifier: cleaners (notebook 02), and a purifier (notebook 07)."""

from collections.abc import Callable, Iterable, Sequence

import ipywidgets as ipw
import torch
from torch import Tensor

from vaenb.attacks.classifier import predict
from vaenb.checks import check_classifier, check_images, check_labels, check_radii, check_shape
from vaenb.plots import COLORS
from vaenb.widgets.chart import Chart, Explorer, Numbers, check_keys, check_pairs, enlarged, radius_slider, slider_of

Images = dict[tuple, Tensor]


class BehindExplorer(Explorer):
    """Choose an attacker and an image, and see what a classifier says of it before a defence and behind it.

    `x` (N, C, H, W) in [0, 1] are the images as they were, with their true `labels` (N,). `attacked[kind, attacker]`
    are (K, N, C, H, W), at each of K `places`, and `cleaned` what the defence makes of them; `kinds` are the values of
    another slider. `classes` are words for the labels, if the numbers are not enough.
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
        classes: Sequence = (),
    ) -> None:
        check_classifier(classifier)
        check_images(x)
        check_labels(labels, len(x))
        attackers = check_pairs("attacked", attacked, kinds, "(…, attacker)", of="kinds")
        check_keys(attacked, cleaned=cleaned)
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
        most = max(int(answers.max()) for answers in (labels, *self.before.values(), *self.behind.values()))
        if classes and len(classes) <= most:
            raise ValueError(f"classes: a word for each of the labels 0 to {most} expected, got {len(classes)}")
        self.classes = classes or range(most + 1)
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


class CleaningExplorer(BehindExplorer):
    """Drag the attack radius ε, choose a cleaner and an attacker, and see what a classifier says behind the cleaner.

    `attacked[cleaner, attacker]` are images at each of `radii` (E,), from 0 on, (E, N, C, H, W) in [0, 1], and
    `cleaned` what the cleaner made of them; `labels` (N,) are the true ones.
    """

    def __init__(
        self,
        classifier: Callable[[Tensor], Tensor],
        radii: Tensor,
        attacked: Images,
        cleaned: Images,
        labels: Tensor,
    ) -> None:
        check_radii(radii, least=2)
        if radii[0] != 0:
            raise ValueError(f"radii: 0 first, for the images as they are, expected, got {radii[0]:g}")
        cleaners = list(dict.fromkeys(cleaner for cleaner, _ in attacked))
        self.eps = radius_slider(radii.tolist(), "attack radius ε")
        self.cleaner = slider_of(cleaners, "cleaner")
        x = next(iter(attacked.values()))[0]
        caption = "image · attacked · behind the cleaner"
        super().__init__(caption, classifier, x, labels, radii.tolist(), cleaners, attacked, cleaned)

    def _draw(self, change=None) -> None:
        key = self.cleaner.value, self.attacker.value
        k, i = self.eps.value, self.image.value
        right = self.show(key[0], k, "attack radius ε (of the pixel range)")
        self.say(
            f"a {self.labels[i]}, attacked: the classifier says <b>{self.before[key][k, i]}</b>",
            f"behind {key[0]} <b>{self.behind[key][k, i]}</b>",
            f"right behind it <b>{right}</b> of {len(self.labels)}",
        )


class PurifierExplorer(BehindExplorer):
    """Drag the noise that a purifier adds to an attacked image, and see what a classifier says of what comes back.

    `noise` are K shares of noise that rise, the first of them 0, no purifier. `attacked[delta, attacker]` are images
    (K, N, C, S, S) in [0, 1] that an attacker within δ sends to the purifier of each, and `cleaned` what this makes
    of them; `x` (N, C, S, S) are the images as they were, with their true `labels` (N,), which
    `classes` name.
    """

    def __init__(
        self,
        classifier: Callable[[Tensor], Tensor],
        x: Tensor,
        labels: Tensor,
        noise: Sequence[float],
        attacked: Images,
        cleaned: Images,
        classes: Sequence = (),
    ) -> None:
        noise = list(noise)
        if len(noise) < 2 or noise[0] != 0 or noise != sorted(set(noise)):
            raise ValueError(f"noise: two shares or more expected that rise from 0, got {noise}")
        deltas = sorted({delta for delta, _ in attacked})
        named = [f"{share:.0%}" if share else "no purifier" for share in noise]
        self.level = slider_of(range(len(noise)), "noise added", named.__getitem__, index=len(noise) // 2)
        self.delta = slider_of(deltas, "attack radius δ")
        caption = "image · attacked · behind the purifier"
        super().__init__(caption, classifier, x, labels, noise, deltas, attacked, cleaned, classes)

    def _draw(self, change=None) -> None:
        at = self.delta.value, self.attacker.value
        k, i = self.level.value, self.image.value
        right = self.show(at[0], k, "share of noise 1 − ᾱ added")
        behind = f"behind {self.places[k]:.0%} noise" if k else "without a purifier"
        true, said = self.classes[int(self.labels[i])], self.classes[int(self.behind[at][k, i])]
        self.say(
            f"{true}, attacked within δ = {at[0]:g}: {behind} the classifier says <b>{said}</b>",
            f"right: <b>{right}</b> of {len(self.labels)}",
        )
