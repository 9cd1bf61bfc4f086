"""The one style: colours, template, rounding, and images as pictures.

Colours are Okabe and Ito's, which colour-blind readers can tell apart; lines also differ by dash or marker. What is
plotted is rounded to six digits, so that a rounding difference does not change a notebook.
"""

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from itertools import cycle
from typing import TypeVar

import numpy as np
import plotly.graph_objects as go
from PIL import Image
from torch import Tensor

Group = TypeVar("Group")

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
SYMBOLS = ("circle", "x", "square", "diamond", "triangle-up", "star")  # not as many as colours
GUIDE = {"dash": "dash", "color": "#888888", "width": 1}  # a line to compare with

_AXIS = {"gridcolor": "#E5E5E5", "linecolor": "#888888", "ticks": "outside", "zeroline": False}
TEMPLATE = go.layout.Template(
    layout={
        "font": {"family": "Helvetica, Arial, sans-serif", "size": 14, "color": "#222222"},
        "title": {"font": {"size": 17}, "x": 0, "xref": "paper", "xanchor": "left"},
        "colorway": COLORS,
        "plot_bgcolor": "white",
        "paper_bgcolor": "white",
        "margin": {"l": 70, "r": 20, "t": 60, "b": 60},
        "xaxis": _AXIS,
        "yaxis": _AXIS,
        "legend": {"bgcolor": "rgba(255,255,255,0.8)"},
    }
)


def framed(fig: go.Figure, width: int, height: int, **layout) -> go.Figure:
    """Give the figure its size in pixels, the style, and the rest of its layout."""
    return fig.update_layout(width=width, height=height, template=TEMPLATE, **layout)


def marked(groups: Mapping[str, Group], symbols: Sequence[str] = SYMBOLS) -> Iterator[tuple[str, Group, dict]]:
    """Give each named group its marker, a colour and a symbol."""
    looks = zip(cycle(COLORS), cycle(symbols), strict=False)
    for (name, group), (color, symbol) in zip(groups.items(), looks, strict=False):
        yield name, group, {"color": color, "symbol": symbol}


def tile(rows: list[Tensor], *, zoom: int = 1, gap: int = 2) -> bytes:
    """Lay rows of images (n, C, H, W) in [0, 1] out as one PNG; every image is `zoom` times its size."""
    frame = ((0, 0), (gap, gap), (gap, gap), (0, 0))
    lines = []
    for images in rows:
        whole = (images.detach().cpu().clamp(0, 1) * 255).round().byte()
        pixels = whole.permute(0, 2, 3, 1).numpy()
        pixels = pixels.repeat(zoom, axis=1).repeat(zoom, axis=2)
        pixels = np.pad(pixels, frame, constant_values=255)
        lines.append(np.concatenate(list(pixels), 1))
    picture = np.concatenate(lines, 0)
    if picture.shape[2] == 1:
        picture = picture[..., 0]
    png = io.BytesIO()
    Image.fromarray(picture).save(png, "png")
    return png.getvalue()


def picture_of(png: bytes) -> go.Image:
    source = f"data:image/png;base64,{base64.b64encode(png).decode()}"
    return go.Image(source=source, hoverinfo="skip", zsmooth=False)


def bare_axes(fig: go.Figure, rows: Sequence[str], height: int, **where) -> None:
    """Leave of a picture's axes the names of its rows, of images `height` pixels high."""
    bare = {"showgrid": False, "showline": False, "ticks": "", "fixedrange": True, "constrain": "domain"}
    fig.update_xaxes(**bare, **where)
    fig.update_yaxes(**bare, tickvals=middles(len(rows), height), ticktext=list(rows), **where)


def middles(count: int, size: int) -> list[float]:
    """Where the middles of `count` images of that many pixels lie in a tiled picture."""
    return [(i + 0.5) * (size + 4) for i in range(count)]


def six(values) -> list[float]:
    """As Python numbers of six significant digits, from any sequence of numbers."""
    return [float(f"{float(v):.6g}") for v in values]


def plain(values: Tensor) -> list:
    """As Python numbers of six significant digits; of a matrix, row by row."""
    if values.ndim == 1:
        return six(values.tolist())
    return list(map(six, values.tolist()))
