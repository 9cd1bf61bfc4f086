"""Charts of numbers: points, bars, lines, estimates with intervals, distributions."""

from collections.abc import Callable, Iterable
from itertools import cycle
from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go
import torch
from plotly.subplots import make_subplots
from torch import Tensor

from vaenb.plots.style import COLORS, GUIDE, framed, marked, plain, six
from vaenb.plots.tables import mean_and_error

if TYPE_CHECKING:
    from vaenb.metrics.calibration import Binned, Reliability
    from vaenb.stats import Estimate

_LINE_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "x", "cross")  # not as many as colours
_BIN_SYMBOLS = ("circle", "square", "x")


def latent_map(points: Tensor, labels: Tensor, *, title: str = "", axes: tuple[str, str] = ("z₁", "z₂")) -> go.Figure:
    """Scatter points (N, 2), each drawn as its label, so that ten classes need no ten colours."""
    fig = go.Figure()
    for number, label in enumerate(labels.unique().tolist()):
        x, y = plain(points[labels == label].T)
        font = {"color": COLORS[number % len(COLORS)], "size": 13}
        text = [str(label)] * len(x)
        fig.add_scatter(x=x, y=y, mode="text", text=text, textfont=font, name=str(label))
    fig.update_traces(showlegend=False)
    return framed(fig, 640, 560, title=title, xaxis_title=axes[0], yaxis_title=axes[1])


def scatter(groups: dict[str, Tensor], *, title: str = "", x: str = "", y: str = "", size: int = 8) -> go.Figure:
    """Mark groups of points (n, 2), each in a colour and with a symbol of its own."""
    fig = go.Figure()
    for name, points, marker in marked(groups):
        across, up = plain(points.T)
        marker["size"] = size
        fig.add_scatter(x=across, y=up, mode="markers", name=name, marker=marker)
    return framed(fig, 760, 520, title=title, xaxis_title=x, yaxis_title=y)


def bars(values: dict[str, Tensor], *, title: str = "", x: str = "", y: str = "") -> go.Figure:
    """Compare series of numbers (n,) as grouped bars over 1..n."""
    fig = go.Figure()
    for (name, numbers), color in zip(values.items(), cycle(COLORS), strict=False):
        places = list(range(1, len(numbers) + 1))
        fig.add_bar(x=places, y=plain(numbers), name=name, marker_color=color)
    return framed(fig, 760, 380, title=title, xaxis={"title": x, "dtick": 1}, yaxis_title=y)


def lines(
    series: dict[str, tuple[Tensor, Tensor]],
    *,
    title: str = "",
    x: str = "",
    y: str = "",
    dashed: tuple[str, ...] = (),
    log_x: bool = False,
    beside: bool = True,
) -> go.Figure:
    """Draw series of (places (K,), values (K,) or (K, N)): for N images their mean and bars of ±2 standard errors.

    Of zeros and ones it draws the share, with Wilson's interval; bars of values in [0, 1] end there. A name in
    `dashed` takes the colour of the series before it: the same thing, treated otherwise. Series with bars stand a
    little `beside` each other, so that the bars can be told apart; not where places have an end, as shares do.
    """
    fig = go.Figure()
    color, palette, symbols = COLORS[0], cycle(COLORS), cycle(_LINE_SYMBOLS)
    first = min(places.min() for places, _ in series.values())
    last = max(places.max() for places, _ in series.values())
    for number, (name, (places, values)) in enumerate(series.items()):
        if name not in dashed:
            color = next(palette)
        line = {"color": color, "dash": "dash" if name in dashed else "solid"}
        mean, error = mean_and_error(values)
        bar = {}
        if error is not None:
            bar["error_y"] = _arms(values, mean, error)
            shift = 0.012 * (number - (len(series) - 1) / 2)
            if beside and log_x:
                places = places * (last / first) ** shift
            elif beside:
                places = places + shift * (last - first)
        symbol = next(symbols)
        fig.add_scatter(x=plain(places), y=plain(mean), name=name, line=line, marker_symbol=symbol, **bar)
    fig.update_traces(mode="lines+markers")
    if log_x:
        ticks = torch.cat([places for places, _ in series.values()]).unique()
        ticks = ticks if len(ticks) <= 9 else _round_numbers(first, last)
        fig.update_xaxes(type="log", tickvals=plain(ticks), exponentformat="power")
    return framed(fig, 820, 440, title=title, xaxis_title=x, yaxis_title=y)


def _arms(values: Tensor, mean: Tensor, error: Tensor) -> dict:
    """Plotly's bars for means of values (K, N)."""
    low, high = mean - 2 * error, mean + 2 * error
    within = values.min() >= 0 and values.max() <= 1
    if within:
        low, high = low.clamp_min(0), high.clamp_max(1)
    if within and (values == values.round()).all():
        from vaenb.stats import wilson  # here, for it brings scipy

        low, high = wilson(values.sum(1), values.shape[1])
    return {"array": plain(high - mean), "arrayminus": plain(mean - low), "symmetric": False, "thickness": 1}


def _round_numbers(first: Tensor, last: Tensor) -> Tensor:
    """The powers of ten between two numbers, and where these are few, twice and five times them."""
    powers = 10.0 ** torch.arange(-9, 10)
    steps = torch.tensor([1.0] if last / first > 300 else [1.0, 2.0, 5.0])
    ticks = torch.outer(powers, steps).flatten()
    return ticks[(ticks >= first) & (ticks <= last)]


def intervals(
    values: "dict[str, dict[str, Estimate]]", *, title: str = "", x: str = "", mark: float | None = None
) -> go.Figure:
    """Compare estimates with their intervals: a row for each inner name, a colour and a symbol for each outer one.

    A dashed line stands at `mark`.
    """
    fig = go.Figure()
    rows = list(dict.fromkeys(row for group in values.values() for row in group))
    for number, (name, group, marker) in enumerate(marked(values)):
        shift = 0.12 * (number - (len(values) - 1) / 2)
        places = six(rows.index(row) + shift for row in group)
        fig.add_scatter(name=name, **dots(group.values(), places, marker, thickness=1.5))
    if mark is not None:
        fig.add_vline(mark, line=GUIDE)
    fig.update_yaxes(tickvals=list(range(len(rows))), ticktext=rows, autorange="reversed")
    height = 150 + max(34, 14 * len(values)) * len(rows)
    left = max(190, 9 * max(map(len, rows), default=0))
    # The legend also of a single group: its name stands nowhere else.
    return framed(fig, 670 + left, height, title=title, xaxis_title=x, showlegend=True, margin={"l": left})


def dots(estimates: "Iterable[Estimate]", places: list, marker: dict, rounded: Callable = six, **bar) -> dict:
    """Plotly's scatter of estimates with their intervals; an effect outside its interval has one arm."""
    effects, up, down = [], [], []
    for e in estimates:
        effects.append(e.effect)
        up.append(max(e.high - e.effect, 0))
        down.append(max(e.effect - e.low, 0))
    arms = {"array": rounded(up), "arrayminus": rounded(down), "symmetric": False}
    look = {"mode": "markers", "marker": marker | {"size": 9}}
    bars = arms | bar | {"width": 0}
    return {"x": rounded(effects), "y": places, "error_x": bars, **look}


def binned(groups: "dict[str, Binned]", *, title: str = "", y: str = "") -> go.Figure:
    """Draw means over bins of the confidence with bars of ±2 standard errors and, below, the share of the images.

    Bins of fewer than five images are drawn hollow and without a bar: what it would say is not known.
    """
    fig = _two_panels(0.65, 0.35)
    for name, group, marker in marked(groups, _BIN_SYMBOLS):
        few = group.count < 5
        error = (2 * group.error).nan_to_num().masked_fill(few, 0)
        means: list[float | None] = [*six(group.mean)]
        symbols = [marker["symbol"]] * len(means)
        for b, count in enumerate(group.count):
            if count < 5:
                symbols[b] += "-open"
            if count == 0:
                means[b] = None  # a gap
        places = six((group.edges[1:] + group.edges[:-1]) / 2)
        line = {"x": places, "y": means, "marker_symbol": symbols, "mode": "lines+markers"}
        shares = six(group.count / group.count.sum())
        _line_and_bars(fig, name, marker["color"], group, shares, {"array": six(error)}, **line)
    fig.update_yaxes(title=y, row=1, col=1)
    fig.update_yaxes(title="share of images", dtick=1, exponentformat="power", row=2, col=1)
    return framed(fig, 820, 520, title=title)


def _two_panels(above: float, below: float) -> go.Figure:
    heights = [above, below]
    fig = make_subplots(2, 1, shared_xaxes=True, row_heights=heights, vertical_spacing=0.06)
    fig.update_yaxes(type="log", row=2, col=1)
    fig.update_xaxes(title="confidence (largest probability)", row=2, col=1)
    return fig


def _line_and_bars(
    fig: go.Figure, name: str, color: str, group: "Binned | Reliability", counts: list, bars: dict, **line
) -> None:
    """Draw a group's line with its error bars and, below, how many images are in each bin that is not empty."""
    named = {"name": name, "legendgroup": name}
    line |= {"line_color": color, "marker_size": 8, "error_y": bars | {"thickness": 1}}
    fig.add_scatter(**line, **named, row=1, col=1)
    full = group.count > 0
    places = six((group.edges[1:] + group.edges[:-1])[full] / 2)
    heights = np.array(counts)[full].tolist()
    fig.add_bar(x=places, y=heights, marker_color=color, showlegend=False, **named, row=2, col=1)


def reliability(diagrams: "dict[str, Reliability]", *, title: str = "") -> go.Figure:
    """Draw reliability diagrams: accuracy over confidence with 95 % intervals and, below, the images in each bin.

    On the dashed diagonal confidence is right; below it, too high.
    """
    fig = _two_panels(0.72, 0.28)
    fig.add_scatter(x=[0, 1], y=[0, 1], mode="lines", name="calibrated", row=1, col=1)
    fig.update_traces(line_dash=GUIDE["dash"], line_color=GUIDE["color"])
    for name, d, marker in marked(diagrams, _BIN_SYMBOLS):
        full = d.count > 0
        up = (d.high - d.accuracy)[full].clamp_min(0)
        down = (d.accuracy - d.low)[full].clamp_min(0)
        bars = {"array": six(up), "arrayminus": six(down), "symmetric": False}
        line = {"x": six(d.confidence[full]), "y": six(d.accuracy[full])}
        symbol = marker["symbol"]
        _line_and_bars(fig, name, marker["color"], d, d.count.tolist(), bars, marker_symbol=symbol, **line)
    fig.update_yaxes(title="accuracy", range=[-0.03, 1.03], row=1, col=1)
    fig.update_yaxes(title="images", row=2, col=1)
    fig.update_xaxes(range=[0, 1.02], row=2, col=1)
    return framed(fig, 620, 600, title=title)


def histograms(groups: dict[str, Tensor], *, title: str = "", x: str = "", bins: int = 40) -> go.Figure:
    """Draw the distributions of groups of numbers (n,) as outlines over common bins, as shares of their group.

    Bins end where the longest of the groups' tails has 1 % left; what lies beyond is not drawn.
    """
    fig = go.Figure()
    arrays, lows, highs = {}, [], []
    for name, group in groups.items():
        values = group.detach().double().cpu().numpy()
        arrays[name] = values
        lows.append(values.min())
        highs.append(np.quantile(values, 0.99, method="higher"))
    low, high = min(lows), max(highs)
    edges = np.linspace(low, high if high > low else low + 1, bins + 1)
    dashes = cycle(("solid", "dash", "dot", "dashdot"))
    for name, values, marker in marked(arrays):
        counts, _ = np.histogram(values, edges)
        density = counts / len(values) / np.diff(edges)
        line = {"shape": "hv", "color": marker["color"], "dash": next(dashes), "width": 2}
        fig.add_scatter(x=six(edges), y=six([*density, 0]), mode="lines", line=line, name=name)
    return framed(fig, 760, 380, title=title, xaxis_title=x, yaxis_title="density")
