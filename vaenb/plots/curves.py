"""Distortion over attack radius."""

from typing import TYPE_CHECKING

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from vaenb.plots.style import framed, marked, plain
from vaenb.plots.tables import mean_and_error

if TYPE_CHECKING:
    from vaenb.metrics.distortion import DDCurve

_BELOW = {"orientation": "h", "yanchor": "top", "x": 0}  # a legend's place


def dd_curves(
    curves: "dict[str, DDCurve]",
    *,
    controls: "dict[str, DDCurve] | None" = None,
    title: str = "",
) -> go.Figure:
    """Draw every metric of the curves over attack radius, a panel each: the mean over images, ±2 standard errors.

    `controls` are drawn dashed in the colour of the curve of the same name: random directions of the same radius.
    """
    controls = controls or {}
    metrics = list(next(iter(curves.values())).values)
    fig = make_subplots(1, len(metrics), horizontal_spacing=0.12)
    for column, metric in enumerate(metrics, start=1):
        where = {"row": 1, "col": column}
        for name, curve, marker in marked(curves):
            color = marker["color"]
            band(fig, curve, metric, color, where)
            style = {"showlegend": column == 1, "line_color": color, "marker_symbol": marker["symbol"], **where}
            mean_line(fig, curve, metric, name=name, **style)
            if name in controls:
                control = f"{name}, random"
                mean_line(fig, controls[name], metric, name=control, line_dash="dash", **style)
        fig.update_xaxes(title="attack radius ε (latent units)", **where)
        fig.update_yaxes(title=metric, **where)
    width = 560 if len(metrics) == 1 else 430 * len(metrics)
    return framed(fig, width, 460, title=title, legend=_BELOW | {"y": -0.22})


def mean_line(fig: go.Figure, curve: "DDCurve", metric: str, *, name: str, **style) -> None:
    """Draw the mean over images at every radius."""
    means = plain(curve.values[metric].mean(1))
    style |= {"name": name, "legendgroup": name, "mode": "lines+markers"}
    fig.add_scatter(x=plain(curve.radii), y=means, **style)


def band(fig: go.Figure, curve: "DDCurve", metric: str, color: str, where: dict) -> None:
    """Fill what lies within two standard errors of the mean over images; one image has no such band."""
    mean, error = mean_and_error(curve.values[metric])
    if error is None:
        return
    lower, upper = plain(mean - 2 * error), plain(mean + 2 * error)
    places = plain(curve.radii)
    red, green, blue = bytes.fromhex(color.removeprefix("#"))
    fig.add_scatter(
        x=[*places, *places[::-1]],
        y=[*lower, *upper[::-1]],
        fill="toself",
        fillcolor=f"rgba({red}, {green}, {blue}, 0.15)",
        line={"width": 0},
        hoverinfo="skip",
        showlegend=False,
        mode="lines",
        **where,
    )
