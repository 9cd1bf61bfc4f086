"""The one style: colours, template, rounding, and images as pictures.

Colours are Okabe and Ito's, which colour-blind readers can tell apart; lines also differ by dash or marker. What is
plotted is rounded to six digits, so that a rounding difference does not change a notebook.
"""

import base64
import io

import numpy as np
import plotly.graph_objects as go
from PIL import Image
from torch import Tensor

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")


_GRID = "#E5E5E5"


TEMPLATE = go.layout.Template(
    layout={
        "font": {"family": "Helvetica, Arial, sans-serif", "size": 14, "color": "#222222"},
        "title": {"font": {"size": 17}, "x": 0, "xref": "paper", "xanchor": "left"},
        "colorway": COLORS,
        "plot_bgcolor": "white",
        "paper_bgcolor": "white",
        "margin": {"l": 70, "r": 20, "t": 60, "b": 60},
        "xaxis": {"gridcolor": _GRID, "linecolor": "#888888", "ticks": "outside", "zeroline": False},
        "yaxis": {"gridcolor": _GRID, "linecolor": "#888888", "ticks": "outside", "zeroline": False},
        "legend": {"bgcolor": "rgba(255,255,255,0.8)"},
    }
)


def tile(rows: list[Tensor], *, zoom: int = 1, gap: int = 2) -> bytes:
    """Lay rows of images (n, C, H, W) in [0, 1] out as one PNG; every image is `zoom` times its size."""
    lines = []
    for images in rows:
        pixels = (images.detach().cpu().clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).numpy()
        pixels = pixels.repeat(zoom, axis=1).repeat(zoom, axis=2)
        lines.append(
            np.concatenate([np.pad(p, ((gap, gap), (gap, gap), (0, 0)), constant_values=255) for p in pixels], 1)
        )
    picture = np.concatenate(lines, 0)
    png = io.BytesIO()
    Image.fromarray(picture[..., 0] if picture.shape[2] == 1 else picture).save(png, "png")
    return png.getvalue()


def picture_of(png: bytes) -> go.Image:
    source = f"data:image/png;base64,{base64.b64encode(png).decode()}"
    return go.Image(source=source, hoverinfo="skip", zsmooth=False)


def bare_axes(fig: go.Figure, **where) -> None:
    plain = {"showgrid": False, "showline": False, "ticks": "", "fixedrange": True}
    fig.update_xaxes(**plain, constrain="domain", **where)
    fig.update_yaxes(**plain, constrain="domain", **where)


def six(values) -> list[float]:
    """As Python numbers of six significant digits, from any sequence of numbers."""
    return [float(f"{float(v):.6g}") for v in values]


def plain(values: Tensor) -> list:
    """As Python numbers of six significant digits."""
    rounded = [six(row) for row in values.reshape(-1, values.shape[-1]).tolist()]
    return rounded[0] if values.ndim == 1 else rounded
