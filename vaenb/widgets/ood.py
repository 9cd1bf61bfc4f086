"""The explorers of scores that should tell unknown images from ordinary ones (notebooks 01 and 09)."""

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from html import escape

import ipywidgets as ipw
import torch
from torch import Tensor

from vaenb.checks import check_counts, check_images
from vaenb.data import recolor
from vaenb.metrics.calibration import _vector
from vaenb.metrics.detection import auroc
from vaenb.plots import COLORS, tile
from vaenb.widgets.chart import Chart, slider_of, view_of

_SHOWN = 8  # images in a row of examples


class DetectorExplorer:
    """Drag the threshold of a detector, count whom it catches and whom it accuses, and see which images those are.

    `scores[detector][pair]` holds two sets of scores, (innocent, suspicious), (n,) and (m,); larger is more suspicious,
    and each pair has an innocent set of its own. The threshold is set by the share of innocent images that it would
    accuse. `images[pair]` holds two batches (N, C, H, W) in the scores' order; a detector may have scored only the
    first of them.
    """

    def __init__(
        self,
        scores: dict[str, dict[str, tuple[Tensor, Tensor]]],
        images: dict[str, tuple[Tensor, Tensor]] | None = None,
    ) -> None:
        self.scores, self.images = _checked_scores(scores), images
        pairs = list(next(iter(self.scores.values())))
        if images is not None:
            _check_pictures(images, self.scores, pairs)
        rates = [0.0, 0.005, 0.01, 0.02, 0.03, 0.05, 0.08, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0]
        self.alarms = slider_of([(f"{r:.1%}", r) for r in rates], "false alarms", value=0.05)
        self.detector, self.pair = slider_of(list(scores), "detector"), slider_of(pairs, "pair")
        self.picture, self.curve = ipw.Image(format="svg+xml"), ipw.Image(format="svg+xml")
        self.numbers = ipw.HTML(layout=ipw.Layout(min_width="34em"))
        self.accused, self.missed = ipw.Image(format="png"), ipw.Image(format="png")
        self.who = ipw.HTML(), ipw.HTML()
        self._roc = lru_cache(maxsize=None)(self._all_rates)
        sliders = [self.alarms, self.detector, self.pair]
        for slider in sliders:
            slider.observe(self._draw, "value")
        caption = "scores below and above the threshold, and the ROC curve"
        self.view = view_of(sliders, caption, [self.picture, self.numbers], self.curve)
        if images is not None:
            self.view.children += (self.who[0], self.accused, self.who[1], self.missed)
        self._draw()

    def threshold(self, detector: str, pair: str, rate: float) -> float:
        """The smallest innocent score above which at most `rate` of the innocent scores lie."""
        ordered = self.scores[detector][pair][0].sort(descending=True).values
        return ordered[min(int(rate * len(ordered)), len(ordered) - 1)].item() if rate < 1 else -math.inf

    def _all_rates(self, detector: str, pair: str) -> tuple[float, list[float], list[float]]:
        """The AUROC, and the shares of innocent and of suspicious scores above some 200 cuts."""
        clean, bad = self.scores[detector][pair]
        cuts = torch.cat([clean, bad]).unique().flip(0)
        cuts = cuts[torch.linspace(0, len(cuts) - 1, min(len(cuts), 200)).long()]
        return auroc(clean, bad), *([0.0, *(v[:, None] > cuts).double().mean(0).tolist(), 1.0] for v in (clean, bad))

    def _draw(self, change=None) -> None:
        detector, pair, rate = self.detector.value, self.pair.value, self.alarms.value
        clean, bad = self.scores[detector][pair]
        limit, (area, *curve) = self.threshold(detector, pair, rate), self._roc(detector, pair)
        accused, caught = ((v > limit).sum().item() for v in (clean, bad))
        self.numbers.value = (
            f"score > {limit:.4g}: caught <b>{caught}</b>, missed <b>{len(bad) - caught}</b> of the suspicious · "
            f"accused <b>{accused}</b>, let pass <b>{len(clean) - accused}</b> of the innocent · "
            f"AUROC {area:.3f}"
        )
        groups = {"innocent": clean, "suspicious": bad}
        self.picture.value = _histograms(groups, limit, f"score: {detector}", "threshold, dashed").encode()
        chart = Chart((0, 1), (0, 1), "share of innocent images accused", "share caught")
        chart.line([0, 1], [0, 1], "#999999", dashed=True)
        chart.line(*curve, COLORS[0])
        chart.dot(accused / len(clean), caught / len(bad))
        self.curve.value = chart.svg().encode()
        if self.images is not None:
            self._show(accused, len(bad) - caught)

    def _show(self, accused: int, missed: int) -> None:
        """Draw the worst of each mistake: the highest innocent scores, and the lowest suspicious ones."""
        (clean, bad), images = self.scores[self.detector.value][self.pair.value], self.images[self.pair.value]
        worst = clean.argsort(descending=True, stable=True)[:accused], bad.argsort(stable=True)[:missed]
        self.accused.value, self.missed.value = map(_row, images, worst)
        self.who[0].value = f"<b>innocent, but accused</b> ({min(accused, _SHOWN)} of {accused}, highest score first)"
        self.who[1].value = f"<b>suspicious, but missed</b> ({min(missed, _SHOWN)} of {missed}, lowest score first)"


class ContrastExplorer:
    """Drag contrast and brightness of a test image, and watch its likelihood move.

    `scores` maps names to functions that give images (M, C, H, W) their log-likelihoods, or whatever else is larger for
    images that a model finds ordinary, (M,); `reference` maps the same names to the scores (n,) of ordinary test
    images. The images x (N, C, H, W) are scored here at each contrast and brightness, len(contrasts) · len(brightness)
    · N times for each score, so that no slider waits. `contrasts` must have 1 and `brightness` 0, the image as it is.
    Look where the curve rises as the image fades to grey: Nalisnick et al. (2019, 1810.09136) found that it does.
    """

    def __init__(
        self,
        scores: dict[str, Callable[[Tensor], Tensor]],
        x: Tensor,
        reference: dict[str, Tensor],
        *,
        contrasts: Sequence[float] = tuple(k / 10 for k in range(16)),
        brightness: Sequence[float] = tuple(k / 10 for k in range(-4, 5)),
        chunk: int = 512,
    ) -> None:
        check_images(x)
        check_counts(chunk=chunk)
        if not scores or scores.keys() != reference.keys():
            raise ValueError(f"reference: scores for each of {list(scores)} expected, got {list(reference)}")
        self.contrasts, self.levels = _grid(contrasts, "contrasts", 1), _grid(brightness, "brightness", 0)
        self.x, self.reference = x, {name: _vector(v, f"reference[{name!r}]") for name, v in reference.items()}
        changed = torch.cat([recolor(x, contrast=c, brightness=b) for b in self.levels for c in self.contrasts])
        shape = len(self.levels), len(self.contrasts), len(x)
        self.values = {name: _scored(name, f, changed, chunk).view(shape) for name, f in scores.items()}
        self.contrast = slider_of([(f"{c:g}", k) for k, c in enumerate(self.contrasts)], "contrast")
        self.brightness = slider_of([(f"{b:+g}", k) for k, b in enumerate(self.levels)], "brightness")
        self.contrast.value, self.brightness.value = self.contrasts.index(1), self.levels.index(0)
        self.image, self.score = slider_of(list(range(len(x))), "test image"), slider_of(list(scores), "score")
        self.picture, self.histogram = ipw.Image(format="png"), ipw.Image(format="svg+xml")
        self.numbers, self.curve = ipw.HTML(layout=ipw.Layout(min_width="34em")), ipw.Image(format="svg+xml")
        sliders = [self.contrast, self.brightness, self.image, self.score]
        for slider in sliders:
            slider.observe(self._draw, "value")
        caption = "the image as it is · changed, and its score among those of ordinary test images"
        self.view = view_of(sliders, caption, [self.picture, self.numbers, self.histogram], self.curve)
        self._draw()

    def _draw(self, change=None) -> None:
        k, level, i, name = self.contrast.value, self.brightness.value, self.image.value, self.score.value
        values, reference = self.values[name], self.reference[name]
        image, now = self.x[i : i + 1], values[level, k, i].item()
        changed = recolor(image, contrast=self.contrasts[k], brightness=self.levels[level])
        self.picture.value = tile([torch.cat([image, changed])], zoom=max(1, 192 // image.shape[-1]))
        before = values[self.levels.index(0), self.contrasts.index(1), i]
        self.numbers.value = (
            f"{escape(name)} <b>{now:.5g}</b> (as it is: {before:.5g}), higher than that of "
            f"<b>{(reference < now).double().mean():.1%}</b> of {len(reference)} ordinary test images"
        )
        groups = {"ordinary test images": reference}
        self.histogram.value = _histograms(groups, now, name, "this image, dashed").encode()
        one, mean = values[:, :, i], values.mean(2)
        low, high = torch.stack([one, mean]).aminmax()
        ends = low.item(), max(high.item(), low.item() + 1e-6 * max(1.0, abs(low.item())))
        chart = Chart((self.contrasts[0], self.contrasts[-1]), ends, "contrast", escape(name))
        chart.line(self.contrasts, mean[level].tolist(), "#999999", dashed=True)
        chart.line(self.contrasts, one[level].tolist(), COLORS[0])
        chart.dot(self.contrasts[k], now)
        self.curve.value = chart.svg(("this image", COLORS[0]), (f"mean of {len(self.x)}, dashed", "#666")).encode()


def _histograms(groups: dict[str, Tensor], mark: float, x_title: str, mark_title: str) -> str:
    """Draw the shares of each group's values (n,) in common bins, and a dashed line at `mark`, as SVG.

    The axis reaches a fifth beyond the middle 99 % of all values; what lies further out is drawn at its ends.
    """
    low, high = torch.cat(list(groups.values())).quantile(torch.tensor([0.005, 0.995], dtype=torch.float64)).tolist()
    room = max(0.2 * (high - low), 1e-6 * abs(high), 1e-6)
    low, high = low - room, high + room
    edges = torch.linspace(low, high, 41, dtype=torch.float64)
    heights = [torch.histogram(v.clamp(edges[0], edges[-1]), edges).hist / len(v) for v in groups.values()]
    chart = Chart((low, high), (0, 1.25 * max(h.max().item() for h in heights)), escape(x_title), "share")
    for share, color in zip(heights, COLORS, strict=False):
        chart.line(((edges[1:] + edges[:-1]) / 2).tolist(), share.tolist(), color)
    at = min(max(mark, low), high)
    chart.line([at, at], list(chart.ys), "#000000", dashed=True)
    return chart.svg(*zip(groups, COLORS, strict=False), (mark_title, "#000"))


def _row(images: Tensor, index: Tensor) -> bytes:
    """The first images of `index`, and white in the places that are left."""
    shown = images[index[:_SHOWN].to(images.device)].cpu()
    pad = shown.new_ones(_SHOWN - len(shown), *images.shape[1:])
    return tile([torch.cat([shown, pad])], zoom=max(1, 64 // images.shape[-1]))


def _checked_scores(scores: dict[str, dict[str, tuple[Tensor, Tensor]]]) -> dict[str, dict[str, tuple[Tensor, Tensor]]]:
    """The same in double precision on the CPU; raises where they are not (innocent, suspicious) for the same pairs."""
    pairs = [list(group) for group in scores.values()]
    if not scores or not pairs[0] or any(set(p) != set(pairs[0]) for p in pairs):
        raise ValueError(f"scores: the same pairs, one or more, for each detector expected, got {pairs}")

    def both(two, name: str) -> tuple[Tensor, Tensor]:
        if not isinstance(two, (tuple, list)) or len(two) != 2:
            raise TypeError(f"{name}: two tensors, (innocent, suspicious), expected, got {type(two).__name__}")
        return _vector(two[0], f"{name}, innocent"), _vector(two[1], f"{name}, suspicious")

    return {d: {pair: both(two, f"scores[{d!r}][{pair!r}]") for pair, two in g.items()} for d, g in scores.items()}


def _check_pictures(images: dict[str, tuple[Tensor, Tensor]], scores: dict[str, dict], pairs: list[str]) -> None:
    if set(images) != set(pairs) or any(len(two) != 2 for two in images.values()):
        raise ValueError(f"images: (innocent, suspicious) for each of the pairs {pairs} expected, got {list(images)}")
    for pair, two in images.items():
        for k, name in enumerate(("innocent", "suspicious")):
            check_images(two[k], f"images[{pair!r}], {name}")
            if len(two[k]) < (most := max(len(group[pair][k]) for group in scores.values())):
                raise ValueError(f"images[{pair!r}], {name}: one for each of {most} scores expected, got {len(two[k])}")


def _grid(values: Sequence[float], name: str, unchanged: float) -> list[float]:
    if len(set(values)) < 2 or unchanged not in values:
        raise ValueError(f"{name}: two numbers or more, {unchanged} among them, expected, got {list(values)}")
    return sorted(set(values))


def _scored(name: str, score: Callable[[Tensor], Tensor], x: Tensor, chunk: int) -> Tensor:
    where = f"scores[{name!r}]"
    if not callable(score):
        raise TypeError(f"{where}: a function of images (M, C, H, W) expected, got {type(score).__name__}")
    return torch.cat([_vector(score(part), f"{where}, what it gives", len(part)) for part in x.split(chunk)])
