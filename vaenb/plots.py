"""Plotly figures, one function a figure, in one style; and saving them with a static picture beside.

Colours are Okabe and Ito's, which colour-blind readers can tell apart; lines also differ by dash or marker. What is
plotted is rounded to six digits, so that a rounding difference does not change a notebook.
"""

import base64
import io
import threading
import warnings
from collections.abc import Sequence
from functools import cache
from itertools import cycle
from pathlib import Path

import kaleido
import numpy as np
import plotly.graph_objects as go
import plotly.io as pio
import torch
from choreographer.browsers.chromium import Chromium
from PIL import Image
from plotly.subplots import make_subplots
from torch import Tensor

from vaenb.claims import Estimate
from vaenb.metrics.calibration import Binned, Reliability
from vaenb.metrics.distortion import DDCurve
from vaenb.metrics.slices import Slice

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_GRID = "#E5E5E5"
_FLOOR = -200.0  # nats below the top of a slice, from where on it is all the same grey
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


def images(rows: dict[str, Tensor], *, columns: list[str] | None = None, title: str = "") -> go.Figure:
    """Show a grid of images: one labelled row for each entry, (n, C, H, W) in [0, 1]; `columns` label the n columns."""
    shapes = {tuple(row.shape) for row in rows.values()}
    if len(shapes) != 1:
        raise ValueError(f"rows: images of one shape expected, got {sorted(shapes)}")
    ((count, _, height, width),) = shapes
    fig = go.Figure(_picture(tile(list(rows.values()))))
    cell_x, cell_y = width + 4, height + 4
    fig.update_xaxes(
        tickvals=[(i + 0.5) * cell_x for i in range(count)] if columns else [], ticktext=columns or [], side="top"
    )
    fig.update_yaxes(tickvals=[(i + 0.5) * cell_y for i in range(len(rows))], ticktext=list(rows))
    _bare_axes(fig)
    scale = min(2.6, 900 / (count * cell_x))
    label = 8 * max(map(len, rows))
    top = (40 if title else 10) + (30 if columns else 0)
    return fig.update_layout(
        title=title,
        width=int(count * cell_x * scale) + label + 40,
        height=int(len(rows) * cell_y * scale) + top + 10,
        margin={"l": label + 20, "r": 20, "t": top, "b": 10},
        template=TEMPLATE,
    )


def latent_map(points: Tensor, labels: Tensor, *, title: str = "", axes: tuple[str, str] = ("z₁", "z₂")) -> go.Figure:
    """Scatter points (N, 2), each drawn as its label, so that ten classes need no ten colours."""
    fig = go.Figure()
    for number, label in enumerate(sorted(set(labels.tolist()))):
        x, y = _plain(points[labels == label].T)
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
        a, b = _plain(points.T)
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
        fig.add_bar(x=list(range(1, len(numbers) + 1)), y=_plain(numbers), name=name, marker=marker)
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
        if values.ndim == 2:
            error = 2 * values.std(1) / values.shape[1] ** 0.5
            style["error_y"] = {"array": _plain(error), "thickness": 1}
            shift = 0.012 * (number - (len(series) - 1) / 2)
            places, values = places * ratio**shift if log_x else places + shift * span, values.mean(1)
        fig.add_scatter(x=_plain(places), y=_plain(values), name=name, marker_symbol=next(markers), **style)
    fig.update_layout(title=title, xaxis_title=x, yaxis_title=y, width=820, height=440, template=TEMPLATE)
    if log_x:
        ticks = torch.cat([p for p, _ in series.values()]).unique()
        fig.update_xaxes(type="log", **({"tickvals": _plain(ticks)} if len(ticks) <= 9 else {}))
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
        ends = {"array": _six(np.maximum(high - effect, 0)), "arrayminus": _six(np.maximum(effect - low, 0))}
        bar = {**ends, "symmetric": False, "thickness": 1.5, "width": 0}
        marker = {"color": color, "symbol": symbol, "size": 9}
        fig.add_scatter(
            x=_six(effect), y=_six([y for y, _ in found]), error_x=bar, mode="markers", name=name, marker=marker
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
        places, share = _six((group.edges[1:] + group.edges[:-1]) / 2), group.count / group.count.sum()
        means = [v if some else None for v, some in zip(_six(group.mean), full, strict=True)]  # None is a gap
        error = {"array": _six((2 * group.error).nan_to_num().masked_fill(few, 0)), "thickness": 1}
        marker = {"symbol": [f"{symbol}-open" if f else symbol for f in few], "size": 8}
        drawn = style | {"error_y": error, "line": {"color": color}, "marker": marker, "mode": "lines+markers"}
        fig.add_scatter(x=places, y=means, **drawn, row=1, col=1)
        bar = {"x": [p for p, some in zip(places, full, strict=True) if some], "y": _six(share[full])}
        fig.add_bar(**bar, marker_color=color, showlegend=False, **style, row=2, col=1)
    fig.update_yaxes(title=y, row=1, col=1).update_yaxes(title="share of images", type="log", row=2, col=1)
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
        error = {"array": _six(up), "arrayminus": _six(down), "symmetric": False, "thickness": 1}
        fig.add_scatter(
            x=_six(d.confidence[full]),
            y=_six(d.accuracy[full]),
            error_y=error,
            line={"color": color},
            marker={"symbol": symbol, "size": 8},
            **style,
            row=1,
            col=1,
        )
        middle = (d.edges[1:] + d.edges[:-1]) / 2
        counts = {"x": _six(middle[full]), "y": d.count[full].tolist()}
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
        fig.add_scatter(x=_six(edges), y=_six([*share, 0]), mode="lines", line=line, name=name)
    return fig.update_layout(
        title=title, xaxis_title=x, yaxis_title="density", width=760, height=380, template=TEMPLATE
    )


def chain_path(plane: Slice, path: Tensor, *, marks: dict[str, Tensor], title: str = "") -> go.Figure:
    """Draw a chain's path (T, D) over a slice of its target's log density.

    `marks` are single codes (D,) by name, first the slice's origin and the one on its first axis.
    """
    fig = go.Figure()
    grey = [[0, "#444444"], [0.6, "#AAAAAA"], [1, "#FFFFFF"]]
    bar = {"title": {"text": "log p (nats<br>below the top)"}}
    fig.add_heatmap(
        x=_plain(plane.a), y=_plain(plane.b), z=_plain(plane.values.clamp_min(_FLOOR)), colorscale=grey, colorbar=bar
    )
    x, y = _plain(plane.project(path).T)
    line = {"color": COLORS[1], "width": 1.5}
    fig.add_scatter(x=x, y=y, mode="lines+markers", line=line, marker_size=4, name="chain")
    for (name, code), symbol, color in zip(marks.items(), ("circle", "square", "star", "diamond"), COLORS[::2]):  # noqa: B905
        x, y = _plain(plane.project(code[None]).T)
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
    fig.add_scatter(x=_plain(curve.radii), y=_mean(curve, metric), name=name, **style, **where)


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
    at, values, several = _six(places), {name: _six(v) for name, v in curves.items()}, len(curves) > 1
    labels, first = list(rows[0]), 2 * len(rows) // 3  # begin where there is something to see
    fig = make_subplots(1, 2, column_widths=[0.62, 0.38], horizontal_spacing=0.09)
    pictures = [_picture(tile([r[label] for label in labels])) for r in rows]
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
    _bare_axes(fig, row=1, col=1)


def _place(value: float) -> str:
    """A step in full, 1000 and not 1e+03, and a radius with three digits."""
    return f"{value:.0f}" if value.is_integer() else f"{value:.3g}"


def _check_slider(places: Sequence[float] | Tensor, curves: dict[str, Tensor], rows: list[dict[str, Tensor]]) -> None:
    if len(places) == 0 or len({_place(a) for a in _six(places)}) < len(places):
        raise ValueError(f"places: different numbers, one or more, expected, got {list(places)}")
    if not curves or any(v.shape != (len(places),) for v in curves.values()):
        got = {name: tuple(v.shape) for name, v in curves.items()}
        raise ValueError(f"curves: one or more, a value for each of {len(places)} places, expected, got {got}")
    if len(rows) != len(places) or any(r.keys() != rows[0].keys() for r in rows) or not rows[0]:
        raise ValueError(f"rows: {len(places)} expected, one for each place, with the same labels; got {len(rows)}")
    shapes = {tuple(images.shape) for r in rows for images in r.values()}
    if len(shapes) != 1:
        raise ValueError(f"rows: images of one shape expected, got {sorted(shapes)}")


def chrome() -> str | None:
    """Where the Chrome is that can turn figures into PNG, or None."""
    return Chromium.find_browser(skip_local=False)


def save(fig: go.Figure, folder: Path | str, name: str) -> go.Figure:
    """Write `<name>.plotly.json` and, where there is a Chrome, `<name>.png` into the folder; return the figure."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / f"{name}.plotly.json", fig.to_json().encode())
    if _png_server():
        _write(folder / f"{name}.png", fig.to_image("png", scale=2))
    return fig


@cache
def _png_server() -> bool:
    """Start one Chrome for all pictures: 0.3 s a picture instead of 3. Give up on one that does not answer."""
    if not chrome():
        return False
    warnings.filterwarnings("ignore", message="The kopts argument is ignored", category=UserWarning)
    kaleido.start_sync_server(silence_warnings=True, plotlyjs=pio.defaults.plotlyjs)
    answered = threading.Event()  # kaleido waits for ever for a server whose Chrome did not start
    threading.Thread(target=lambda: (go.Figure().to_image("png"), answered.set()), daemon=True).start()
    if not answered.wait(60):
        print("pictures are not saved as PNG: Chrome does not start here")
        kaleido.stop_sync_server(silence_warnings=True)
    return answered.is_set()


def _write(path: Path, content: bytes) -> None:
    part = path.with_name(path.name + ".part")
    part.write_bytes(content)
    part.replace(path)


def _picture(png: bytes) -> go.Image:
    source = f"data:image/png;base64,{base64.b64encode(png).decode()}"
    return go.Image(source=source, hoverinfo="skip", zsmooth=False)


def _bare_axes(fig: go.Figure, **where) -> None:
    plain = {"showgrid": False, "showline": False, "ticks": "", "fixedrange": True}
    fig.update_xaxes(**plain, constrain="domain", **where)
    fig.update_yaxes(**plain, constrain="domain", **where)


def _band(fig: go.Figure, x: Tensor, values: Tensor, color: str, where: dict) -> None:
    error = 2 * values.std(1) / values.shape[1] ** 0.5
    edges = [*_plain(values.mean(1) - error), *_plain(values.mean(1) + error)[::-1]]
    places = _plain(x)
    fig.add_scatter(
        x=[*places, *places[::-1]],
        y=edges,
        fill="toself",
        fillcolor=color,
        opacity=0.15,
        line={"width": 0},
        hoverinfo="skip",
        showlegend=False,
        mode="lines",
        **where,
    )


def _mean(curve: DDCurve, metric: str) -> list[float]:
    return _plain(curve.values[metric].mean(1))


def _six(values) -> list[float]:
    """As Python numbers of six significant digits, from any sequence of numbers."""
    return [float(f"{float(v):.6g}") for v in values]


def _plain(values: Tensor) -> list:
    """As Python numbers of six significant digits."""
    rounded = [_six(row) for row in values.reshape(-1, values.shape[-1]).tolist()]
    return rounded[0] if values.ndim == 1 else rounded
