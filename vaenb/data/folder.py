"""The data folder, and what is in it."""

import os
from pathlib import Path

EMBEDDED = ("digits", "sprites")
SPLITS = ("train", "test")


class DatasetUnavailable(RuntimeError):
    """A set that can't be had here and now; the message says what was tried, where, and what is at hand."""


def available(folder: Path | str | None = None) -> list[str]:
    """Name the sets that need no download: the embedded ones, and those in the data folder."""
    here = {path.stem.rsplit("_", 1)[0] for s in SPLITS for path in data_folder(folder).glob(f"*_{s}.npz")}
    return [*EMBEDDED, *sorted(here - set(EMBEDDED))]


def data_folder(folder: Path | str | None) -> Path:
    default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vaenb" / "data"
    return Path(folder or os.environ.get("VAENB_DATA") or default).expanduser()
