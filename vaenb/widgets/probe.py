"""The explorers of a classifier that a VAE looks after (notebook 01)."""

import math
from collections.abc import Callable
from html import escape

import torch
from torch import Tensor

from vaenb.checks import check_classifier, check_model
from vaenb.contract import LatentModel
from vaenb.metrics.calibration import brier, ece, reliability
from vaenb.plots import COLORS
from vaenb.widgets.chart import Chart, Explorer, check_keys, enlarged, slider_of

_TEMPERATURES = [round(2 ** (k / 4), 2) for k in range(-8, 17)]


class ConsistencyExplorer(Explorer):
    """Drag the radius ε and the number of samples, and watch a classifier contradict itself; then do it with noise.

    `changed` maps a name, such as FGSM or noise, and then each ε, 0 first and the same for all, to the changed images
    (N, C, H, W); every one is reconstructed `samples` times.
    """

    @torch.no_grad()
    def __init__(
        self,
        model: LatentModel,
        classifier: Callable[[Tensor], Tensor],
        changed: dict[str, dict[float, Tensor]],
        *,
        samples: int = 20,
        generator: torch.Generator | None = None,
    ) -> None:
        self.changed, self.radii = changed, _radii(changed)
        check_model(model)
        check_classifier(classifier)
        self.copies: dict[str, Tensor] = {}  # (E, N, S, C, H, W)
        self.own: dict[str, Tensor] = {}  # (E, N)
        self.labels: dict[str, Tensor] = {}  # (E, N, S)
        for kind, images in changed.items():
            x = torch.stack(list(images.values()))  # (E, N, C, H, W)
            q = model.posterior(x.flatten(0, 1))
            drawn = [model.decode(q.rsample(generator=generator)) for _ in range(samples)]
            copies = torch.stack(drawn, 1)
            self.copies[kind] = copies.unflatten(0, x.shape[:2])
            self.own[kind] = classifier(x.flatten(0, 1)).argmax(1).view(x.shape[:2])
            self.labels[kind] = classifier(copies.flatten(0, 1)).argmax(1).view(*x.shape[:2], samples)
        shown = [f"{eps:g}" for eps in self.radii]
        self.kind = slider_of(changed, "change")
        self.eps = slider_of(range(len(shown)), "radius ε", shown.__getitem__)
        self.samples = slider_of(range(1, samples + 1), "samples", index=min(10, samples) - 1)
        self.image = slider_of(range(x.shape[1]), "test image")
        super().__init__("changed image, then its reconstructions")

    def share(self, kind: str, samples: int) -> list[float]:
        """The share of images whose first `samples` reconstructions get two labels or more, for each ε."""
        labels = self.labels[kind][:, :, :samples]
        return (labels != labels[:, :, :1]).any(2).double().mean(1).tolist()

    def _draw(self, change=None) -> None:
        kind, k, s, i = self.kind.value, self.eps.value, self.samples.value, self.image.value
        eps = self.radii[k]
        labels = self.labels[kind][k, i, :s]
        image = self.changed[kind][eps][i : i + 1]
        shown = torch.cat([image, self.copies[kind][k, i, :s]])
        pad = shown.new_ones(-len(shown) % 7, *shown.shape[1:])
        self.picture.value = enlarged(*torch.cat([shown, pad]).split(7), width=64)
        votes = []
        for label, count in zip(*labels.unique(return_counts=True), strict=True):
            votes.append(f"{count} × {label}")
        self.say(
            f"{escape(kind)}, ε = {eps:g}: the classifier says <b>{self.own[kind][k, i]}</b>, "
            f"of {s} reconstructions {', '.join(votes)}: n = <b>{len(votes)}</b>"
        )
        self.curve.value = self._shares(k, s)

    def _shares(self, k: int, samples: int) -> bytes:
        """The share of contradictions over ε for every change, with a dot on the chosen one's line."""
        share = {kind: self.share(kind, samples) for kind in self.changed}
        top = max(0.5, *map(max, share.values()))
        chart = Chart((0, self.radii[-1]), (0, top), "radius ε (of the pixel range)", "share n ≥ 2")
        chart.make_room()
        others = COLORS[:1] + COLORS[2:]  # the dot's is the second
        for (kind, line), color in zip(share.items(), others, strict=False):
            chart.line(self.radii, line, color, name=f"{kind}, {self.own[kind].shape[1]} images")
        chart.dot(self.radii[k], share[self.kind.value][k])
        return chart.svg()


def _radii(changed: dict[str, dict[float, Tensor]]) -> list[float]:
    """The radii of every change; refuse others than the same, 0 first."""
    lists = list(map(list, changed.values()))
    if not lists or any(radii != lists[0] or len(radii) < 2 or radii[0] != 0 for radii in lists):
        raise ValueError(f"changed: of each change images for the same ε, 0 and larger, expected, got {lists}")
    counts = {len(x) for images in changed.values() for x in images.values()}
    if len(counts) > 1:
        raise ValueError(f"changed: as many images of each change expected, got {sorted(counts)}")
    return lists[0]


class TemperatureExplorer(Explorer):
    """Drag the temperature T of softmax(f/T), and watch a reliability diagram come to its diagonal, and leave it.

    `logits` (N, K) and their `labels` (N,) are given by condition: clean, attacked, …
    """

    def __init__(self, logits: dict[str, Tensor], labels: dict[str, Tensor]) -> None:
        check_keys(logits, labels=labels)
        self.logits, self.labels = logits, labels
        self.errors = {condition: self._errors(condition) for condition in logits}
        self.temperature = slider_of(_TEMPERATURES, "temperature T", "{:.2f}".format, value=1.0)
        self.condition = slider_of(logits, "which images")
        caption = "accuracy over confidence, and the calibration error over T"
        super().__init__(caption, picture="svg+xml")

    def _probabilities(self, condition: str, temperature: float) -> Tensor:
        return (self.logits[condition].double() / temperature).softmax(1)

    def _errors(self, condition: str) -> list[float]:
        labels = self.labels[condition]
        return [ece(self._probabilities(condition, t), labels) for t in _TEMPERATURES]

    def _draw(self, change=None) -> None:
        t, condition = self.temperature.value, self.condition.value
        p = self._probabilities(condition, t)
        labels = self.labels[condition]
        self.picture.value = _diagram(p, labels)
        errors = self.errors[condition]
        now = errors[_TEMPERATURES.index(t)]
        confidence = p.max(1).values.mean()
        wrong = (p.argmax(1) != labels).double().mean()
        self.say(
            f"T = {t:g}: ECE <b>{now:.3f}</b>",
            f"Brier <b>{brier(p, labels).mean():.3f}</b>",
            f"mean confidence {confidence:.3f}, accuracy {1 - wrong:.3f}",
        )
        places = list(map(math.log2, _TEMPERATURES))
        top = max(0.1, *errors)
        chart = Chart((places[0], places[-1]), (0, top), "log₂ T", "ECE")
        chart.line(places, errors, COLORS[0])
        chart.dot(math.log2(t), now)
        self.curve.value = chart.svg()


def _diagram(p: Tensor, labels: Tensor) -> bytes:
    found = reliability(p, labels)
    full = found.count > 0
    confidence = found.confidence[full].tolist()
    accuracy = found.accuracy[full].tolist()
    chart = Chart((0, 1), (0, 1), "confidence", "accuracy")
    chart.guide([0, 1], [0, 1])
    chart.line(confidence, accuracy, COLORS[0])
    for x, y in zip(confidence, accuracy, strict=True):
        chart.dot(x, y)
    return chart.svg()
