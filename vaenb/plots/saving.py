"""Saving a figure: interactive, as a picture, and the table of what it shows."""

import threading
import warnings
from functools import cache
from pathlib import Path

import plotly.graph_objects as go
import plotly.io as pio

from vaenb import files


def chrome() -> str | None:
    """Where the Chrome is that can turn figures into PNG, or None."""
    from choreographer.browsers.chromium import Chromium  # here, so that plots are there at once

    return Chromium.find_browser(skip_local=False)


def save(fig: go.Figure, folder: Path | str, name: str, table: list[dict] | None = None) -> go.Figure:
    """Write the figure into the folder as `<name>.plotly.json` and `<name>.png`, and return it; PNG needs a Chrome.

    `table` holds the numbers that it was drawn from, as rows with named columns (see `plots.tables`): `<name>.csv`.
    """
    folder = Path(folder)
    files.write(folder / f"{name}.plotly.json", fig.to_json())
    if table:
        files.write_csv(folder / f"{name}.csv", table)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The kopts argument is ignored", category=UserWarning)
        if _png_server():
            files.write(folder / f"{name}.png", fig.to_image("png", scale=2))
    return fig


@cache
def _png_server() -> bool:
    """Start one Chrome for all pictures: 0.3 s a picture instead of 3. Give up on one that does not answer."""
    if not chrome():
        return False
    import kaleido

    kaleido.start_sync_server(silence_warnings=True, plotlyjs=pio.defaults.plotlyjs)
    answered = threading.Event()  # kaleido waits for ever for a server whose Chrome did not start

    def ask() -> None:
        go.Figure().to_image("png")
        answered.set()

    threading.Thread(target=ask, daemon=True).start()
    if not answered.wait(60):
        print("pictures are not saved as PNG: Chrome does not start here")
        kaleido.stop_sync_server(silence_warnings=True)
    return answered.is_set()
