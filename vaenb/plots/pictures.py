"""Grids of images, and images under a slider that needs no kernel."""

import textwrap
from collections.abc import Mapping, Sequence
from itertools import cycle

import plotly.graph_objects as go
from plotly.subplots import make_subplots
from torch import Tensor

from vaenb.plots.style import COLORS, bare_axes, framed, middles, picture_of, six, tile

Rows = Mapping[str, Tensor]
"""Labelled rows of images (n, C, H, W), all of one shape."""


def images(rows: Rows, *, columns: list[str] | None = None, title: str = "") -> go.Figure:
    """Show a grid of images: one labelled row for each entry, (n, C, H, W) in [0, 1]; `columns` label the n columns."""
    count, height, width = _shape_of([rows])
    fig = go.Figure(picture_of(tile(list(rows.values()))))
    bare_axes(fig, list(rows), height)
    scale = min(max(2.6, 80 / width), 900 / (count * (width + 4)))  # of small images a larger one
    label, top = 8 * max(map(len, rows)), 40 if title else 10
    places: list[float] = []
    heads: list[str] = []
    if columns:
        wide = max(4, int((width + 4) * scale / 8))  # letters: a longer label would be turned, into the title
        places = middles(count, width)
        wrapped = [textwrap.wrap(column, wide, break_long_words=False) for column in columns]
        heads = list(map("<br>".join, wrapped))
        top += 12 + 18 * max(1, *map(len, wrapped))
    fig.update_xaxes(tickvals=places, ticktext=heads, tickangle=0, side="top")
    return framed(
        fig,
        width=int(count * (width + 4) * scale) + label + 40,
        height=int(len(rows) * (height + 4) * scale) + top + 10,
        title=title,
        margin={"l": label + 20, "r": 20, "t": top, "b": 10},
    )


def image_slider(
    places: Sequence[float] | Tensor,
    curves: dict[str, Tensor],
    rows: Sequence[Rows],
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
    at = six(places)
    counts = [len(at), len(rows), *map(len, curves.values())]
    if not at or len(set(counts)) > 1:
        raise ValueError(f"places, rows, curves: as many of each, one or more, expected, got {counts}")
    if len(set(map(_place, at))) < len(at):
        raise ValueError(f"places: numbers that differ in three digits expected, got {at}")
    labels, first = list(rows[0]), 2 * len(rows) // 3  # begin where there is something to see
    fig = make_subplots(1, 2, column_widths=[0.62, 0.38], horizontal_spacing=0.09)
    pictures = []
    for row in rows:
        pictures.append(picture_of(tile([row[label] for label in labels])))
    fig.add_trace(pictures[first], 1, 1)
    values = {name: six(curve) for name, curve in curves.items()}
    _curves_with_points(fig, at, values, first)
    points = range(1 + len(curves), 1 + 2 * len(curves))
    frames = []
    for k, place in enumerate(at):
        data = [pictures[k]]
        for value in values.values():
            data.append(go.Scatter(x=[place], y=[value[k]]))
        frames.append(go.Frame(name=_place(place), traces=[0, *points], data=data))
    fig.frames = frames
    fig.update_xaxes(title=x, row=1, col=2)
    fig.update_yaxes(title=y, row=1, col=2)
    moving = slider(frames, first, currentvalue={"prefix": prefix}, pad={"t": 45}, len=0.6)
    fig.update_layout(title=title, sliders=[moving])
    return _sized(fig, rows, len(curves))


def _curves_with_points(fig: go.Figure, at: list[float], values: dict[str, list[float]], first: int) -> None:
    """Draw each curve, and a point on it: of several the same colour, of one another."""
    several = len(values) > 1
    dashes, palette = cycle((None, "dash", "dot", "dashdot")), cycle(COLORS)
    for name, value in values.items():
        line = {"color": next(palette), "dash": next(dashes)}
        fig.add_scatter(x=at, y=value, line=line, mode="lines", name=name, row=1, col=2)
    palette = cycle(COLORS if several else COLORS[1:])
    hidden = {"showlegend": False} if several else {}
    for name, value in values.items():
        marker = {"color": next(palette), "size": 13}
        x, y = [at[first]], [value[first]]
        fig.add_scatter(x=x, y=y, mode="markers", marker=marker, name=name, **hidden, row=1, col=2)


def slider(frames: Sequence[go.Frame], active: int, **look) -> dict:
    """Make plotly's slider over frames, which needs no kernel."""
    frame = {"duration": 0, "redraw": True}
    still = {"mode": "immediate", "frame": frame, "transition": {"duration": 0}}
    steps = []
    for name in [frame.name for frame in frames]:
        steps.append({"label": name, "method": "animate", "args": [[name], still]})
    return {"steps": steps, "active": active, **look}


def _sized(fig: go.Figure, rows: Sequence[Rows], curves: int) -> go.Figure:
    """Make room for the images, their labels and, over several curves, a legend."""
    labels = list(rows[0])
    count, height, width = _shape_of(rows)
    bare_axes(fig, labels, height, row=1, col=1)
    fig.update_xaxes(tickvals=[], row=1, col=1)
    label_width = 8 * max(map(len, labels)) + 20
    legend = 20 * curves if curves > 1 else 0
    tall = int(540 / (count * width) * len(labels) * height) + 190
    framed(fig, 900 + label_width, max(360, tall) + legend, margin={"l": label_width}, showlegend=legend > 0)
    if legend:
        above = {"x": 1, "xanchor": "right", "y": 1.01, "yanchor": "bottom"}
        fig.update_layout(margin_t=60 + legend, legend=above, title_yref="container", title_y=0.95)
    return fig


def _place(value: float) -> str:
    """A step in full, 1000 and not 1e+03, and a radius with three digits."""
    return f"{value:.0f}" if value.is_integer() else f"{value:.3g}"


def _shape_of(rows: Sequence[Rows]) -> tuple[int, int, int]:
    """The number, height and width of the images in each row; raises ValueError where they differ."""
    shapes = {tuple(images.shape) for row in rows for images in row.values()}
    if len(shapes) != 1:
        raise ValueError(f"rows: images of one shape expected, got {sorted(shapes)}")
    count, _, height, width = shapes.pop()
    return count, height, width
