"""Executing a notebook and writing it back as it is committed: with outputs, and clean."""

import base64
import io
import re
from pathlib import Path

import nbformat
from nbformat import NotebookNode
from PIL import Image

from vaenb import files
from vaenb.runs.parameters import read_book
from vaenb.runs.run import run

_KERNEL = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}


def publish(notebook: Path | str) -> None:
    """Execute a notebook in its default settings and write it back as it is committed: with outputs, and clean.

    Timings, widget state and progress bars are dropped, so that a second publication changes nothing but results.
    """
    notebook = files.expanded(notebook)
    executed = read_book(run(notebook) / notebook.name)
    executed.metadata = {"kernelspec": _KERNEL, "language_info": executed.metadata["language_info"]}
    count = 0
    for cell in executed.cells:
        tags = cell.metadata.get("tags")
        cell.metadata = {"tags": tags} if tags else {}
        if cell.cell_type == "code":
            count += 1
            _clean(cell, count)
    nbformat.validate(executed)
    files.write(notebook, nbformat.writes(executed) + "\n")


def _clean(cell: NotebookNode, count: int) -> None:
    """Number a code cell, and take from its outputs what differs from run to run."""
    cell.execution_count = count
    cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr" and not _is_progress(output)]
    for output in cell.outputs:
        if "execution_count" in output:
            output.execution_count = count
        output.get("metadata", {}).clear()
        if png := output.get("data", {}).get("image/png"):
            output.data["image/png"] = base64.b64encode(fewer_colors(base64.b64decode(png))).decode()


def _is_progress(output: NotebookNode) -> bool:
    data = output.get("data", {})
    is_widget = "application/vnd.jupyter.widget-view+json" in data
    return is_widget and bool(re.search(r"\d+%\||it/s|\?it", data.get("text/plain", "")))


def fewer_colors(png: bytes) -> bytes:
    """Keep 256 colours of a PNG, a quarter of the size: with fewer, the pale bands of two lines take on one colour."""
    small, picture = io.BytesIO(), Image.open(io.BytesIO(png)).convert("RGB")
    picture.quantize(256, method=Image.Quantize.MAXCOVERAGE).save(small, "png", optimize=True)
    return small.getvalue()
