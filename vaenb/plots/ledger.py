"""Figures of the ledger: how many claims came out how, how far from their bounds, and each claim's cells."""

import textwrap

import plotly.graph_objects as go

from vaenb import claims, stats
from vaenb.plots.style import COLORS, TEMPLATE

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


def verdicts(rows: list[dict], *, title: str = "") -> go.Figure:
    """Count the verdicts of each document's claims as stacked bars."""
    fig, documents = go.Figure(), list(dict.fromkeys(r["document"] for r in rows))
    for verdict, (color, _) in _LOOKS.items():
        counts = [sum(r["verdict"] == verdict for r in rows if r["document"] == d) for d in documents]
        if any(counts):
            text = [str(c) if c else "" for c in counts]
            fig.add_bar(x=documents, y=counts, name=verdict, marker_color=color, text=text, textposition="inside")
    size = {"width": 760, "height": 420, "barmode": "stack"}
    return fig.update_layout(
        title=title, xaxis_title="document", xaxis_type="category", yaxis_title="claims", **size, template=TEMPLATE
    )


def margins(rows: list[dict], *, title: str = "") -> go.Figure:
    """Draw every measured claim's weakest cell by its distance from the bound, in half-widths of its interval.

    Right of 0 lies what is claimed; what lies beyond ten half-widths is drawn there. An interval that does not touch
    0 decides, if the trainings agree.
    """
    fig, measured = go.Figure(), [r for r in rows if r["shown"] and r["verdict"] != claims.NOT_MEASURED]
    for verdict, (color, symbol) in _LOOKS.items():
        group = [r for r in measured if r["verdict"] == verdict]
        found = [_scaled(claims.margin(r["claim"], r["shown"][0])) for r in group]
        ends = {"array": [e.high - e.effect for e in found], "arrayminus": [e.effect - e.low for e in found]}
        style = {"mode": "markers", "marker": {"color": color, "symbol": symbol, "size": 9}, "name": verdict}
        bar = {**ends, "symmetric": False, "thickness": 1.5, "width": 0}
        if group:
            fig.add_scatter(x=[e.effect for e in found], y=[r["claim"] for r in group], error_x=bar, **style)
    fig.add_vline(0, line={"dash": "dash", "color": "#555555", "width": 1})
    fig.update_yaxes(categoryorder="array", categoryarray=[r["claim"] for r in measured], autorange="reversed")
    fig.update_xaxes(
        range=[-_EDGE - 0.8, _EDGE + 0.8],
        title="distance from the bound, in half-widths of the interval; right: as claimed",
    )
    size = {"width": 860, "height": 160 + 19 * len(measured), "margin": {"l": 200}}
    return fig.update_layout(title=title, showlegend=True, **size, template=TEMPLATE)


def _scaled(margin: stats.Estimate) -> stats.Estimate:
    half = (margin.high - margin.low) / 2 or abs(margin.effect) / _EDGE or 1.0  # a formula's interval has no width
    low, high, effect = (max(-_EDGE, min(_EDGE, v / half)) for v in (margin.low, margin.high, margin.effect))
    return stats.Estimate(max(low, min(high, effect)), low, high)


def claim_slider(rows: list[dict]) -> go.Figure:
    """Show the cells of one claim after the other under a slider, against the bound; needs no kernel."""
    rows = [r for r in rows if r["cells"]]
    frames = [_claim_frame(r) for r in rows]
    first = next((i for i, r in enumerate(rows) if r["verdict"] == "contradicted"), 0)  # with something to argue about
    fig = go.Figure(frames[first].data, frames=frames)
    still = {"mode": "immediate", "frame": {"duration": 0, "redraw": True}, "transition": {"duration": 0}}
    steps = [{"label": f.name, "method": "animate", "args": [[f.name], still]} for f in frames]
    slider = {"steps": steps, "active": first, "currentvalue": {"prefix": "claim "}, "pad": {"t": 90}, "ticklen": 0}
    slider |= {"font": {"color": "rgba(0,0,0,0)"}, "minorticklen": 0}
    slider["currentvalue"]["font"] = {"color": "#222222", "size": 14}
    fig.update_layout(frames[first].layout, sliders=[slider], width=900, height=790, template=TEMPLATE)
    return fig.update_layout(showlegend=False, margin={"l": 330, "t": 120}, title_font_size=15)


def _claim_frame(row: dict) -> go.Frame:
    claim, cells = claims.load()[row["claim"]], row["shown"] + [c for c in row["cells"] if c not in row["shown"]]
    names = [f"{c['cell']} ({c['data']})" if c["counts"] else f"{c['cell']} ({c['data']}: stand-in)" for c in cells]
    effects = [c["effect"] for c in cells]
    error = {"array": [max(c["high"] - e, 0) for c, e in zip(cells, effects, strict=True)], "symmetric": False}
    error |= {
        "arrayminus": [max(e - c["low"], 0) for c, e in zip(cells, effects, strict=True)],
        "thickness": 1.5,
        "width": 0,
    }
    colors, symbols = zip(*(_LOOKS[c["verdict"]] for c in cells), strict=True)
    marker = {"color": colors, "symbol": symbols, "size": 9}
    places = list(range(len(cells)))
    bounds = [claim.bound, -claim.bound] if claim.kind == "equivalent" else [claim.bound]
    line = {"x": [v for b in bounds for v in (b, b, None)], "y": [-0.5, len(cells) - 0.5, None] * len(bounds)}
    drawn = go.Scatter(x=effects, y=places, error_x=error, mode="markers", marker=marker, name=row["claim"])
    bound = go.Scatter(**line, mode="lines", line={"dash": "dash", "color": "#555555", "width": 1}, name="bound")
    title = f"{'<br>'.join(textwrap.wrap(claim.statement, 62))}<br>{row['verdict']} (claimed: {claim.bounded})"
    reach = [*bounds, *(v for c in cells for v in (c["low"], c["high"], c["effect"]))]
    room = 0.05 * (max(reach) - min(reach) or 1)
    axis = {"tickvals": places, "ticktext": [n if len(n) < 48 else f"{n[:46]}…" for n in names]}
    axis |= {"range": [len(cells) - 0.4, -0.6], "tickfont": {"size": 11}}
    layout = {
        "title": {"text": title},
        "yaxis": axis,
        "xaxis": {
            "title": {"text": "<br>".join(textwrap.wrap(claim.statistic, 60))},
            "range": [min(reach) - room, max(reach) + room],
        },
    }
    return go.Frame(name=row["claim"], data=[drawn, bound], layout=layout)
