"""One page about one model."""

from collections.abc import Mapping

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from vaenb.audit.report import Found, Report
from vaenb.plots.charts import dots
from vaenb.plots.curves import band, mean_line
from vaenb.plots.style import COLORS, GUIDE, SYMBOLS, bare_axes, framed, marked, picture_of, plain, six, tile
from vaenb.stats import Estimate

_UNITS = {"latent": "radius ε / spread of the codes", "encoder": "radius δ (L∞, pixels in 0…1)"}
_SIMILARITY = "SSIM to the clean reconstruction"
_REPAIR = {  # what the report calls the images, and what the page does
    "SSIM to the clean reconstruction, attacked": "attacked",
    "… attacked, repaired": "repaired",
    "… clean image through HMC": "clean, HMC",
}


def audit_page(report: Report, *, title: str = "") -> go.Figure:
    """Draw an audit on one page: pictures, both DD-curves, what HMC repairs, OOD scores, and the latents' scale.

    What is not defined for the model is said where it would be.
    """
    eps = report.curves["latent"].radii[-1]
    delta = report.curves["encoder"].radii[-1]
    panels = (
        f"Test images, ε = {eps:g} spreads, δ = {delta:g}",
        "Attack on the code",
        "Attack on the image",
        "HMC repair",
        "Out-of-distribution images",
        "The latents",
    )
    room = {"vertical_spacing": 0.22, "horizontal_spacing": 0.11}
    fig = make_subplots(2, 3, subplot_titles=panels, column_widths=[0.36, 0.32, 0.32], **room)
    _draw_pictures(fig, report)
    for column, kind in enumerate(_UNITS, start=2):
        _draw_curves(fig, report, kind, column)
    _draw_repair(fig, report)
    _draw_outside(fig, report)
    _draw_scale(fig, report)
    fig.update_annotations(font_size=14, selector=lambda note: note.text in panels, yshift=24)
    fig.update_xaxes(title_font_size=13, title_standoff=8, tickfont_size=12)
    fig.update_yaxes(title_font_size=13, title_standoff=4, tickfont_size=12)
    above = {"orientation": "h", "yanchor": "bottom", "font": {"size": 12}}
    fig.update_layout(legend=above | {"x": 0.5, "y": 1})
    fig.update_layout(legend2=above | {"x": 0.42, "y": 0.39})
    fig.update_layout(legend3=above | {"x": 0.76, "y": 0.39})
    text = f"{title}<br><sup>{_summary(report)}</sup>"
    heading = {"text": text, "y": 0.97, "yref": "container"}
    return framed(fig, 1180, 860, title=heading, margin={"t": 130, "l": 125})


def _summary(report: Report) -> str:
    """Clean quality, the areas under attack, and sizes, as a line of text."""
    names = {
        "ELBO in nats": "clean quality: ELBO (nats)",
        "MSE": "clean quality: reconstruction MSE",
        "SSIM": "clean quality: reconstruction SSIM",
        "AADDC latent": "latent attack: AADDC",
        "AADDC encoder": "encoder attack: AADDC",
    }
    parts = []
    for shown, name in names.items():
        found = report[name]
        text = f"{shown} {found.effect:.3g}" if isinstance(found, Estimate) else f"no {shown}"
        parts.append(text.replace("-", "−"))
    sizes = report.settings
    parts.append(f"{sizes['images']} images, {sizes['attacked']} attacked")
    parts.append(f"D = {sizes['latent_dim']}")
    return " · ".join(parts)


def _draw_pictures(fig: go.Figure, report: Report) -> None:
    rows = report.pictures
    fig.add_trace(picture_of(tile(list(rows.values()))), 1, 1)
    bare_axes(fig, list(rows), rows["clean"].shape[-2], row=1, col=1)
    fig.update_xaxes(tickvals=[], row=1, col=1)
    fig.update_yaxes(constraintoward="top", row=1, col=1)


def _draw_curves(fig: go.Figure, report: Report, kind: str, column: int) -> None:
    where = {"row": 1, "col": column}
    ways = (
        ("attack", kind, COLORS[1], "solid"),
        ("random step of its length", f"{kind} random", COLORS[0], "dash"),
    )
    for name, key, color, dash in ways:
        curve, line = report.curves[key], {"color": color, "dash": dash}
        band(fig, curve, "SSIM", color, where)
        mean_line(fig, curve, "SSIM", name=name, showlegend=column == 2, line=line, **where)
    fig.update_xaxes(title=_UNITS[kind], **where)
    fig.update_yaxes(title=_SIMILARITY, range=[-0.05, 1.05], **where)


def _draw_repair(fig: go.Figure, report: Report) -> None:
    """SSIM before and after HMC, or why there is none."""
    for section, repair in report.estimates.items():
        if section.startswith("HMC"):
            found = {shown: repair[name] for name, shown in _REPAIR.items() if name in repair}
            _draw_estimates(fig, {"": found or repair}, _SIMILARITY, 1)


def _draw_outside(fig: go.Figure, report: Report) -> None:
    """AUROC of the scores, for each out-of-distribution set."""
    sets: dict[str, dict[str, Found]] = {}
    for section, found in report.estimates.items():
        if section.startswith("outside: "):
            sets[section.removeprefix("outside: ")] = found
    groups = sets or {"": {"none given": "not measured"}}
    _draw_estimates(fig, groups, "AUROC (left of ½: taken for in-distribution)", 2)
    fig.add_vline(0.5, line=GUIDE, row=2, col=2)


def _draw_estimates(fig: go.Figure, groups: Mapping[str, Mapping[str, Found]], x: str, column: int) -> None:
    """Draw estimates with their intervals, a row for each measure; what is missing is said in its row."""
    where = {"row": 2, "col": column}
    first = next(iter(groups.values()))
    rows = list(first)
    for number, (name, group, marker) in enumerate(marked(groups, SYMBOLS[:4], COLORS[2:])):
        shift = 0.24 * (number - (len(groups) - 1) / 2)
        found, places = [], []
        for row, estimate in group.items():
            if isinstance(estimate, Estimate):
                found.append(estimate)
                places.append(rows.index(row) + shift)
        drawn = dots(found, six(places), marker)
        fig.add_scatter(name=name, showlegend=bool(name), legend="legend2", **drawn, **where)
    note = {"x": 0.02, "xanchor": "left", "showarrow": False, "bgcolor": "white", "font_size": 12}
    for k, reason in enumerate(first.values()):
        if isinstance(reason, str):
            fig.add_annotation(text=reason.partition(":")[0], y=k, **note, **where)
    fig.update_yaxes(tickvals=list(range(len(rows))), ticktext=rows, **where)
    fig.update_yaxes(range=[len(rows) - 0.4, -0.6], **where)
    fig.update_xaxes(title=x, range=[-0.04, 1.04], **where)


def _draw_scale(fig: go.Figure, report: Report) -> None:
    where = {"row": 2, "col": 3}
    places = list(range(1, len(report.spreads) + 1))
    drawn = (
        ("of all codes", report.spreads, COLORS[6], "circle"),
        ("of q(z|x), mean", report.stddevs, COLORS[5], "x"),
    )
    for name, values, color, symbol in drawn:
        marker = {"color": color, "symbol": symbol, "size": 7}
        style = {"mode": "markers", "legend": "legend3", "marker": marker}
        fig.add_scatter(x=places, y=plain(values), name=name, **style, **where)
    fig.update_xaxes(title="latent, the widest first", **where)
    fig.update_yaxes(title="standard deviation", rangemode="tozero", **where)
