"""The explorers of a classifier that a VAE looks after (notebook 01)."""

import math
from collections.abc import Callable
from functools import lru_cache

import ipywidgets as ipw
import torch
from torch import Tensor

from vaenb.checks import check_classifier, check_model
from vaenb.contract import LatentModel
from vaenb.metrics.calibration import brier, ece, reliability
from vaenb.plots import COLORS, tile
from vaenb.widgets.chart import Chart, slider_of, view_of


class ConsistencyExplorer:
    """Drag the attack radius ε and the number of samples, and watch a classifier contradict itself.

    `attacked` maps each ε, 0 first, to the attacked images (N, C, H, W); every one is reconstructed `samples` times.
    """

    @torch.no_grad()
    def __init__(
        self,
        model: LatentModel,
        classifier: Callable[[Tensor], Tensor],
        attacked: dict[float, Tensor],
        *,
        samples: int = 20,
        generator: torch.Generator | None = None,
    ) -> None:
        shapes = {tuple(x.shape) for x in attacked.values()}
        if len(shapes) != 1 or len(attacked) < 2 or next(iter(attacked)) != 0:
            raise ValueError(f"attacked: images of one shape for each ε, 0 and larger, expected, got {list(attacked)}")
        check_model(model)
        check_classifier(classifier)
        self.attacked, self.radii = attacked, list(attacked)
        posteriors = [model.posterior(x) for x in attacked.values()]
        copies = [[model.decode(q.rsample(generator=generator)) for _ in range(samples)] for q in posteriors]
        self.copies = torch.stack([torch.stack(c, 1) for c in copies])  # (E, N, S, C, H, W)
        self.labels = classifier(self.copies.flatten(0, 2)).argmax(1).view(self.copies.shape[:3])
        self.own = torch.stack([classifier(x).argmax(1) for x in attacked.values()])  # (E, N)
        self.eps = slider_of([(f"{e:g}", k) for k, e in enumerate(self.radii)], "attack radius ε")
        self.samples = slider_of(list(range(1, samples + 1)), "samples", value=min(10, samples))
        self.image = slider_of(list(range(self.copies.shape[1])), "test image")
        self.picture, self.curve = ipw.Image(format="png"), ipw.Image(format="svg+xml")
        self.numbers = ipw.HTML(layout=ipw.Layout(min_width="34em"))
        sliders = [self.eps, self.samples, self.image]
        for slider in sliders:
            slider.observe(self._draw, "value")
        caption = "attacked image, then its reconstructions"
        self.view = view_of(sliders, caption, [self.picture, self.numbers], self.curve)
        self._draw()

    def share(self, samples: int) -> list[float]:
        """The share of images whose first `samples` reconstructions get two labels or more, for each ε."""
        labels = self.labels[:, :, :samples]
        return (labels != labels[:, :, :1]).any(2).double().mean(1).tolist()

    def _draw(self, change=None) -> None:
        k, s, i = self.eps.value, self.samples.value, self.image.value
        shown = torch.cat([self.attacked[self.radii[k]][i : i + 1], self.copies[k, i, :s]]).cpu()
        pad = shown.new_ones(-len(shown) % 7, *shown.shape[1:])
        rows = list(torch.cat([shown, pad]).split(7))
        self.picture.value = tile(rows, zoom=max(1, 64 // shown.shape[-1]))
        counts = torch.bincount(self.labels[k, i, :s]).tolist()
        votes = ", ".join(f"{n} × {label}" for label, n in enumerate(counts) if n)
        self.numbers.value = (
            f"ε = {self.radii[k]:g}: the classifier says <b>{self.own[k, i]}</b>, of {s} reconstructions {votes}: "
            f"n = <b>{sum(n > 0 for n in counts)}</b>"
        )
        share = self.share(s)
        chart = Chart((0, self.radii[-1]), (0, max(0.5, *share)), "attack radius ε (of the pixel range)", "share n ≥ 2")
        chart.line(self.radii, share, COLORS[0])
        chart.dot(self.radii[k], share[k])
        self.curve.value = chart.svg((f"{s} samples, {self.copies.shape[1]} images", COLORS[0])).encode()


class TemperatureExplorer:
    """Drag the temperature T of softmax(f/T), and watch a reliability diagram come to its diagonal, and leave it.

    `logits` (N, K) and their `labels` (N,) are given by condition: clean, attacked, …
    """

    def __init__(self, logits: dict[str, Tensor], labels: dict[str, Tensor], *, bins: int = 15) -> None:
        if logits.keys() != labels.keys() or not logits:
            raise ValueError(f"labels: of the same conditions as logits, {list(logits)}, expected, got {list(labels)}")
        self.logits, self.labels, self.bins = logits, labels, bins
        self.grid = [round(2 ** (k / 4), 2) for k in range(-8, 17)]
        self._errors = lru_cache(maxsize=None)(self._all_errors)
        self.temperature = slider_of([(f"{t:.2f}", t) for t in self.grid], "temperature T", value=1.0)
        self.condition = slider_of(list(logits), "which images")
        self.picture, self.curve = ipw.Image(format="svg+xml"), ipw.Image(format="svg+xml")
        self.numbers = ipw.HTML(layout=ipw.Layout(min_width="34em"))
        sliders = [self.temperature, self.condition]
        for slider in sliders:
            slider.observe(self._draw, "value")
        caption = "accuracy over confidence, and the calibration error over T"
        self.view = view_of(sliders, caption, [self.picture, self.numbers], self.curve)
        self._draw()

    def _probabilities(self, condition: str, temperature: float) -> Tensor:
        return (self.logits[condition].double() / temperature).softmax(1)

    def _all_errors(self, condition: str) -> list[float]:
        return [ece(self._probabilities(condition, t), self.labels[condition], bins=self.bins) for t in self.grid]

    def _draw(self, change=None) -> None:
        t, condition = self.temperature.value, self.condition.value
        p, labels = self._probabilities(condition, t), self.labels[condition]
        diagram, errors = reliability(p, labels, bins=self.bins), self._errors(condition)
        full = diagram.count > 0
        chart = Chart((0, 1), (0, 1), "confidence", "accuracy")
        chart.line([0, 1], [0, 1], "#999999", dashed=True)
        chart.line(diagram.confidence[full].tolist(), diagram.accuracy[full].tolist(), COLORS[0])
        for a, b in zip(diagram.confidence[full].tolist(), diagram.accuracy[full].tolist(), strict=True):
            chart.dot(a, b)
        self.picture.value = chart.svg().encode()
        now = errors[self.grid.index(t)]
        wrong = (p.argmax(1) != labels).double().mean()
        self.numbers.value = (
            f"T = {t:g}: ECE <b>{now:.3f}</b> · Brier <b>{brier(p, labels).mean():.3f}</b> · mean confidence "
            f"{p.max(1).values.mean():.3f}, accuracy {1 - wrong:.3f}"
        )
        places = [math.log2(v) for v in self.grid]
        chart = Chart((places[0], places[-1]), (0, max(0.1, *errors)), "log₂ T", "ECE")
        chart.line(places, errors, COLORS[0])
        chart.dot(math.log2(t), now)
        self.curve.value = chart.svg().encode()
