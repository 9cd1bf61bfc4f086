"""The kernel of a run: a process with a folder and environment variables of its own."""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jupyter_client import AsyncKernelManager

from vaenb import files, plots

# glibc keeps its pages instead of asking the system for zeroed ones at every step; other C libraries look elsewhere.
_ALLOCATOR = {
    "MALLOC_MMAP_THRESHOLD_": str(2**30),
    "MALLOC_TRIM_THRESHOLD_": str(2**33),
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
}


def allocator() -> dict[str, str]:
    """The allocator's settings for a process that is to be started: the environment's own where it has some."""
    return {name: os.environ.get(name, value) for name, value in _ALLOCATOR.items()}


def named_folders() -> dict[str, str]:
    """The folders that the environment names, absolute, as a kernel has another current folder."""
    folders = {}
    for name in ("VAENB_DATA", "VAENB_CACHE", "VAENB_RUNS"):
        if folder := files.named_folder(name):
            folders[name] = str(folder)
    return folders


def renderer() -> str:
    """How plotly shows figures: interactive, and as a PNG where a Chrome is there to draw it."""
    if plots.chrome():
        return "plotly_mimetype+png"
    print("no Chrome found: the executed notebook holds interactive figures without static pictures beside them")
    return "plotly_mimetype"


def manager(folder: Path, environment: dict[str, str]) -> type[AsyncKernelManager]:
    """Make the class of a kernel that starts in `folder`, with `environment` laid over this process's own.

    This process's folder and environment stay as they are, so that runs may go in parallel.
    """
    variables = os.environ | allocator() | {"PLOTLY_RENDERER": renderer()} | named_folders() | environment

    class Manager(AsyncKernelManager):
        def start_kernel(self, *args: Any, **options: Any) -> Any:  # what it returns is awaited
            return super().start_kernel(*args, env=variables, cwd=str(folder.absolute()), **options)

    return Manager


@contextmanager
def repeating(call: Callable[[], None], *, every: float) -> Iterator[None]:
    """Call a function every so many seconds while the block runs."""
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(every):
            call()

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()
