"""What the explorers are made of: sliders over a picture and its numbers, and a small line chart."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from itertools import product
from typing import Any

import ipywidgets as ipw
import torch
from torch import Tensor

from vaenb.metrics.distortion import DDCurve
from vaenb.plots import COLORS, tile

_START = (
    '<svg xmlns="http://www.w3.org/2000/svg" width="{}" height="{}" '
    'font-family="Helvetica, Arial, sans-serif" font-size="12">'
    '<rect width="100%" height="100%" fill="white"/>'
)
_MIDDLE = ' text-anchor="middle"'
_END = ' text-anchor="end"'
_SOLID = ' stroke-width="2.5" '
LAZY: dict[str, Any] = {"continuous_update": False}  # a slider that draws when it is let go

Range = tuple[float, float]
Numbers = Sequence[float]


class Explorer:
    """Sliders, a caption, and under it a picture, numbers and a curve that `_draw` draws anew when a slider moves."""

    def __init__(self, caption: str, picture: str = "png") -> None:
        """Lay it out and draw it; the attributes that are sliders by now stand on top."""
        parts = vars(self).values()
        sliders = [part for part in parts if isinstance(part, (ipw.ToggleButtons, ipw.SelectionSlider))]
        self.picture = ipw.Image(format=picture)
        self.curve = ipw.Image(format="svg+xml")
        self.numbers = ipw.HTML(layout=ipw.Layout(min_width="34em"))
        title = ipw.HTML(f"<b>{caption}</b>")
        self.column = ipw.VBox([title, self.picture, self.numbers])
        self.sliders = ipw.VBox(sliders)
        below = ipw.HBox([self.column, self.curve])
        self.view = ipw.VBox([self.sliders, below])
        for slider in sliders:
            slider.observe(self._draw, "value")
        self._draw()

    def _draw(self, change=None) -> None:
        raise NotImplementedError

    def say(self, *parts: str) -> None:
        """Show these numbers."""
        self.numbers.value = " · ".join(parts)


def _plain(option) -> str:
    return f"{option:g}" if isinstance(option, float) else str(option)


def slider_of(options: Iterable, description: str, shown: Callable = _plain, **more) -> ipw.SelectionSlider:
    """Make a slider over options, each as it is `shown`."""
    named = [(shown(option), option) for option in options]
    slider = ipw.SelectionSlider(options=named, description=description, **more)
    slider.layout.width = "34em"
    slider.style.description_width = "11em"
    return slider


def radius_slider(radii: Numbers, description: str) -> ipw.SelectionSlider:
    """Make a slider over the places of radii, in the middle at first."""
    return slider_of(range(len(radii)), description, lambda k: f"{radii[k]:.3g}", index=len(radii) // 2)


def check_pairs(name: str, results: Mapping, models: Iterable, pair: str, *, of: str = "models") -> list:
    """Refuse results that are not there for each pair of a model and something else; give what else there is."""
    others = list(dict.fromkeys(other for _, other in results))
    if not results or set(results) != set(product(models, others)):
        raise ValueError(f"{name}: one for each {pair} of {of} {list(models)} expected, got {list(results)}")
    return others


def check_keys(keys: Iterable, **results: Mapping) -> None:
    """Refuse results that are not there for each of the keys and for no other, and keys that are none."""
    for name, found in results.items():
        if not found or set(found) != set(keys):
            raise ValueError(f"{name}: one for each of {list(keys)} expected, got {list(found)}")


def check_curves(name: str, curves: Iterable[DDCurve], x: Tensor) -> Tensor:
    """Refuse curves of other images than x (N, C, H, W), without SSIM, or of different radii; give the radii (K,)."""
    curves = list(curves)
    radii = curves[0].radii
    for curve in curves:
        fits = torch.equal(curve.radii, radii) and curve.adversarial.shape[:2] == (len(radii), len(x))
        if not fits or radii[0] != 0 or "SSIM" not in curve.values:
            raise ValueError(f"{name}: the same radii from 0, SSIM and {len(x)} images as in x expected in each")
    return radii


def enlarged(*rows: Tensor, width: int) -> bytes:
    """Rows of images (n, C, H, W) as one PNG, each image about `width` pixels wide."""
    zoom = max(1, width // rows[0].shape[-1])
    return tile(list(rows), zoom=zoom)


def drawing(width: int, height: int, marks: Iterable[str]) -> bytes:
    """An SVG: plotly would take 300 ms where this takes 0.1."""
    return f"{_START.format(width, height)}{''.join(marks)}</svg>".encode()


def text(x: object, y: object, label: str, style: str = _MIDDLE) -> str:
    return f'<text x="{x}" y="{y}"{style}>{escape(label)}</text>'


def polyline(points: Iterable[Range], color: str, style: str) -> str:
    places = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline points="{places}" fill="none" stroke="{color}"{style}/>'


def circle(x: float, y: float, color: str, style: str = "") -> str:
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="6" fill="{color}"{style}/>'


class Chart:
    """A small line chart as SVG, over the ranges `xs` and `ys`."""

    width, height = 390, 240
    left, right, bottom, top = 60, 370, 200, 20
    legend = 22  # height of its first line

    def __init__(self, xs: Range, ys: Range, x_title: str, y_title: str) -> None:
        self.xs, self.ys = xs, ys
        self.x_title, self.y_title = x_title, y_title
        self.marks: list[str] = []
        self.named: list[tuple[str, str]] = []  # lines of the legend, with their colours

    def x(self, value: float) -> float:
        low, high = self.xs
        return self.left + (value - low) / (high - low) * (self.right - self.left)

    def y(self, value: float) -> float:
        low, high = self.ys
        return self.bottom - (value - low) / (high - low) * (self.bottom - self.top)

    def line(self, xs: Numbers, ys: Numbers, color: str, style: str = _SOLID, name: str = "") -> None:
        """Draw a line; one with a name stands in the legend."""
        if name:
            self.named.append((name, color))
        places = zip(map(self.x, xs), map(self.y, ys), strict=True)
        self.marks.append(polyline(places, color, style))

    def guide(self, xs: Numbers, ys: Numbers, color: str = "#999999") -> None:
        """Draw a dashed line, to compare with."""
        self.line(xs, ys, color, f'{_SOLID}stroke-dasharray="6 4" ')

    def dot(self, x: float, y: float, color: str = COLORS[1]) -> None:
        self.marks.append(circle(self.x(x), self.y(y), color))

    def ring(self, x: float, y: float, color: str) -> None:
        self.marks.append(circle(self.x(x), self.y(y), "none", f' stroke="{color}" stroke-width="2"'))

    def one_of_many(self, xs: Numbers, values: Tensor, i: int, at: int, one: str, mean: str) -> bytes:
        """Draw the line of one image i of values (K, N) with a dot on it, before the mean of all, grey and dashed."""
        chosen = values[:, i].tolist()
        self.guide(xs, values.mean(1).tolist())
        self.line(xs, chosen, COLORS[0], name=one)
        self.dot(xs[at], chosen[at])
        return self.svg((f"{mean}, dashed", "#666"))

    def make_room(self) -> None:
        """Move the curves down, below a legend of up to five lines."""
        self.height, self.bottom, self.top = 310, 270, 100

    def svg(self, *legend: tuple[str, str]) -> bytes:
        """The whole picture; `legend` holds (text, colour) below the named lines, from the top right down."""
        axes = f"M{self.left},{self.top}V{self.bottom}H{self.right}"
        parts = [f'<path d="{axes}" fill="none" stroke="#888"/>']
        for value, label in _ticks(self.xs):
            parts.append(text(f"{self.x(value):.1f}", self.bottom + 17, label))
        for value, label in _ticks(self.ys):
            height = self.y(value) + 4
            parts.append(text(self.left - 8, f"{height:.1f}", label, _END))
        center = (self.left + self.width) / 2
        middle = (self.top + self.bottom) / 2
        turned = f' transform="rotate(-90 14 {middle})"{_MIDDLE}'
        parts.append(text(center, self.height - 4, self.x_title))
        parts.append(text(14, middle, self.y_title, turned))
        parts += self.marks
        for k, (label, color) in enumerate([*self.named, *legend]):
            style = f'{_END} fill="{color}"'
            parts.append(text(self.right, self.legend + 16 * k, label, style))
        return drawing(self.width, self.height, parts)


def _ticks(ends: Range) -> list[tuple[float, str]]:
    """Both ends and the middle, in as many decimals as tell them apart: −7123 among hundreds, 0.05 among tenths."""
    low, high = ends
    middle, span = (low + high) / 2, abs(high - low)
    decimals = max(0, 1 - math.floor(math.log10(span)))
    if abs(round(middle, decimals) - middle) > span / 100:  # 0.8 for 0.75
        decimals += 1
    tiny = max(abs(low), abs(high)) < 1e-4
    shape = ".2g" if tiny else f".{decimals}f"
    return [(value, f"{value:{shape}}") for value in (low, middle, high)]
