"""Saving a figure: interactive, as a picture, and its numbers."""

import threading
import warnings
from functools import cache
from pathlib import Path

import kaleido
import plotly.graph_objects as go
import plotly.io as pio
from choreographer.browsers.chromium import Chromium

from vaenb import files


def chrome() -> str | None:
    """Where the Chrome is that can turn figures into PNG, or None."""
    return Chromium.find_browser(skip_local=False)


def save(fig: go.Figure, folder: Path | str, name: str) -> go.Figure:
    """Write the figure into the folder and return it: `<name>.plotly.json`, its numbers as `<name>.csv`, a `.png`.

    Pictures have no numbers; the PNG needs a Chrome.
    """
    folder = Path(folder)
    files.write(folder / f"{name}.plotly.json", fig.to_json())
    if rows := numbers(fig):
        files.write_csv(folder / f"{name}.csv", rows)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The kopts argument is ignored", category=UserWarning)
        if _png_server():
            files.write(folder / f"{name}.png", fig.to_image("png", scale=2))
    return fig


def numbers(fig: go.Figure) -> list[dict]:
    """Give what the figure draws as rows: panel, series, x, y and, where there are any, low and high of y or of x.

    Rows named on an axis stand by their name. Images have no numbers, and give no rows.
    """
    rows, band = [], None
    for trace in fig.data:
        x_axis, y_axis = (fig.layout[(getattr(trace, f"{d}axis", None) or d).replace(d, f"{d}axis")] for d in "xy")
        about = {"panel": y_axis.title.text or "", "series": trace.name or ""}
        if trace.type == "heatmap":
            cells = zip(trace.y, trace.z, strict=True)
            rows += [about | {"x": x, "y": y, "z": z} for y, line in cells for x, z in zip(trace.x, line, strict=True)]
        elif getattr(trace, "fill", None) == "toself":  # the band of the line that follows
            half = len(trace.y) // 2
            band = (trace.y[:half], trace.y[half:][::-1])
        elif trace.type in ("scatter", "bar"):
            ends = _ends(trace) or band or None
            places = trace.meta["x"] if isinstance(trace.meta, dict) and "x" in trace.meta else trace.x
            for i, (x, y) in enumerate(zip(places, trace.y, strict=True)):
                between = {"low": ends[0][i], "high": ends[1][i]} if ends else {}
                text = {"text": trace.text[i]} if isinstance(trace.text, (list, tuple)) else {}
                rows.append(about | {"x": _named(x, x_axis), "y": _named(y, y_axis)} | between | text)
            band = None
    return rows


def _ends(trace) -> tuple[list, list] | None:
    """The ends of a trace's error bars, of whichever axis has them."""
    for values, error in ((trace.y, trace.error_y), (getattr(trace, "x", None), trace.error_x)):
        if error.array is not None:
            down = error.array if error.arrayminus is None else error.arrayminus
            ends = [(v - d, v + u) if v is not None else ("", "") for v, d, u in zip(values, down, error.array)]  # noqa: B905
            return tuple(list(_rounded(side)) for side in zip(*ends, strict=True))
    return None


def _rounded(values) -> list:
    return [v if isinstance(v, str) else float(f"{v:.6g}") for v in values]


def _named(value, axis):
    """The name at a place on an axis of names: points of several groups stand a little beside it."""
    if not axis.ticktext or not isinstance(value, (int, float)):
        return value
    return min(zip(axis.tickvals, axis.ticktext, strict=True), key=lambda tick: abs(tick[0] - value))[1]


@cache
def _png_server() -> bool:
    """Start one Chrome for all pictures: 0.3 s a picture instead of 3. Give up on one that does not answer."""
    if not chrome():
        return False
    kaleido.start_sync_server(silence_warnings=True, plotlyjs=pio.defaults.plotlyjs)
    answered = threading.Event()  # kaleido waits for ever for a server whose Chrome did not start
    threading.Thread(target=lambda: (go.Figure().to_image("png"), answered.set()), daemon=True).start()
    if not answered.wait(60):
        print("pictures are not saved as PNG: Chrome does not start here")
        kaleido.stop_sync_server(silence_warnings=True)
    return answered.is_set()
