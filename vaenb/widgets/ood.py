"""The explorers of scores that should tell unknown images from ordinary ones (notebooks 01 and 09)."""

import math
from collections.abc import Callable
from html import escape

import ipywidgets as ipw
import torch
from sklearn.metrics import roc_curve
from torch import Tensor

from vaenb.checks import check_images, check_vector
from vaenb.data import recolor
from vaenb.metrics.detection import auroc
from vaenb.plots import COLORS
from vaenb.widgets.chart import Chart, Explorer, check_keys, enlarged, slider_of

Pair = tuple[Tensor, Tensor]
"""(innocent, suspicious): two sets of scores, or two batches of images."""
Scores = dict[str, dict[str, Pair]]

_RATES = (0.0, 0.005, 0.01, 0.02, 0.03, 0.05, 0.08, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0)
_SHOWN = 8  # images in a row of examples
_LEVEL, _CONTRAST = 4, 10  # where brightness is 0 and contrast 1: the image as it is


class DetectorExplorer(Explorer):
    """Drag the threshold of a detector, count whom it catches and whom it accuses, and see which images those are.

    `scores[detector][pair]` holds two sets of scores, (innocent, suspicious), (n,) and (m,); larger is more suspicious,
    and each pair has an innocent set of its own. The threshold is set by the share of innocent images that it would
    accuse. `images[pair]` holds two batches (N, C, H, W) in the scores' order; a detector may have scored only the
    first of them.
    """

    def __init__(self, scores: Scores, images: dict[str, Pair]) -> None:
        pairs = list(map(set, scores.values()))
        if not pairs or not pairs[0] or pairs.count(pairs[0]) < len(pairs):
            raise ValueError(f"scores: the same pairs for each detector expected, got {pairs}")
        self.scores: Scores = {}
        self.roc: dict[tuple[str, str], tuple] = {}
        for detector, group in scores.items():
            self.scores[detector] = {}
            for pair, (innocent, suspicious) in group.items():
                name = f"scores[{detector!r}][{pair!r}]"
                innocent = check_vector(innocent, f"{name}, innocent")
                suspicious = check_vector(suspicious, f"{name}, suspicious")
                self.scores[detector][pair] = innocent, suspicious
                self.roc[detector, pair] = _roc(innocent, suspicious)
        _check_pictures(images, self.scores)
        self.images = images
        self.accused = ipw.Image(format="png")
        self.missed = ipw.Image(format="png")
        self.who = ipw.HTML(), ipw.HTML()
        self.alarms = slider_of(_RATES, "false alarms", "{:.1%}".format, value=0.05)
        self.detector = slider_of(scores, "detector")
        self.pair = slider_of(next(iter(scores.values())), "pair")
        caption = "scores below and above the threshold, and the ROC curve"
        super().__init__(caption, picture="svg+xml")
        first, second = self.who
        self.view.children += (first, self.accused, second, self.missed)

    def threshold(self, detector: str, pair: str, rate: float) -> float:
        """The smallest innocent score above which at most `rate` of the innocent scores lie."""
        if rate >= 1:
            return -math.inf
        innocent, _ = self.scores[detector][pair]
        ordered = innocent.sort(descending=True).values
        return ordered[math.floor(rate * len(ordered) + 1e-9)].item()  # .7 of 90 is 62.99… to a computer

    def _draw(self, change=None) -> None:
        detector, pair = self.detector.value, self.pair.value
        innocent, suspicious = self.scores[detector][pair]
        limit = self.threshold(detector, pair, self.alarms.value)
        accused = int((innocent > limit).sum())
        caught = int((suspicious > limit).sum())
        passed = len(innocent) - accused
        missed = len(suspicious) - caught
        area, alarms, hits = self.roc[detector, pair]
        self.say(
            f"score > {limit:.4g}: caught <b>{caught}</b>, missed <b>{missed}</b> of the suspicious",
            f"accused <b>{accused}</b>, let pass <b>{passed}</b> of the innocent",
            f"AUROC {area:.3f}",
        )
        groups = {"innocent": innocent, "suspicious": suspicious}
        self.picture.value = _histograms(groups, limit, f"score: {detector}", "threshold, dashed")
        chart = Chart((0, 1), (0, 1), "share of innocent images accused", "share caught")
        chart.guide([0, 1], [0, 1])
        chart.line(alarms, hits, COLORS[0])
        chart.dot(accused / len(innocent), caught / len(suspicious))
        self.curve.value = chart.svg()
        # The worst of each mistake: the highest innocent scores, and the lowest suspicious ones.
        highest = innocent.argsort(descending=True, stable=True)[:accused]
        lowest = suspicious.argsort(stable=True)[:missed]
        self.accused.value = _row(self.images[pair][0], highest)
        self.missed.value = _row(self.images[pair][1], lowest)
        self.who[0].value = _heading("innocent, but accused", accused, "highest")
        self.who[1].value = _heading("suspicious, but missed", missed, "lowest")


def _roc(innocent: Tensor, suspicious: Tensor) -> tuple[float, list[float], list[float]]:
    """The AUROC, and the shares of innocent and of suspicious scores that are accused, at every threshold."""
    guilty = torch.cat([torch.zeros(len(innocent)), torch.ones(len(suspicious))])
    alarms, caught, _ = roc_curve(guilty, torch.cat([innocent, suspicious]))
    return auroc(innocent, suspicious), alarms.tolist(), caught.tolist()


def _heading(who: str, count: int, end: str) -> str:
    return f"<b>{who}</b> ({min(count, _SHOWN)} of {count}, {end} score first)"


def _row(images: Tensor, index: Tensor) -> bytes:
    """The first images of `index`, and white in the places that are left."""
    shown = images[index[:_SHOWN].to(images.device)]
    pad = shown.new_ones(_SHOWN - len(shown), *images.shape[1:])
    return enlarged(torch.cat([shown, pad]), width=64)


class ContrastExplorer(Explorer):
    """Drag contrast and brightness of a test image, and watch its likelihood move.

    `scores` maps names to functions that give images (M, C, H, W) their log-likelihoods, or whatever else is larger for
    images that a model finds ordinary, (M,); `reference` maps the same names to the scores (n,) of ordinary test
    images. The images x (N, C, H, W) are scored here at each contrast and brightness, 144 · N for each score,
    so that no slider waits.
    Look where the curve rises as the image fades to grey: Nalisnick et al. (2019, 1810.09136) found that it does.
    """

    contrasts = tuple(k / 10 for k in range(16))
    levels = tuple(k / 10 for k in range(-4, 5))

    def __init__(
        self,
        scores: dict[str, Callable[[Tensor], Tensor]],
        x: Tensor,
        reference: dict[str, Tensor],
    ) -> None:
        check_images(x)
        check_keys(scores, reference=reference)
        self.x = x
        changed = []
        for level in self.levels:
            for contrast in self.contrasts:
                changed.append(recolor(x, contrast=contrast, brightness=level))
        self.reference, self.values = {}, {}
        for name, score in scores.items():
            self.reference[name] = check_vector(reference[name], f"reference[{name!r}]")
            parts = []
            for part in torch.cat(changed).split(512):
                found = score(part)
                parts.append(check_vector(found, f"scores[{name!r}], what it gives", len(part)))
            self.values[name] = torch.cat(parts).view(9, 16, len(x))
        self.contrast = slider_of(range(16), "contrast", lambda k: f"{self.contrasts[k]:g}", index=_CONTRAST)
        self.brightness = slider_of(range(9), "brightness", lambda k: f"{self.levels[k]:+g}", index=_LEVEL)
        self.image = slider_of(range(len(x)), "test image")
        self.score = slider_of(scores, "score")
        self.histogram = ipw.Image(format="svg+xml")
        super().__init__("the image as it is · changed, and its score among those of ordinary test images")
        self.column.children += (self.histogram,)

    def _draw(self, change=None) -> None:
        k, level = self.contrast.value, self.brightness.value
        i, score = self.image.value, self.score.value
        values, reference = self.values[score], self.reference[score]
        one, mean = values[:, :, i], values.mean(2)
        now = one[level, k].item()
        image = self.x[i : i + 1]
        look = {"contrast": self.contrasts[k], "brightness": self.levels[level]}
        changed = recolor(image, **look)
        self.picture.value = enlarged(torch.cat([image, changed]), width=192)
        share = (reference < now).double().mean()
        name = escape(score)
        self.say(
            f"{name} <b>{now:.5g}</b> (as it is: {one[_LEVEL, _CONTRAST]:.5g}), higher than that of "
            f"<b>{share:.1%}</b> of {len(reference)} ordinary test images"
        )
        groups = {"ordinary test images": reference}
        self.histogram.value = _histograms(groups, now, score, "this image, dashed")
        drawn = torch.stack([one, mean])
        low, high = drawn.min().item(), drawn.max().item()
        high = max(high, low + 1e-6 * max(1.0, abs(low)))
        chart = Chart((0, self.contrasts[-1]), (low, high), "contrast", score)
        names = "this image", f"mean of {len(self.x)}"
        self.curve.value = chart.one_of_many(self.contrasts, values[level], i, k, *names)


def _histograms(groups: dict[str, Tensor], mark: float, x_title: str, mark_title: str) -> bytes:
    """Draw the shares of each group's values (n,) in common bins, and a dashed line at `mark`, as SVG.

    The axis reaches a fifth beyond the middle 99 % of all values; what lies further out is drawn at its ends.
    """
    ends = torch.tensor([0.005, 0.995], dtype=torch.float64)
    low, high = torch.cat(list(groups.values())).quantile(ends).tolist()
    room = max(0.2 * (high - low), 1e-6 * abs(high), 1e-6)
    low, high = low - room, high + room
    edges = torch.linspace(low, high, 41, dtype=torch.float64)
    middles = ((edges[1:] + edges[:-1]) / 2).tolist()
    shares = []
    for values in groups.values():
        clipped = values.clamp(edges[0], edges[-1])
        counts = torch.histogram(clipped, edges).hist
        shares.append((counts / len(values)).tolist())
    top = 1.25 * max(map(max, shares))
    chart = Chart((low, high), (0, top), x_title, "share")
    for name, share, color in zip(groups, shares, COLORS, strict=False):
        chart.line(middles, share, color, name=name)
    at = min(max(mark, low), high)
    chart.guide([at, at], [0, top], "#000000")
    return chart.svg((mark_title, "#000"))


def _check_pictures(images: dict[str, Pair], scores: Scores) -> None:
    for group in scores.values():
        check_keys(group, images=images)
        for pair, scored in group.items():
            for shown, values in zip(images[pair], scored, strict=True):
                check_images(shown, f"images[{pair!r}]")
                if len(shown) < len(values):
                    raise ValueError(f"images[{pair!r}]: {len(values)} expected, as scores, got {len(shown)}")
