"""The data folder, and what is in it."""

import os
from pathlib import Path

from vaenb.files import cache_folder, expanded

EMBEDDED = ("mnist_small", "fashion_small", "digits", "sprites", "little_sprites")
SPLITS = ("train", "test")


class DatasetUnavailable(RuntimeError):
    """A set that can't be had here and now; the message says what was tried, where, and what is at hand."""


def available(folder: Path | str | None = None) -> list[str]:
    """Name the sets that need no download: the embedded ones, and those in the data folder."""
    here: set[str] = set()
    for split in SPLITS:
        for path in data_folder(folder).glob(f"*_{split}.npz"):
            here.add(path.stem.removesuffix(f"_{split}"))
    return [*EMBEDDED, *sorted(here - set(EMBEDDED))]


def data_folder(folder: Path | str | None) -> Path:
    """Give `folder`, else `$VAENB_DATA`, else vaenb/data in the user's cache folder."""
    return expanded(folder or os.environ.get("VAENB_DATA") or cache_folder("data"))
