"""Figures of the ledger: how many claims came out how, how far from their bounds, and each claim's cells."""

import textwrap
from collections import Counter
from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from vaenb.claims import Finding, rule, tables
from vaenb.plots.charts import dots
from vaenb.plots.pictures import slider
from vaenb.plots.style import COLORS, framed
from vaenb.stats import Estimate

# A colour and a symbol for each verdict: blue holds, vermilion does not, grey is not known.
_LOOKS = {
    rule.REPRODUCED: (COLORS[0], "circle"),
    rule.SMALL: (COLORS[5], "circle-open"),
    rule.MIXED: (COLORS[3], "diamond-open"),
    rule.NO_EFFECT: (COLORS[1], "x-open"),
    rule.CONTRADICTED: (COLORS[1], "x"),
    rule.INCONCLUSIVE: (COLORS[4], "diamond"),
    rule.NOT_TESTABLE: ("#999999", "triangle-up-open"),
    rule.NO_VERDICT: ("#999999", "square-open"),
    rule.NOT_MEASURED: ("#CCCCCC", "square-open"),
}
_PATTERNS = {rule.NO_EFFECT: "/", rule.NO_VERDICT: "."}  # whose colour is another's, too
_EDGE = 10.0  # half-widths of an interval; what lies beyond is drawn there
_BOUND = {"dash": "dash", "color": "#555555", "width": 1}
_POOLED = "all together"


def verdicts(findings: Sequence[Finding], *, title: str = "") -> go.Figure:
    """Count the verdicts on each document's claims as stacked bars; questions are not among them."""
    counted: Counter = Counter()
    documents: list[str] = []
    asked = [finding for finding in findings if finding.claim.role == "claim"]
    for (_, document), verdict in tables.by_claim(asked).items():
        counted[document, verdict] += 1
        if document not in documents:
            documents.append(document)
    fig = go.Figure()
    for verdict, (color, _) in _LOOKS.items():
        pattern = _PATTERNS.get(verdict, "")
        counts = [counted[document, verdict] for document in documents]
        if any(counts):
            text = [str(count or "") for count in counts]
            fig.add_bar(
                x=documents, y=counts, text=text, name=verdict, marker_color=color, marker_pattern_shape=pattern
            )
    fig.update_traces(textposition="inside")
    fig.update_xaxes(title="document", type="category")
    return framed(fig, 760, 420, title=title, barmode="stack", yaxis_title="claims")


def margins(findings: Sequence[Finding], *, title: str = "") -> go.Figure:
    """Draw every measured claim's pooled interval by its distance from the bound, in half-widths of the interval.

    Right of 0 lies what is claimed; what lies beyond ten half-widths is drawn there.
    """
    fig = go.Figure()
    names: list[str] = []
    by_verdict: dict[str, dict[str, Estimate]] = {}
    for finding in findings:
        if finding.pooled:
            name = finding.named(finding.claim.id)
            names.append(name)
            by_verdict.setdefault(finding.verdict, {})[name] = _distance(finding)
    for verdict, (color, symbol) in _LOOKS.items():
        if verdict in by_verdict:
            found = by_verdict[verdict]
            marker = {"color": color, "symbol": symbol}
            drawn = dots(found.values(), list(found), marker, rounded=list, thickness=1.5)
            fig.add_scatter(name=verdict, **drawn)
    fig.add_vline(0, line=_BOUND)
    fig.update_yaxes(categoryorder="array", categoryarray=names, autorange="reversed")
    about = "distance from the bound, in half-widths of the interval; right: as claimed"
    fig.update_xaxes(range=[-_EDGE - 0.8, _EDGE + 0.8], title=about)
    height = 160 + 19 * len(names)
    return framed(fig, 860, height, title=title, showlegend=True, margin={"l": 200})


def _distance(finding: Finding) -> Estimate:
    """How far the pool lies on the claimed side of the bound, in half-widths, and no further than `_EDGE`."""
    assert finding.pooled
    pool, b = finding.pooled, finding.claim.bound
    ends = np.array([pool.low, pool.effect, pool.high])
    if finding.claim.kind == "equivalent":
        off = b - np.abs(ends)
        reaches = b if pool.low <= 0 <= pool.high else off.max()
        ends = np.array([off.min(), off[1], max(reaches, off[1])])
    elif finding.claim.kind in ("less", "not_greater"):
        ends = (b - ends)[::-1]
    else:
        ends = ends - b
    half = (pool.high - pool.low) / 2
    if half == 0:  # a formula's interval has no width: the effect alone says how far
        half = abs(ends[1]) / _EDGE or 1.0
    low, effect, high = (ends / half).clip(-_EDGE, _EDGE)
    return Estimate(effect, low, high)


def claim_slider(findings: Sequence[Finding]) -> go.Figure:
    """Show the cells of one claim after the other under a slider, against the bound; needs no kernel."""
    frames, found = [], []
    for finding in findings:
        if finding.cells:
            frames.append(_claim_frame(finding))
            found.append(finding)
    if not frames:
        return framed(go.Figure(), 900, 200, title="No claim was measured yet")
    told = [finding.verdict for finding in found]
    first = next((told.index(verdict) for verdict in (rule.MIXED, rule.CONTRADICTED) if verdict in told), 0)
    fig = go.Figure(frames[first].data, frames=frames)
    now = {"prefix": "claim ", "font": {"color": "#222222", "size": 14}}
    bare = {"font": {"color": "rgba(0,0,0,0)"}, "ticklen": 0, "minorticklen": 0}
    moving = slider(frames, first, currentvalue=now, pad={"t": 90}, **bare)
    fig.update_layout(frames[first].layout, sliders=[moving], title_font_size=15)
    return framed(fig, 900, 790, margin={"l": 330, "t": 120}, showlegend=False)


def _claim_frame(finding: Finding) -> go.Frame:
    """The cells of a claim and their pool on top, with a dashed line at its bound, or at both of an equivalence."""
    claim = finding.claim
    bounds = [claim.bound]
    if claim.kind == "equivalent":
        bounds.append(-claim.bound)
    found = list(finding.cells.values())
    names = [name if len(name) < 48 else f"{name[:46]}…" for name in finding.cells]
    colors, symbols = ["#777777"] * len(found), ["circle"] * len(found)
    if finding.pooled:
        color, symbol = _LOOKS[finding.verdict]
        found.insert(0, finding.pooled)
        names.insert(0, _POOLED)
        colors.insert(0, color)
        symbols.insert(0, symbol)
    reach = list(bounds)
    for estimate in found:
        reach += [estimate.effect, estimate.low, estimate.high]
    places = list(range(len(found)))
    drawn = dots(found, places, {"color": colors, "symbol": symbols}, rounded=list, thickness=1.5)
    x, y = [], []
    for bound in bounds:
        x += [bound, bound, None]
        y += [-0.5, len(found) - 0.5, None]
    lines = go.Scatter(x=x, y=y, mode="lines", line=_BOUND, name="bound")
    room = 0.05 * (max(reach) - min(reach) or 1)
    heading = f"{_wrapped(claim.statement, 62)}<br>{finding.answer} (claimed: {claim.bounded})"
    layout = go.Layout(title_text=heading, xaxis_title_text=_wrapped(claim.statistic, 60))
    layout.xaxis.range = [min(reach) - room, max(reach) + room]
    layout.yaxis = {"tickvals": places, "ticktext": names, "tickfont": {"size": 11}}
    layout.yaxis.range = [len(found) - 0.4, -0.6]
    name = finding.named(claim.id)
    return go.Frame(name=name, data=[go.Scatter(name=name, **drawn), lines], layout=layout)


def _wrapped(text: str, width: int) -> str:
    return "<br>".join(textwrap.wrap(text, width))
