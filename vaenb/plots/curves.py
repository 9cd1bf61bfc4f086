"""Distortion over attack radius, and a chain's path."""

from itertools import cycle

import plotly.graph_objects as go
from plotly.subplots import make_subplots
from torch import Tensor

from vaenb.metrics.distortion import DDCurve
from vaenb.metrics.slices import Slice
from vaenb.plots.style import COLORS, TEMPLATE, plain

_FLOOR = -200.0  # nats below the top of a slice, from where on it is all the same grey


def chain_path(plane: Slice, path: Tensor, *, marks: dict[str, Tensor], title: str = "") -> go.Figure:
    """Draw a chain's path (T, D) over a slice of its target's log density.

    `marks` are single codes (D,) by name, first the slice's origin and the one on its first axis.
    """
    fig = go.Figure()
    grey = [[0, "#444444"], [0.6, "#AAAAAA"], [1, "#FFFFFF"]]
    bar = {"title": {"text": "log p (nats<br>below the top)"}}
    fig.add_heatmap(
        x=plain(plane.a), y=plain(plane.b), z=plain(plane.values.clamp_min(_FLOOR)), colorscale=grey, colorbar=bar
    )
    x, y = plain(plane.project(path).T)
    line = {"color": COLORS[1], "width": 1.5}
    fig.add_scatter(x=x, y=y, mode="lines+markers", line=line, marker_size=4, name="chain")
    for (name, code), symbol, color in zip(marks.items(), ("circle", "square", "star", "diamond"), COLORS[::2]):  # noqa: B905
        x, y = plain(plane.project(code[None]).T)
        fig.add_scatter(x=x, y=y, mode="markers", name=name, marker={"symbol": symbol, "size": 14, "color": color})
    first, second = list(marks)[:2]
    axes = f"from the {first} to the {second} (latent units)", "across (latent units)"
    legend = {"orientation": "h", "y": -0.18, "yanchor": "top", "x": 0}
    fig.update_layout(xaxis_title=axes[0], yaxis_title=axes[1], width=720, height=620, legend=legend, template=TEMPLATE)
    return fig.update_layout(title=title)


def dd_curves(
    curves: dict[str, DDCurve],
    *,
    controls: dict[str, DDCurve] | None = None,
    title: str = "",
    x: str = "attack radius ε (latent units)",
) -> go.Figure:
    """Draw every metric of the curves over attack radius, a panel each: the mean over images, ±2 standard errors.

    `controls` are drawn dashed in the colour of the curve of the same name: random directions of the same radius.
    """
    metrics = list(next(iter(curves.values())).values)
    fig = make_subplots(1, len(metrics), horizontal_spacing=0.12)
    for column, metric in enumerate(metrics, start=1):
        where = {"row": 1, "col": column}
        for (name, curve), color in zip(curves.items(), cycle(COLORS)):  # noqa: B905
            if curve.values[metric].shape[1] > 1:
                _band(fig, curve.radii, curve.values[metric], color, where)
            _line(fig, curve, metric, name, {"color": color}, where)
            if name in (controls or {}):
                _line(fig, controls[name], metric, f"{name}, random", {"color": color, "dash": "dash"}, where)
        fig.update_xaxes(title=x, **where)
        fig.update_yaxes(title=metric, **where)
    width = 560 if len(metrics) == 1 else 430 * len(metrics)
    legend = {"orientation": "h", "y": -0.22, "yanchor": "top", "x": 0}
    return fig.update_layout(title=title, legend=legend, width=width, height=460, template=TEMPLATE)


def _line(fig: go.Figure, curve: DDCurve, metric: str, name: str, line: dict, where: dict) -> None:
    style = {"line": line, "mode": "lines+markers", "legendgroup": name, "showlegend": where["col"] == 1}
    fig.add_scatter(x=plain(curve.radii), y=_mean(curve, metric), name=name, **style, **where)


def _band(fig: go.Figure, x: Tensor, values: Tensor, color: str, where: dict) -> None:
    error = 2 * values.std(1) / values.shape[1] ** 0.5
    edges = [*plain(values.mean(1) - error), *plain(values.mean(1) + error)[::-1]]
    places = plain(x)
    fig.add_scatter(
        x=[*places, *places[::-1]],
        y=edges,
        fill="toself",
        fillcolor="rgba({}, {}, {}, 0.15)".format(*(int(color[i : i + 2], 16) for i in (1, 3, 5))),
        line={"width": 0},
        hoverinfo="skip",
        showlegend=False,
        mode="lines",
        **where,
    )


def _mean(curve: DDCurve, metric: str) -> list[float]:
    return plain(curve.values[metric].mean(1))
