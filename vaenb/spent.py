"""The seconds behind what is read from the store, so that a run can say what it costs with an empty one."""

from contextlib import suppress
from pathlib import Path

FILE = "read_back.txt"  # in the folder of a run
_read_back = [0.0]  # by this process
_kept_in: list[Path] = []


def read_back(seconds: float) -> None:
    """Count what it once took to make what was just read; 0 where that is not known."""
    _read_back[0] += seconds
    for path in _kept_in:
        with suppress(OSError):  # its folder may be gone, and nothing hangs on it
            path.write_text(f"{total()}", encoding="utf-8")


def total() -> float:
    """The seconds behind all that this process has read back."""
    return round(_read_back[0], 1)


def keep_in(folder: Path) -> None:
    """From now on keep the total in this folder, too: a notebook's kernel ends before its run is written down."""
    _kept_in[:] = [folder / FILE]
    read_back(0)
