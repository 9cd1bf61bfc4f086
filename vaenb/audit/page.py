"""One page about one model."""

from itertools import cycle

import plotly.graph_objects as go
from plotly.subplots import make_subplots
from torch import Tensor

from vaenb.audit.report import Report
from vaenb.plots.curves import _band, _mean
from vaenb.plots.style import COLORS, TEMPLATE, bare_axes, picture_of, plain, six, tile
from vaenb.stats import Estimate


def audit_page(report: Report, *, title: str = "") -> go.Figure:
    """Draw an audit on one page: pictures, both DD-curves, what HMC repairs, OOD scores, and the latents' scale.

    What is not defined for the model is said where it would be.
    """
    most = f"ε = {report.curves['latent'].radii[-1]:g} spreads, δ = {report.curves['encoder'].radii[-1]:g}"
    panels = (
        f"Test images, {most}",
        "Attack on the code",
        "Attack on the image",
        "HMC repair",
        "Foreign images",
        "The latents",
    )
    room = {"column_widths": [0.36, 0.32, 0.32], "vertical_spacing": 0.22, "horizontal_spacing": 0.11}
    fig = make_subplots(2, 3, subplot_titles=panels, **room)
    _audit_pictures(fig, report.pictures)
    for column, (name, unit) in enumerate(_AUDIT_UNITS.items(), start=2):
        _audit_curves(fig, report, name, unit, column)
    _audit_estimates(fig, report)
    _audit_scale(fig, report)
    above = {"orientation": "h", "yanchor": "bottom", "font": {"size": 12}}
    places = {"legend": (0.5, 1), "legend2": (0.42, 0.39), "legend3": (0.76, 0.39)}
    fig.update_layout({name: above | {"x": x, "y": y} for name, (x, y) in places.items()}, template=TEMPLATE)
    fig.update_annotations(font_size=14, selector=lambda a: a.text in panels, yshift=24)
    fig.update_xaxes(title_font_size=13, title_standoff=8, tickfont_size=12)
    fig.update_yaxes(title_font_size=13, title_standoff=4, tickfont_size=12)
    heading = {"text": f"{title}<br><sup>{_audit_line(report)}</sup>", "y": 0.97, "yref": "container"}
    return fig.update_layout(title=heading, width=1180, height=860, margin={"t": 130, "l": 125})


_AUDIT_UNITS = {"latent": "radius ε / spread of the codes", "encoder": "radius δ (L∞, pixels in 0…1)"}


def _audit_line(report: Report) -> str:
    """Clean quality, the areas under attack, and sizes, as a line of text."""
    names = {"ELBO (nats)": "ELBO in nats", "reconstruction MSE": "MSE", "reconstruction SSIM": "SSIM"}
    clean = {shown: report.estimates["clean quality"][name] for name, shown in names.items()}
    areas = {f"AADDC {kind}": report.estimates[f"{kind} attack"]["AADDC"] for kind in _AUDIT_UNITS}
    shown = [
        f"{n} {e.effect:.3g}".replace("-", "−") if isinstance(e, Estimate) else f"no {n}"
        for n, e in (clean | areas).items()
    ]
    sizes = report.settings
    return " · ".join([*shown, f"{sizes['images']} images, {sizes['attacked']} attacked", f"D = {sizes['latent_dim']}"])


def _audit_pictures(fig: go.Figure, rows: dict[str, Tensor]) -> None:
    fig.add_trace(picture_of(tile(list(rows.values()))), 1, 1)
    cell = next(iter(rows.values())).shape[-2] + 4
    fig.update_yaxes(tickvals=[(i + 0.5) * cell for i in range(len(rows))], ticktext=list(rows), row=1, col=1)
    fig.update_xaxes(tickvals=[], row=1, col=1)
    bare_axes(fig, row=1, col=1)
    fig.update_yaxes(constraintoward="top", row=1, col=1)


def _audit_curves(fig: go.Figure, report: Report, name: str, unit: str, column: int) -> None:
    where = {"row": 1, "col": column}
    ways = ((name, "attack", COLORS[1], "solid"), (f"{name} random", "random step of its length", COLORS[0], "dash"))
    for key, label, color, dash in ways:
        curve, line = report.curves[key], {"color": color, "dash": dash}
        _band(fig, curve.radii, curve.values["SSIM"], color, where)
        style = {"name": label, "legendgroup": label, "showlegend": column == 2, "mode": "lines+markers"}
        fig.add_scatter(x=plain(curve.radii), y=_mean(curve, "SSIM"), line=line, **style, **where)
    fig.update_xaxes(title=unit, **where)
    fig.update_yaxes(title="SSIM to the clean reconstruction", range=[-0.05, 1.05], **where)


def _audit_estimates(fig: go.Figure, report: Report) -> None:
    """The panels of estimates with their intervals: SSIM around HMC, and AUROC of the scores."""
    (repair,) = (found for section, found in report.estimates.items() if section.startswith("HMC"))
    ends = {", attacked": "attacked", "… attacked, repaired": "repaired", "… clean image through HMC": "clean, HMC"}
    found = {shown: e for measure, e in repair.items() for end, shown in ends.items() if measure.endswith(end)}
    _audit_dots(fig, {"": found or repair}, "SSIM to the clean reconstruction", 1)
    sets = {s.removeprefix("outside: "): f for s, f in report.estimates.items() if s.startswith("outside")}
    _audit_dots(fig, sets or {"": {"none given": "not measured"}}, "AUROC (left of ½: looks familiar)", 2)
    fig.add_vline(0.5, line={"dash": "dash", "color": "#888888", "width": 1}, row=2, col=2)


def _audit_dots(fig: go.Figure, groups: dict[str, dict[str, Estimate | str]], x: str, column: int) -> None:
    where, first = {"row": 2, "col": column}, next(iter(groups.values()))
    rows, symbols = list(first), cycle(("circle", "x", "square", "diamond"))
    for number, ((name, group), color, symbol) in enumerate(zip(groups.items(), cycle(COLORS[2:]), symbols)):  # noqa: B905
        shift = 0.24 * (number - (len(groups) - 1) / 2)
        found = [(rows.index(row) + shift, e) for row, e in group.items() if isinstance(e, Estimate)]
        ends = {"array": six(max(e.high - e.effect, 0) for _, e in found)}
        ends |= {"arrayminus": six(max(e.effect - e.low, 0) for _, e in found), "symmetric": False, "width": 0}
        marker = {"color": color, "symbol": symbol, "size": 9}
        places = {"x": six(e.effect for _, e in found), "y": six(y for y, _ in found), "error_x": ends}
        style = {"mode": "markers", "name": name, "showlegend": bool(name), "legend": "legend2"}
        fig.add_scatter(**places, marker=marker, **style, **where)
    for row in (row for row, e in first.items() if isinstance(e, str)):
        at = {"x": 0.02, "y": rows.index(row), "xanchor": "left", "showarrow": False, "bgcolor": "white"}
        fig.add_annotation(text=first[row].partition(":")[0], font_size=12, **at, **where)
    fig.update_yaxes(tickvals=list(range(len(rows))), ticktext=rows, range=[len(rows) - 0.4, -0.6], **where)
    fig.update_xaxes(title=x, range=[-0.04, 1.04], **where)


def _audit_scale(fig: go.Figure, report: Report) -> None:
    places, where = list(range(1, len(report.spreads) + 1)), {"row": 2, "col": 3}
    kinds = {"of all codes": (report.spreads, COLORS[6], "circle"), "of q(z|x), mean": (report.stddevs, COLORS[5], "x")}
    for name, (values, color, symbol) in kinds.items():
        style = {"marker": {"color": color, "symbol": symbol, "size": 7}, "mode": "markers", "legend": "legend3"}
        fig.add_scatter(x=places, y=plain(values), name=name, **style, **where)
    fig.update_xaxes(title="latent, the widest first", **where)
    fig.update_yaxes(title="standard deviation", rangemode="tozero", **where)
