"""The explorers: sliders in front of results that are already there, so that a slider never waits for a computation.

An explorer is a small class whose attributes are its sliders and outputs, and whose `view` is what a notebook shows.
"""

import base64
import math
from collections.abc import Callable
from functools import lru_cache

import ipywidgets as ipw
import torch
from torch import Tensor

from vaenb import hmc
from vaenb.metrics.calibration import brier, ece, reliability
from vaenb.metrics.detection import auroc
from vaenb.metrics.distortion import DDCurve
from vaenb.metrics.slices import Slice, slice_through
from vaenb.models.classifier import check_classifier
from vaenb.models.contract import LatentModel, check_model
from vaenb.plots import COLORS, tile


class LatentAttackExplorer:
    """Drag the attack radius ε, its target, and the model (by β or by name), and watch a reconstruction break.

    `models` are keyed by β or by name; `curves` by (β or name, target) are `dd_curve`s of the latents of images `x`
    (N, C, H, W), all of them over the same radii from 0 and with SSIM among the metrics. Moving a slider
    decodes at most one curve of one image.
    """

    def __init__(
        self,
        models: dict[float | str, LatentModel],
        curves: dict[tuple[float | str, str], DDCurve],
        x: Tensor,
    ) -> None:
        targets = list(dict.fromkeys(target for _, target in curves))
        if set(curves) != {(name, target) for name in models for target in targets} or not curves:
            raise ValueError(
                f"curves: one for each (model, target) of models {list(models)} expected, got {list(curves)}"
            )
        first = next(iter(curves.values()))
        if any(not torch.equal(c.radii, first.radii) or c.adversarial.shape[1] != len(x) for c in curves.values()):
            raise ValueError(f"curves: the same radii, and {len(x)} images as in x, expected in each")
        if any(c.radii[0] != 0 or "SSIM" not in c.values for c in curves.values()):
            raise ValueError("curves: radii from 0 (the plain reconstruction) and SSIM among the metrics expected")
        self.models, self.curves, self.x = models, curves, x
        wide = {"style": {"description_width": "11em"}, "layout": ipw.Layout(width="34em")}
        steps = [(f"{r:.3g}", k) for k, r in enumerate(first.radii.tolist())]
        self.eps = ipw.SelectionSlider(options=steps, description="attack radius ε", continuous_update=True, **wide)
        numbers = all(isinstance(name, (int, float)) for name in models)
        names = [(f"{name:g}" if numbers else str(name), name) for name in models]
        label = "weight β" if numbers else "model"
        self.model = ipw.SelectionSlider(options=names, description=label, continuous_update=False, **wide)
        self.target = ipw.SelectionSlider(options=targets, description="target", continuous_update=False, **wide)
        self.image = ipw.IntSlider(0, 0, len(x) - 1, description="test image", continuous_update=False, **wide)
        self.picture = ipw.Image(format="png")
        self.curve = ipw.Image(format="svg+xml")
        self.numbers = ipw.HTML(layout=ipw.Layout(min_width="34em"))
        self._decoded = lru_cache(maxsize=64)(self._decode)
        sliders = [self.eps, self.target, self.model, self.image]
        if len(targets) == 1:
            sliders.remove(self.target)
        for slider in sliders:
            slider.observe(self._draw, "value")
        captions = ipw.HTML("<b>original · reconstruction · attacked reconstruction</b>")
        left = ipw.VBox([captions, self.picture, self.numbers])
        self.view = ipw.VBox([ipw.VBox(sliders), ipw.HBox([left, self.curve])])
        self._draw()

    @torch.no_grad()
    def _decode(self, name: float | str, target: str, image: int) -> Tensor:
        """Decode one image's attacked latents at every radius: (K, C, H, W)."""
        return self.models[name].decode(self.curves[name, target].adversarial[:, image])

    def _draw(self, change=None) -> None:
        k, i, at = self.eps.value, self.image.value, (self.model.value, self.target.value)
        decoded, curve = self._decoded(*at, i), self.curves[at]
        zoom = max(1, 192 // self.x.shape[-1])
        self.picture.value = tile([torch.stack([self.x[i].cpu(), decoded[0].cpu(), decoded[k].cpu()])], zoom=zoom)
        values = {name: v[k, i].item() for name, v in curve.values.items()}
        shown = " · ".join(f"{name} <b>{value:.3f}</b>" for name, value in values.items())
        self.numbers.value = f"reconstruction against attacked reconstruction: {shown}"
        self.curve.value = _curve_svg(curve, "SSIM", k, i).encode()


def _curve_svg(curve: DDCurve, metric: str, k: int, i: int) -> str:
    """Draw the mean curve, this image's curve and the point on it."""
    radii, values = curve.radii.tolist(), curve.values[metric]
    one, mean = values[:, i].tolist(), values.mean(1).tolist()
    chart = _Chart(
        (radii[0], radii[-1]), (min(0.0, values.min().item()), 1.0), "attack radius ε (latent units)", metric
    )
    chart.line(radii, mean, "#999999", dashed=True)
    chart.line(radii, one, COLORS[0])
    chart.dot(radii[k], one[k])
    return chart.svg(("this image", COLORS[0]), ("mean, dashed", "#666"))


class _Chart:
    """A small line chart as SVG: plotly would take 300 ms where this takes 0.1."""

    width, height, left, bottom, top = 380, 240, 50, 200, 20

    def __init__(self, xs: tuple[float, float], ys: tuple[float, float], x_title: str, y_title: str) -> None:
        self.xs, self.ys, self.titles, self.marks = xs, ys, (x_title, y_title), []

    def x(self, value: float) -> float:
        return self.left + (value - self.xs[0]) / (self.xs[1] - self.xs[0]) * (self.width - self.left - 20)

    def y(self, value: float) -> float:
        return self.bottom - (value - self.ys[0]) / (self.ys[1] - self.ys[0]) * (self.bottom - self.top)

    def line(self, xs: list[float], ys: list[float], color: str, *, dashed: bool = False) -> None:
        points = " ".join(f"{self.x(a):.1f},{self.y(b):.1f}" for a, b in zip(xs, ys, strict=True))
        dash = 'stroke-dasharray="6 4" ' if dashed else ""
        self.marks.append(f'<polyline points="{points}" fill="none" stroke="{color}" stroke-width="2.5" {dash}/>')

    def dot(self, x: float, y: float) -> None:
        self.marks.append(f'<circle cx="{self.x(x):.1f}" cy="{self.y(y):.1f}" r="6" fill="{COLORS[1]}"/>')

    def svg(self, *legend: tuple[str, str]) -> str:
        """The whole picture; `legend` holds (text, colour) from the top right down."""
        middle, right, (x_title, y_title) = (self.top + self.bottom) / 2, self.width - 20, self.titles
        ticks = "".join(
            f'<text x="{self.x(v):.1f}" y="{self.bottom + 17}" text-anchor="middle">{v:.2g}</text>'
            for v in (self.xs[0], sum(self.xs) / 2, self.xs[1])
        ) + "".join(
            f'<text x="{self.left - 8}" y="{self.y(v) + 4:.1f}" text-anchor="end">{v:.2g}</text>'
            for v in (self.ys[0], sum(self.ys) / 2, self.ys[1])
        )
        names = "".join(
            f'<text x="{right}" y="{self.top + 2 + 16 * k}" text-anchor="end" fill="{color}">{text}</text>'
            for k, (text, color) in enumerate(legend)
        )
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{self.width}" height="{self.height}" '
            'font-family="Helvetica, Arial, sans-serif" font-size="12"><rect width="100%" height="100%" fill="white"/>'
            f'<path d="M{self.left},{self.top}V{self.bottom}H{right}" fill="none" stroke="#888"/>{ticks}'
            f'<text x="{(self.left + self.width) / 2}" y="{self.height - 4}" text-anchor="middle">{x_title}</text>'
            f'<text x="14" y="{middle}" transform="rotate(-90 14 {middle})" text-anchor="middle">{y_title}</text>'
            f"{''.join(self.marks)}{names}</svg>"
        )


def _slider(options: list, description: str, **more) -> ipw.SelectionSlider:
    wide = {"style": {"description_width": "11em"}, "layout": ipw.Layout(width="34em")}
    return ipw.SelectionSlider(options=options, description=description, **wide, **more)


def _pictures_view(sliders: list, caption: str, left: list, right: ipw.Widget) -> ipw.VBox:
    captions = ipw.HTML(f"<b>{caption}</b>")
    return ipw.VBox([ipw.VBox(sliders), ipw.HBox([ipw.VBox([captions, *left]), right])])


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
        self.eps = _slider([(f"{e:g}", k) for k, e in enumerate(self.radii)], "attack radius ε")
        self.samples = _slider(list(range(1, samples + 1)), "samples", value=min(10, samples))
        self.image = _slider(list(range(self.copies.shape[1])), "test image")
        self.picture, self.curve = ipw.Image(format="png"), ipw.Image(format="svg+xml")
        self.numbers = ipw.HTML(layout=ipw.Layout(min_width="34em"))
        sliders = [self.eps, self.samples, self.image]
        for slider in sliders:
            slider.observe(self._draw, "value")
        caption = "attacked image, then its reconstructions"
        self.view = _pictures_view(sliders, caption, [self.picture, self.numbers], self.curve)
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
        chart = _Chart(
            (0, self.radii[-1]), (0, max(0.5, *share)), "attack radius ε (of the pixel range)", "share n ≥ 2"
        )
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
        self.temperature = _slider([(f"{t:.2f}", t) for t in self.grid], "temperature T", value=1.0)
        self.condition = _slider(list(logits), "which images")
        self.picture, self.curve = ipw.Image(format="svg+xml"), ipw.Image(format="svg+xml")
        self.numbers = ipw.HTML(layout=ipw.Layout(min_width="34em"))
        sliders = [self.temperature, self.condition]
        for slider in sliders:
            slider.observe(self._draw, "value")
        caption = "accuracy over confidence, and the calibration error over T"
        self.view = _pictures_view(sliders, caption, [self.picture, self.numbers], self.curve)
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
        chart = _Chart((0, 1), (0, 1), "confidence", "accuracy")
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
        chart = _Chart((places[0], places[-1]), (0, max(0.1, *errors)), "log₂ T", "ECE")
        chart.line(places, errors, COLORS[0])
        chart.dot(math.log2(t), now)
        self.curve.value = chart.svg().encode()


class DetectorExplorer:
    """Drag the threshold of a detector, and count whom it catches and whom it accuses.

    `scores` maps a detector's name to its scores (n,) by condition, the innocent one first; larger is more suspicious.
    The threshold is set by the share of innocent images that it would accuse.
    """

    def __init__(self, scores: dict[str, dict[str, Tensor]]) -> None:
        conditions = [list(group) for group in scores.values()]
        if not scores or len(conditions[0]) < 2 or any(c != conditions[0] for c in conditions):
            raise ValueError(f"scores: the same two conditions or more for each detector expected, got {conditions}")
        self.scores, self.innocent = scores, conditions[0][0]
        rates = [0.0, 0.005, 0.01, 0.02, 0.03, 0.05, 0.08, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0]
        self.alarms = _slider([(f"{r:.1%}", r) for r in rates], "false alarms", value=0.05)
        self.detector = _slider(list(scores), "detector")
        self.condition = _slider(conditions[0][1:], "condition")
        self.picture, self.curve = ipw.Image(format="svg+xml"), ipw.Image(format="svg+xml")
        self.numbers = ipw.HTML(layout=ipw.Layout(min_width="34em"))
        sliders = [self.alarms, self.detector, self.condition]
        for slider in sliders:
            slider.observe(self._draw, "value")
        caption = "scores below and above the threshold, and the ROC curve"
        self.view = _pictures_view(sliders, caption, [self.picture, self.numbers], self.curve)
        self._draw()

    def threshold(self, detector: str, rate: float) -> float:
        """The smallest innocent score above which at most `rate` of the innocent scores lie."""
        ordered = self.scores[detector][self.innocent].double().sort(descending=True).values
        return ordered[min(int(rate * len(ordered)), len(ordered) - 1)].item() if rate < 1 else -math.inf

    def _draw(self, change=None) -> None:
        detector, condition, rate = self.detector.value, self.condition.value, self.alarms.value
        clean, bad = (self.scores[detector][name].double().cpu() for name in (self.innocent, condition))
        limit = self.threshold(detector, rate)
        accused, caught = ((v > limit).sum().item() for v in (clean, bad))
        self.numbers.value = (
            f"score > {limit:.4g}: caught <b>{caught}</b>, missed <b>{len(bad) - caught}</b> of {condition} · "
            f"accused <b>{accused}</b>, let pass <b>{len(clean) - accused}</b> of {self.innocent} · "
            f"AUROC {auroc(clean, bad):.3f}"
        )
        self.picture.value = self._histograms(clean, bad, limit, condition).encode()
        cuts = torch.cat([clean, bad]).unique().flip(0)
        cuts = cuts[torch.linspace(0, len(cuts) - 1, min(len(cuts), 200)).long()]
        xs, ys = ([0.0, *(v[:, None] > cuts).double().mean(0).tolist(), 1.0] for v in (clean, bad))
        chart = _Chart((0, 1), (0, 1), "share of innocent images accused", "share caught")
        chart.line([0, 1], [0, 1], "#999999", dashed=True)
        chart.line(xs, ys, COLORS[0])
        chart.dot(accused / len(clean), caught / len(bad))
        self.curve.value = chart.svg().encode()

    def _histograms(self, clean: Tensor, bad: Tensor, limit: float, condition: str) -> str:
        both = torch.cat([clean, bad])
        low, high = both.min().item(), max(both.quantile(0.99).item(), both.min().item() + 1e-9)
        edges = torch.linspace(low, high, 31, dtype=torch.float64)
        heights = [torch.histogram(v.clamp(low, high), edges).hist / len(v) for v in (clean, bad)]
        chart = _Chart((low, high), (0, max(h.max().item() for h in heights)), f"score: {self.detector.value}", "share")
        places = ((edges[1:] + edges[:-1]) / 2).tolist()
        for share, color in zip(heights, (COLORS[0], COLORS[1]), strict=True):
            chart.line(places, share.tolist(), color)
        at = min(max(limit, low), high)
        chart.line([at, at], list(chart.ys), "#000000", dashed=True)
        return chart.svg((self.innocent, COLORS[0]), (condition, COLORS[1]), ("threshold, dashed", "#000"))


class RepairExplorer:
    """Drag the attack radius δ, β and the number of HMC transitions, and watch a code go back.

    `models` are keyed by β; `attacked`, images like `x` (N, C, H, W), and the `chains` that `hmc.repair` gave for them
    by (β, δ). All chains are equally long. A slice of the attacked image's posterior shows the chain's path; it is
    computed when it is first looked at.
    """

    def __init__(
        self,
        models: dict[float, LatentModel],
        attacked: dict[tuple[float, float], Tensor],
        chains: dict[tuple[float, float], hmc.Chains],
        x: Tensor,
    ) -> None:
        deltas = sorted({delta for _, delta in attacked})
        if set(attacked) != {(beta, delta) for beta in models for delta in deltas} or not attacked:
            raise ValueError(f"attacked: one for each (β, δ) of β {list(models)} expected, got {list(attacked)}")
        lengths = {tuple(c.path.shape[:2]) for c in chains.values()}
        if attacked.keys() != chains.keys() or len(lengths) != 1 or next(iter(lengths))[0] != len(x):
            raise ValueError(f"chains: of {len(x)} images, equally long, for each of {list(attacked)} expected")
        self.models, self.attacked, self.chains, self.x = models, attacked, chains, x
        transitions = next(iter(lengths))[1] - 1
        wide = {"style": {"description_width": "11em"}, "layout": ipw.Layout(width="34em")}
        self.delta = ipw.SelectionSlider(
            options=[(f"{d:g}", d) for d in deltas], value=deltas[-1], description="attack radius δ", **wide
        )
        self.transitions = ipw.IntSlider(0, 0, transitions, description="HMC transitions", **wide)
        betas = [(f"{beta:g}", beta) for beta in models]
        self.beta = ipw.SelectionSlider(options=betas, description="KL weight β", continuous_update=False, **wide)
        self.image = ipw.IntSlider(0, 0, len(x) - 1, description="test image", continuous_update=False, **wide)
        self.picture, self.curve = ipw.Image(format="png"), ipw.Image(format="svg+xml")
        self.numbers = ipw.HTML(layout=ipw.Layout(min_width="34em"))
        self._slice = lru_cache(maxsize=64)(self._compute_slice)
        for slider in (self.delta, self.transitions, self.beta, self.image):
            slider.observe(self._draw, "value")
        captions = ipw.HTML("<b>clean · its reconstruction · attacked · its reconstruction · repaired</b>")
        left = ipw.VBox([captions, self.picture, self.numbers])
        self.view = ipw.VBox([self.delta, self.transitions, self.beta, self.image, ipw.HBox([left, self.curve])])
        self._draw()

    def _compute_slice(self, beta: float, delta: float, i: int) -> tuple[Slice, Tensor]:
        """The slice through the clean image's code, the attacked one's and where its chain ended; and the former."""
        model, path = self.models[beta], self.chains[beta, delta].path[i]
        with torch.no_grad():
            clean = model.posterior(self.x[i : i + 1]).mean[0]
        density = hmc.posterior_density(model, self.attacked[beta, delta][i : i + 1])
        points = torch.stack([clean, path[0], path[-1]])
        return slice_through(lambda z: density(z, torch.zeros(len(z), dtype=torch.long)), points, path), clean

    @torch.no_grad()
    def _draw(self, change=None) -> None:
        beta, delta, i, t = self.beta.value, self.delta.value, self.image.value, self.transitions.value
        model, chains = self.models[beta], self.chains[beta, delta]
        plane, clean = self._slice(beta, delta, i)
        path = chains.path[i]
        decoded = model.decode(torch.stack([clean, path[0], path[t]]))
        row = [self.x[i], decoded[0], self.attacked[beta, delta][i], decoded[1], decoded[2]]
        self.picture.value = tile([torch.stack(row).cpu()], zoom=max(1, 96 // self.x.shape[-1]))
        gradients = (chains.gradient_calls - 1) // (len(path) - 1) * t
        gone, left = ((decoded[k] - decoded[0]).square().mean().item() for k in (1, 2))
        self.numbers.value = (
            f"MSE to the clean reconstruction: attacked <b>{gone:.4f}</b> · after {t} transitions "
            f"({gradients} gradients) <b>{left:.4f}</b>"
        )
        self.curve.value = _path_svg(plane, path, clean, t).encode()


def _path_svg(plane: Slice, path: Tensor, clean: Tensor, t: int) -> str:
    """Draw the slice in grey with the path up to transition t."""
    size, edge = 300, 30
    shade = (1 + plane.values.clamp_min(-200).flip(0) / 200)[None, None]
    heat = base64.b64encode(tile([shade.cpu()], zoom=4, gap=0)).decode()

    def place(z: Tensor) -> tuple[float, float]:
        a, b = plane.project(z[None])[0]
        x = (a - plane.a[0]) / (plane.a[-1] - plane.a[0])
        y = (b - plane.b[0]) / (plane.b[-1] - plane.b[0])
        return edge + size * x.item(), edge + size * (1 - y.item())

    def dot(z: Tensor, color: str, name: str) -> str:
        x, y = place(z)
        label = (
            f'<text x="{x + 9:.1f}" y="{y + 4:.1f}" stroke="white" stroke-width="3" paint-order="stroke">{name}</text>'
        )
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="6" fill="{color}" stroke="white"/>{label}'

    way = " ".join(f"{x:.1f},{y:.1f}" for x, y in map(place, path[: t + 1]))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{size + 2 * edge}" height="{size + 2 * edge + 20}" '
        f'font-family="Helvetica, Arial, sans-serif" font-size="12"><rect width="100%" height="100%" fill="white"/>'
        f'<image x="{edge}" y="{edge}" width="{size}" height="{size}" preserveAspectRatio="none" '
        f'href="data:image/png;base64,{heat}"/>'
        f'<polyline points="{way}" fill="none" stroke="{COLORS[1]}" stroke-width="1.5"/>'
        f"{dot(clean, COLORS[0], 'clean code')}{dot(path[0], COLORS[3], 'attacked')}{dot(path[t], COLORS[1], 'now')}"
        f'<text x="{edge}" y="{edge - 10}">log p(z | attacked image) on a plane; white: high, black: −200 nats</text>'
        f'<text x="{edge + size / 2}" y="{size + edge + 20}" text-anchor="middle">clean code to attacked code →</text>'
        "</svg>"
    )
