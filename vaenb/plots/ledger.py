"""Figures of the ledger: how many claims came out how, how far from their bounds, and each claim's cells."""

import textwrap
from collections import Counter

import numpy as np
import plotly.graph_objects as go

from vaenb import claims
from vaenb.plots.charts import dots
from vaenb.plots.pictures import slider
from vaenb.plots.style import COLORS, framed
from vaenb.stats import Estimate

# A colour and a symbol for each verdict: blue holds, vermilion does not, grey is not known.
_LOOKS = {
    "reproduced": (COLORS[0], "circle"),
    "incomplete": (COLORS[5], "circle-open"),
    "contradicted": (COLORS[1], "x"),
    "inconclusive": (COLORS[4], "diamond"),
    claims.FEW_TRAININGS: ("#999999", "triangle-up-open"),
    claims.NO_VERDICT: ("#999999", "square-open"),
    claims.NOT_MEASURED: ("#CCCCCC", "square-open"),
}
_EDGE = 10.0  # half-widths of an interval; what lies beyond is drawn there
_BOUND = {"dash": "dash", "color": "#555555", "width": 1}


def verdicts(rows: list[dict], *, title: str = "") -> go.Figure:
    """Count the verdicts of each document's claims as stacked bars."""
    fig = go.Figure()
    counted = Counter((row["document"], row["verdict"]) for row in rows)
    documents = list(dict.fromkeys(row["document"] for row in rows))
    for verdict, (color, _) in _LOOKS.items():
        counts = [counted[document, verdict] for document in documents]
        if any(counts):
            text = [str(count or "") for count in counts]
            fig.add_bar(x=documents, y=counts, text=text, name=verdict, marker_color=color)
    fig.update_traces(textposition="inside")
    fig.update_xaxes(title="document", type="category")
    return framed(fig, 760, 420, title=title, barmode="stack", yaxis_title="claims")


def margins(rows: list[dict], *, title: str = "") -> go.Figure:
    """Draw every measured claim's weakest cell by its distance from the bound, in half-widths of its interval.

    Right of 0 lies what is claimed; what lies beyond ten half-widths is drawn there. An interval that does not touch
    0 decides, if the trainings agree.
    """
    fig = go.Figure()
    names: list[str] = []
    margins_of: dict[str, dict[str, Estimate]] = {}
    for row in rows:
        if row["shown"] and row["verdict"] != claims.NOT_MEASURED:
            name = row["claim"]
            names.append(name)
            found = margins_of.setdefault(row["verdict"], {})
            found[name] = _scaled(claims.margin(name, row["shown"][0]))
    for verdict, (color, symbol) in _LOOKS.items():
        if verdict in margins_of:
            found = margins_of[verdict]
            marker = {"color": color, "symbol": symbol}
            drawn = dots(found.values(), list(found), marker, rounded=list, thickness=1.5)
            fig.add_scatter(name=verdict, **drawn)
    fig.add_vline(0, line=_BOUND)
    fig.update_yaxes(categoryorder="array", categoryarray=names, autorange="reversed")
    about = "distance from the bound, in half-widths of the interval; right: as claimed"
    fig.update_xaxes(range=[-_EDGE - 0.8, _EDGE + 0.8], title=about)
    height = 160 + 19 * len(names)
    return framed(fig, 860, height, title=title, showlegend=True, margin={"l": 200})


def _scaled(margin: Estimate) -> Estimate:
    """In half-widths of its interval, and no further than `_EDGE`."""
    half = (margin.high - margin.low) / 2 or abs(margin.effect) / _EDGE or 1.0  # a formula's interval has no width
    ends = np.array([margin.low, margin.high]) / half
    low, high = ends.clip(-_EDGE, _EDGE)
    return Estimate(np.clip(margin.effect / half, low, high), low, high)


def claim_slider(rows: list[dict]) -> go.Figure:
    """Show the cells of one claim after the other under a slider, against the bound; needs no kernel."""
    frames, found = [], []
    for row in rows:
        if row["cells"]:
            frames.append(_claim_frame(row))
            found.append(row["verdict"])
    first = 0
    if "contradicted" in found:
        first = found.index("contradicted")  # something to argue about
    fig = go.Figure(frames[first].data, frames=frames)
    now = {"prefix": "claim ", "font": {"color": "#222222", "size": 14}}
    bare = {"font": {"color": "rgba(0,0,0,0)"}, "ticklen": 0, "minorticklen": 0}
    moving = slider(frames, first, currentvalue=now, pad={"t": 90}, **bare)
    fig.update_layout(frames[first].layout, sliders=[moving], title_font_size=15)
    return framed(fig, 900, 790, margin={"l": 330, "t": 120}, showlegend=False)


def _claim_frame(row: dict) -> go.Frame:
    """The cells of a claim, the weakest on top, with a dashed line at its bound, or at both of an equivalence."""
    claim = claims.load()[row["claim"]]
    bounds = [claim.bound]
    if claim.kind == "equivalent":
        bounds.append(-claim.bound)
    reach = list(bounds)
    found, names, colors, symbols = [], [], [], []
    rest = [cell for cell in row["cells"] if cell not in row["shown"]]
    for cell in row["shown"] + rest:
        found.append(Estimate(cell["effect"], cell["low"], cell["high"]))
        reach += [cell["effect"], cell["low"], cell["high"]]
        stand_in = "" if cell["counts"] else ": stand-in"
        name = f"{cell['cell']} ({cell['data']}{stand_in})"
        names.append(name if len(name) < 48 else f"{name[:46]}…")
        color, symbol = _LOOKS[cell["verdict"]]
        colors.append(color)
        symbols.append(symbol)
    places = list(range(len(found)))
    marker = {"color": colors, "symbol": symbols}
    drawn = dots(found, places, marker, rounded=list, thickness=1.5)
    x, y = [], []
    for bound in bounds:
        x += [bound, bound, None]
        y += [-0.5, len(found) - 0.5, None]
    lines = go.Scatter(x=x, y=y, mode="lines", line=_BOUND, name="bound")
    room = 0.05 * (max(reach) - min(reach) or 1)
    heading = f"{_wrapped(claim.statement, 62)}<br>{row['verdict']} (claimed: {claim.bounded})"
    layout = go.Layout(title_text=heading, xaxis_title_text=_wrapped(claim.statistic, 60))
    layout.xaxis.range = [min(reach) - room, max(reach) + room]
    layout.yaxis = {"tickvals": places, "ticktext": names, "tickfont": {"size": 11}}
    layout.yaxis.range = [len(found) - 0.4, -0.6]
    data = [go.Scatter(name=row["claim"], **drawn), lines]
    return go.Frame(name=row["claim"], data=data, layout=layout)


def _wrapped(text: str, width: int) -> str:
    return "<br>".join(textwrap.wrap(text, width))
