"""Grids of images, and images under a slider that needs no kernel."""

import textwrap
from collections.abc import Sequence
from itertools import cycle

import plotly.graph_objects as go
from plotly.subplots import make_subplots
from torch import Tensor

from vaenb.metrics.distortion import DDCurve
from vaenb.plots.style import COLORS, TEMPLATE, bare_axes, picture_of, six, tile


def images(rows: dict[str, Tensor], *, columns: list[str] | None = None, title: str = "") -> go.Figure:
    """Show a grid of images: one labelled row for each entry, (n, C, H, W) in [0, 1]; `columns` label the n columns."""
    shapes = {tuple(row.shape) for row in rows.values()}
    if len(shapes) != 1:
        raise ValueError(f"rows: images of one shape expected, got {sorted(shapes)}")
    ((count, _, height, width),) = shapes
    fig = go.Figure(picture_of(tile(list(rows.values()))))
    cell_x, cell_y = width + 4, height + 4
    scale = min(2.6, 900 / (count * cell_x))
    wide = max(4, int(cell_x * scale / 8))  # letters over one image: a longer label would be turned, into the title
    heads = ["<br>".join(textwrap.wrap(c, wide, break_long_words=False)) for c in columns or []]
    places = [(i + 0.5) * cell_x for i in range(count)] if columns else []
    fig.update_xaxes(tickvals=places, ticktext=heads, tickangle=0, side="top")
    fig.update_yaxes(tickvals=[(i + 0.5) * cell_y for i in range(len(rows))], ticktext=list(rows))
    bare_axes(fig)
    label = 8 * max(map(len, rows))
    lines_above = max((head.count("<br>") + 1 for head in heads), default=0)
    top = (40 if title else 10) + (12 + 18 * lines_above if columns else 0)
    return fig.update_layout(
        title=title,
        width=int(count * cell_x * scale) + label + 40,
        height=int(len(rows) * cell_y * scale) + top + 10,
        margin={"l": label + 20, "r": 20, "t": top, "b": 10},
        template=TEMPLATE,
    )


def attack_slider(
    curve: DDCurve,
    metric: str,
    rows: list[dict[str, Tensor]],
    *,
    title: str = "",
    x: str = "attack radius ε (latent units)",
) -> go.Figure:
    """Show the images of every radius under a slider, and the point moving on the distortion curve; needs no kernel.

    `rows` holds for each radius of the curve the labelled rows of images (n, C, H, W).
    """
    curves = {"mean over images": curve.values[metric].mean(1)}
    fig = image_slider(curve.radii, curves, rows, title=title, x=x, y=metric, prefix="ε = ")
    fig.data[2].name = "this radius"
    return fig


def image_slider(
    places: Sequence[float] | Tensor,
    curves: dict[str, Tensor],
    rows: list[dict[str, Tensor]],
    *,
    title: str = "",
    x: str = "",
    y: str = "",
    prefix: str = "",
) -> go.Figure:
    """Show the images of every place under a slider, and a point moving on each curve beside them; needs no kernel.

    `places` are K numbers, `curves` named values (K,) there, and `rows` holds for each place the labelled rows of
    images (n, C, H, W). Over the slider stands `prefix` and the place. Raises ValueError where these do not fit.
    """
    _check_slider(places, curves, rows)
    at, values, several = six(places), {name: six(v) for name, v in curves.items()}, len(curves) > 1
    labels, first = list(rows[0]), 2 * len(rows) // 3  # begin where there is something to see
    fig = make_subplots(1, 2, column_widths=[0.62, 0.38], horizontal_spacing=0.09)
    pictures = [picture_of(tile([r[label] for label in labels])) for r in rows]
    fig.add_trace(pictures[first], 1, 1)
    dashes = cycle((None, "dash", "dot", "dashdot"))
    for (name, v), color, dash in zip(values.items(), cycle(COLORS), dashes):  # noqa: B905
        line = {"color": color, "dash": dash}
        fig.add_scatter(x=at, y=v, line=line, mode="lines", name=name, row=1, col=2)
    for (name, v), color in zip(values.items(), cycle(COLORS if several else COLORS[1:])):  # noqa: B905
        point = {"mode": "markers", "marker": {"color": color, "size": 13}, "name": name}
        hidden = {"showlegend": False} if several else {}
        fig.add_scatter(x=[at[first]], y=[v[first]], **point, **hidden, row=1, col=2)
    moving = [0, *range(1 + len(curves), 1 + 2 * len(curves))]
    fig.frames = [
        go.Frame(name=_place(a), traces=moving, data=[picture, *(go.Scatter(x=[a], y=[v]) for v in now)])
        for a, picture, *now in zip(at, pictures, *values.values(), strict=True)
    ]
    still = {"mode": "immediate", "frame": {"duration": 0, "redraw": True}, "transition": {"duration": 0}}
    steps = [{"label": f.name, "method": "animate", "args": [[f.name], still]} for f in fig.frames]
    slider = {"steps": steps, "active": first, "currentvalue": {"prefix": prefix}, "pad": {"t": 45}, "len": 0.6}
    _size_slider(fig, rows[0], slider, title, curves)
    fig.update_xaxes(title=x, row=1, col=2)
    fig.update_yaxes(title=y, row=1, col=2)
    return fig


def _size_slider(fig: go.Figure, row: dict[str, Tensor], slider: dict, title: str, curves: dict) -> None:
    """Make room for the images, their labels and, over several curves, a legend."""
    count, _, height, width = next(iter(row.values())).shape
    label_width, legend = 8 * max(map(len, row)) + 20, 20 * len(curves) if len(curves) > 1 else 0
    fig.update_layout(
        sliders=[slider],
        title=title,
        width=900 + label_width,
        height=max(360, int(540 / (count * width) * len(row) * height) + 190) + legend,
        margin={"l": label_width},
        showlegend=legend > 0,
        template=TEMPLATE,
    )
    if legend:
        above = {"x": 1, "xanchor": "right", "y": 1.01, "yanchor": "bottom"}
        fig.update_layout(margin_t=60 + legend, legend=above, title_yref="container", title_y=0.95)
    cell = height + 4
    fig.update_yaxes(tickvals=[(i + 0.5) * cell for i in range(len(row))], ticktext=list(row), row=1, col=1)
    fig.update_xaxes(tickvals=[], row=1, col=1)
    bare_axes(fig, row=1, col=1)


def _place(value: float) -> str:
    """A step in full, 1000 and not 1e+03, and a radius with three digits."""
    return f"{value:.0f}" if value.is_integer() else f"{value:.3g}"


def _check_slider(places: Sequence[float] | Tensor, curves: dict[str, Tensor], rows: list[dict[str, Tensor]]) -> None:
    if len(places) == 0 or len({_place(a) for a in six(places)}) < len(places):
        raise ValueError(f"places: different numbers, one or more, expected, got {list(places)}")
    if not curves or any(v.shape != (len(places),) for v in curves.values()):
        got = {name: tuple(v.shape) for name, v in curves.items()}
        raise ValueError(f"curves: one or more, a value for each of {len(places)} places, expected, got {got}")
    if len(rows) != len(places) or any(r.keys() != rows[0].keys() for r in rows) or not rows[0]:
        raise ValueError(f"rows: {len(places)} expected, one for each place, with the same labels; got {len(rows)}")
    shapes = {tuple(images.shape) for r in rows for images in r.values()}
    if len(shapes) != 1:
        raise ValueError(f"rows: images of one shape expected, got {sorted(shapes)}")
