"""The figures of an audit, one message each."""

from collections.abc import Iterable

import plotly.graph_objects as go
import torch
from plotly.subplots import make_subplots

from vaenb.audit.attacks import RADII, UNITS
from vaenb.audit.measuring import SCORES
from vaenb.audit.reference import Band
from vaenb.audit.report import Report
from vaenb.plots.charts import dots, intervals
from vaenb.plots.curves import band as error_band
from vaenb.plots.curves import mean_line
from vaenb.plots.style import COLORS, GUIDE, framed, marked, plain, six
from vaenb.stats import Estimate

_GREY = "#BBBBBB"
_REPAIRS = (
    "attacked image",
    "attacked image, repaired",
    "clean image through HMC",
    "against one who does not",
    "against an attacker who knows it",
)
_BESIDE = [
    "clean: reconstruction SSIM",
    *[f"{name}: AADDC" for name in RADII],
    "repair: attacked image, repaired",
    "repair: clean image through HMC",
]


def figures(report: Report, band: Band) -> dict[str, go.Figure]:
    """Draw what there is: by name, in the page's order."""
    drawn = {}
    if any(name in report.curves for name in RADII):
        drawn["curves"] = _curves(report, band)
    if band.models and report.estimate("clean: reconstruction SSIM"):
        drawn["reference"] = _beside(report, band)
    if report.estimate("repair: gain"):
        drawn["repair"] = _repair(report)
    if outside := _outside(report):
        words = "AUROC (left of ½: taken for its own)"
        drawn["outside"] = intervals(outside, title="Other images", x=words, mark=0.5)
    if report.estimate("labels: clean"):
        drawn["labels"] = _labels(report)
    if report.spreads is not None:
        drawn["latents"] = _latents(report)
    if any(name.endswith(", doubled") for name in report.climbs):
        drawn["strength"] = _strength(report)
    return drawn


def _curves(report: Report, band: Band) -> go.Figure:
    """SSIM over radius, of attack and random step, before grey lines of the reference models."""
    fig = make_subplots(1, 3, subplot_titles=("Decoder, by spreads", "Decoder, by distance", "Encoder"))
    for column, name in enumerate(RADII, start=1):
        where = {"row": 1, "col": column}
        _grey_lines(fig, band, name, where, legend=column == 1)
        if name in report.curves:
            ways = (("attack", name, COLORS[1], "solid"), ("random step", f"{name}, random", COLORS[0], "dash"))
            for words, key, color, dash in ways:
                curve = report.curves[key]
                line = {"color": color, "dash": dash}
                error_band(fig, curve, "SSIM", color, where)
                mean_line(fig, curve, "SSIM", name=words, showlegend=column == 1, line=line, **where)
        fig.update_xaxes(title=f"radius ({UNITS[name]})", title_font_size=12, **where)
        fig.update_yaxes(range=[-0.05, 1.05], **where)
    fig.update_yaxes(title="SSIM to the clean reconstruction", row=1, col=1)
    below = {"orientation": "h", "yanchor": "top", "y": -0.25, "x": 0}
    return framed(fig, 1080, 440, title="What an attack leaves", legend=below, margin={"t": 90})


def _grey_lines(fig: go.Figure, band: Band, name: str, where: dict, *, legend: bool) -> None:
    radii = RADII[name]
    for number, measures in enumerate(band.models.values()):
        heights = [1.0]
        for radius in radii[1:]:
            heights.append(measures[f"{name}: SSIM at {radius:g}"][0])
        line = {"color": _GREY, "width": 1}
        shown = {"name": band.words, "showlegend": legend and number == 0, "legendgroup": "reference"}
        fig.add_scatter(x=list(radii), y=heights, mode="lines", line=line, hoverinfo="skip", **shown, **where)


def _beside(report: Report, band: Band) -> go.Figure:
    """Each measure beside the reference models' values of it."""
    fig = go.Figure()
    rows = []
    found = []
    for name in _BESIDE:
        if estimate := report.estimate(name):
            rows.append(name)
            found.append(estimate)
    marker = {"color": _GREY, "symbol": "line-ns-open", "size": 16, "line_width": 2}
    for place, name in enumerate(rows):
        others = band.effects(name)
        fig.add_scatter(
            x=six(others.values()),
            y=[place] * len(others),
            text=list(others),
            name=band.words,
            showlegend=place == 0,
            mode="markers",
            marker=marker,
        )
    places = list(range(len(rows)))
    mine = {"color": COLORS[1], "symbol": "circle"}
    fig.add_scatter(name="this model", **dots(found, places, mine))
    fig.update_yaxes(tickvals=places, ticktext=rows, autorange="reversed")
    words = "SSIM, or the area under it"
    height = 150 + 44 * len(rows)
    return framed(fig, 1080, height, title="Beside the zoo", xaxis_title=words, margin={"l": 260})


def _repair(report: Report) -> go.Figure:
    return _rows(report, "repair", _REPAIRS, title="Repair by HMC", x="SSIM to the clean reconstruction")


def _rows(report: Report, group: str, names: Iterable[str], title: str, x: str) -> go.Figure:
    """The measures of a group that were estimated, a row each."""
    rows: dict[str, Estimate] = {}
    for name in names:
        if found := report.estimate(f"{group}: {name}"):
            rows[name] = found
    return intervals({"": rows}, title=title, x=x).update_layout(showlegend=False)


def _outside(report: Report) -> dict[str, dict[str, Estimate]]:
    """Sets of other images, each with its scores' AUROCs."""
    sets: dict[str, dict[str, Estimate]] = {}
    for name in report.measures:
        of, found, score = name.partition(": AUROC of ")
        estimate = report.estimate(name)
        if found and score in SCORES and estimate:
            sets.setdefault(of, {})[score] = estimate
    return sets


def _labels(report: Report) -> go.Figure:
    names = [name.removeprefix("labels: ") for name in report.measures if name.startswith("labels: ")]
    title = "Labels that a linear probe reads from codes"
    return _rows(report, "labels", names, title=title, x="share that is right")


def _latents(report: Report) -> go.Figure:
    fig = go.Figure()
    assert report.spreads is not None and report.stddevs is not None
    series = {"of all codes": report.spreads, "of q(z|x), mean": report.stddevs}
    for name, values, marker in marked(series):
        places = list(range(1, len(values) + 1))
        fig.add_scatter(x=places, y=plain(values), name=name, mode="markers", marker=marker | {"size": 6})
    axis = {"title": "standard deviation (latent units)", "rangemode": "tozero"}
    return framed(fig, 700, 380, title="The latents", xaxis_title="latent, the widest first", yaxis=axis)


def _strength(report: Report) -> go.Figure:
    """The mean loss over an attack's steps, and that of the best starts, as shares of what the doubled attack found."""
    fig = framed(go.Figure(), 760, 420, title="Is the attack strong enough?", xaxis_title="share of the steps")
    fig.add_hline(1, line=GUIDE)
    for color, name in zip(COLORS[1:], RADII, strict=False):
        doubled = report.climbs.get(f"{name}, doubled")
        if doubled is None or doubled.best <= 0:
            continue
        single = report.climbs[name]
        for words, climb, dash in ((name, single, "solid"), (f"{name}, doubled", doubled, "dash")):
            share = plain(torch.linspace(0, 1, len(climb.path)))
            line = {"color": color, "dash": dash}
            fig.add_scatter(x=share, y=six(climb.path / doubled.best), name=words, mode="lines", line=line)
        best = {"color": color, "symbol": "diamond", "size": 10}
        fig.add_scatter(x=[1], y=[single.best / doubled.best], name=f"{name}, best starts", mode="markers", marker=best)
    return fig.update_yaxes(title="mean loss / that of the doubled attack's best starts")
