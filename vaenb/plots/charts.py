"""Charts of numbers: points, bars, lines, estimates with intervals, distributions."""

from itertools import cycle

import numpy as np
import plotly.graph_objects as go
import torch
from plotly.subplots import make_subplots
from torch import Tensor

from vaenb.metrics.calibration import Binned, Reliability
from vaenb.plots.style import COLORS, TEMPLATE, plain, six
from vaenb.stats import Estimate


def latent_map(points: Tensor, labels: Tensor, *, title: str = "", axes: tuple[str, str] = ("z₁", "z₂")) -> go.Figure:
    """Scatter points (N, 2), each drawn as its label, so that ten classes need no ten colours."""
    fig = go.Figure()
    for number, label in enumerate(sorted(set(labels.tolist()))):
        x, y = plain(points[labels == label].T)
        font = {"color": COLORS[number % len(COLORS)], "size": 13}
        fig.add_scatter(
            x=x, y=y, mode="text", text=[str(label)] * len(x), textfont=font, name=str(label), showlegend=False
        )
    fig.update_layout(title=title, xaxis_title=axes[0], yaxis_title=axes[1], width=640, height=560, template=TEMPLATE)
    return fig


def scatter(groups: dict[str, Tensor], *, title: str = "", x: str = "", y: str = "", size: int = 8) -> go.Figure:
    """Mark groups of points (n, 2), each in a colour and with a symbol of its own."""
    fig = go.Figure()
    symbols = cycle(("circle", "x", "square", "diamond", "triangle-up", "star"))  # not as many as colours
    for (name, points), color, symbol in zip(groups.items(), cycle(COLORS), symbols):  # noqa: B905
        a, b = plain(points.T)
        marker = {"symbol": symbol, "size": size, "color": color}
        fig.add_scatter(x=a, y=b, mode="markers", name=name, marker=marker)
    return fig.update_layout(title=title, xaxis_title=x, yaxis_title=y, width=760, height=520, template=TEMPLATE)


def bars(
    values: dict[str, Tensor], *, title: str = "", x: str = "", y: str = "", hatched: tuple[str, ...] = ()
) -> go.Figure:
    """Compare series of numbers (n,) as grouped bars over 1..n.

    A name in `hatched` takes the colour of the series before it: the same thing, from another source.
    """
    fig, color, palette = go.Figure(), COLORS[0], cycle(COLORS)
    for name, numbers in values.items():
        color = color if name in hatched else next(palette)
        marker = {"color": color, "pattern": {"shape": "/" if name in hatched else ""}}
        fig.add_bar(x=list(range(1, len(numbers) + 1)), y=plain(numbers), name=name, marker=marker)
    return fig.update_layout(
        title=title, xaxis={"title": x, "dtick": 1}, yaxis_title=y, width=760, height=380, template=TEMPLATE
    )


def lines(
    series: dict[str, tuple[Tensor, Tensor]],
    *,
    title: str = "",
    x: str = "",
    y: str = "",
    dashed: tuple[str, ...] = (),
    log_x: bool = False,
) -> go.Figure:
    """Draw series of (places (K,), values (K,) or (K, N)): for N images their mean and bars of ±2 standard errors.

    A name in `dashed` takes the colour of the series before it: the same thing, treated otherwise. Series with bars
    stand a little beside each other, so that the bars can be told apart.
    """
    fig = go.Figure()
    color, markers = COLORS[0], cycle(("circle", "square", "diamond", "triangle-up", "x", "cross", "star"))
    first, last = min(p.min() for p, _ in series.values()), max(p.max() for p, _ in series.values())
    palette, span, ratio = cycle(COLORS), last - first, last / first
    for number, (name, (places, values)) in enumerate(series.items()):
        color = color if name in dashed else next(palette)
        style = {"line": {"color": color, "dash": "dash" if name in dashed else "solid"}, "mode": "lines+markers"}
        if values.ndim == 2 and values.shape[1] == 1:  # one image or training has no spread
            values = values[:, 0]
        if values.ndim == 2:
            error = 2 * values.std(1) / values.shape[1] ** 0.5
            style["error_y"] = {"array": plain(error), "thickness": 1}
            shift = 0.012 * (number - (len(series) - 1) / 2)
            style["meta"] = {"x": plain(places)}  # where the points belong, for whoever reads the numbers
            places, values = places * ratio**shift if log_x else places + shift * span, values.mean(1)
        fig.add_scatter(x=plain(places), y=plain(values), name=name, marker_symbol=next(markers), **style)
    fig.update_layout(title=title, xaxis_title=x, yaxis_title=y, width=820, height=440, template=TEMPLATE)
    if log_x:
        ticks = torch.cat([p for p, _ in series.values()]).unique()
        if len(ticks) > 9:
            powers, steps = 10.0 ** torch.arange(-9, 10), torch.tensor([1.0] if ratio > 300 else [1.0, 2.0, 5.0])
            ticks = torch.outer(powers, steps).flatten()
            ticks = ticks[(ticks >= first) & (ticks <= last)]
        fig.update_xaxes(type="log", tickvals=plain(ticks), exponentformat="power")
    return fig


def intervals(
    values: dict[str, dict[str, Estimate]], *, title: str = "", x: str = "", mark: float | None = None
) -> go.Figure:
    """Compare estimates with their intervals: a row for each inner name, a colour and a symbol for each outer one.

    A dashed line stands at `mark`.
    """
    fig = go.Figure()
    rows = list(dict.fromkeys(name for group in values.values() for name in group))
    symbols = cycle(("circle", "x", "square", "diamond", "triangle-up", "star"))
    for number, ((name, group), color, symbol) in enumerate(zip(values.items(), cycle(COLORS), symbols)):  # noqa: B905
        shift = 0.12 * (number - (len(values) - 1) / 2)
        found = [(rows.index(row) + shift, e) for row, e in group.items()]
        effect, low, high = (np.array([getattr(e, part) for _, e in found]) for part in ("effect", "low", "high"))
        ends = {"array": six(np.maximum(high - effect, 0)), "arrayminus": six(np.maximum(effect - low, 0))}
        bar = {**ends, "symmetric": False, "thickness": 1.5, "width": 0}
        marker = {"color": color, "symbol": symbol, "size": 9}
        fig.add_scatter(
            x=six(effect), y=six([y for y, _ in found]), error_x=bar, mode="markers", name=name, marker=marker
        )
    if mark is not None:
        fig.add_vline(mark, line={"dash": "dash", "color": "#888888", "width": 1})
    fig.update_yaxes(tickvals=list(range(len(rows))), ticktext=rows, autorange="reversed")
    height = 150 + max(34, 14 * len(values)) * len(rows)
    left = max(190, 9 * max(map(len, rows), default=0))
    size = {"width": 670 + left, "height": height, "margin": {"l": left}}
    # The legend also of a single group: its name stands nowhere else.
    return fig.update_layout(title=title, xaxis_title=x, showlegend=True, **size, template=TEMPLATE)


def binned(
    groups: dict[str, Binned], *, title: str = "", x: str = "confidence (largest probability)", y: str = ""
) -> go.Figure:
    """Draw means over bins of the confidence with bars of ±2 standard errors and, below, the share of the images.

    Bins of fewer than five images are drawn hollow and without a bar: what it would say is not known.
    """
    fig = make_subplots(2, 1, shared_xaxes=True, row_heights=[0.65, 0.35], vertical_spacing=0.06)
    for (name, group), color, symbol in zip(groups.items(), cycle(COLORS), cycle(("circle", "square", "x"))):  # noqa: B905
        full, few, style = group.count > 0, group.count < 5, {"legendgroup": name, "name": name}
        places, share = six((group.edges[1:] + group.edges[:-1]) / 2), group.count / group.count.sum()
        means = [v if some else None for v, some in zip(six(group.mean), full, strict=True)]  # None is a gap
        error = {"array": six((2 * group.error).nan_to_num().masked_fill(few, 0)), "thickness": 1}
        marker = {"symbol": [f"{symbol}-open" if f else symbol for f in few], "size": 8}
        drawn = style | {"error_y": error, "line": {"color": color}, "marker": marker, "mode": "lines+markers"}
        fig.add_scatter(x=places, y=means, **drawn, row=1, col=1)
        bar = {"x": [p for p, some in zip(places, full, strict=True) if some], "y": six(share[full])}
        fig.add_bar(**bar, marker_color=color, showlegend=False, **style, row=2, col=1)
    fig.update_yaxes(title=y, row=1, col=1)
    fig.update_yaxes(title="share of images", type="log", dtick=1, exponentformat="power", row=2, col=1)
    fig.update_xaxes(title=x, row=2, col=1)
    return fig.update_layout(title=title, width=820, height=520, template=TEMPLATE)


def reliability(diagrams: dict[str, Reliability], *, title: str = "") -> go.Figure:
    """Draw reliability diagrams: accuracy over confidence with 95 % intervals and, below, the images in each bin.

    On the dashed diagonal confidence is right; below it, too high.
    """
    fig = make_subplots(2, 1, shared_xaxes=True, row_heights=[0.72, 0.28], vertical_spacing=0.06)
    dashed = {"dash": "dash", "color": "#888888"}
    fig.add_scatter(x=[0, 1], y=[0, 1], mode="lines", line=dashed, name="calibrated", row=1, col=1)
    for (name, d), color, symbol in zip(diagrams.items(), cycle(COLORS), cycle(("circle", "square", "x"))):  # noqa: B905
        full, style = d.count > 0, {"legendgroup": name, "name": name}
        up, down = (d.high - d.accuracy)[full].clamp_min(0), (d.accuracy - d.low)[full].clamp_min(0)
        error = {"array": six(up), "arrayminus": six(down), "symmetric": False, "thickness": 1}
        fig.add_scatter(
            x=six(d.confidence[full]),
            y=six(d.accuracy[full]),
            error_y=error,
            line={"color": color},
            marker={"symbol": symbol, "size": 8},
            **style,
            row=1,
            col=1,
        )
        middle = (d.edges[1:] + d.edges[:-1]) / 2
        counts = {"x": six(middle[full]), "y": d.count[full].tolist()}
        fig.add_bar(**counts, marker_color=color, showlegend=False, **style, row=2, col=1)
    fig.update_yaxes(title="accuracy", range=[-0.03, 1.03], row=1, col=1)
    fig.update_yaxes(title="images", type="log", row=2, col=1)
    fig.update_xaxes(title="confidence (largest probability)", range=[0, 1.02], row=2, col=1)
    return fig.update_layout(title=title, width=620, height=600, template=TEMPLATE)


def histograms(groups: dict[str, Tensor], *, title: str = "", x: str = "", bins: int = 40) -> go.Figure:
    """Draw the distributions of groups of numbers (n,) as outlines over common bins; each has area 1.

    Bins end where the longest of the groups' tails has 1 % left; what lies beyond is in the last one.
    """
    fig = go.Figure()
    groups = {name: values.detach().double().cpu().numpy() for name, values in groups.items()}
    low, high = min(v.min() for v in groups.values()), max(np.quantile(v, 0.99) for v in groups.values())
    edges = np.linspace(low, high if high > low else low + 1, bins + 1)
    dashes = cycle(("solid", "dash", "dot", "dashdot"))
    for (name, values), color, dash in zip(groups.items(), cycle(COLORS), dashes):  # noqa: B905
        share = np.histogram(values.clip(edges[0], edges[-1]), edges)[0] / len(values) / np.diff(edges)
        line = {"shape": "hv", "color": color, "dash": dash, "width": 2}
        fig.add_scatter(x=six(edges), y=six([*share, 0]), mode="lines", line=line, name=name)
    return fig.update_layout(
        title=title, xaxis_title=x, yaxis_title="density", width=760, height=380, template=TEMPLATE
    )
