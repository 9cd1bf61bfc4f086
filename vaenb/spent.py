"""The seconds behind what is read from the store, so that a run can say what it costs with an empty one."""

_read_back = [0.0]  # by this process


def read_back(seconds: float) -> None:
    """Count what it once took to make what was just read; 0 where that is not known."""
    _read_back[0] += seconds


def total() -> float:
    """The seconds behind all that this process has read back."""
    return round(_read_back[0], 1)
