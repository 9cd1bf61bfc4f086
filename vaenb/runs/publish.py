"""Executing a notebook and writing it back as it is committed: with outputs, and clean."""

import base64
import io
import re
from pathlib import Path

import nbformat
from PIL import Image

from vaenb import files
from vaenb.runs.run import run


def publish(notebook: Path | str) -> None:
    """Execute a notebook in its default settings and write it back as it is committed: with outputs, and clean.

    Timings, widget state and progress bars are dropped, so that a second publication changes nothing but results.
    """
    notebook = Path(notebook)
    executed = nbformat.read(run(notebook) / notebook.name, as_version=4)
    executed.metadata = {k: v for k, v in executed.metadata.items() if k in ("kernelspec", "language_info")}
    executed.metadata["kernelspec"] = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
    for count, cell in enumerate((c for c in executed.cells if c.cell_type == "code"), start=1):
        cell.metadata = {"tags": tags} if (tags := cell.metadata.get("tags")) else {}
        cell.execution_count = count
        cell.outputs = [_cleaned(o, count) for o in cell.outputs if o.get("name") != "stderr" and not _is_progress(o)]
    for cell in executed.cells:
        cell.metadata.pop("papermill", None)
    nbformat.validate(executed)
    files.write(notebook, nbformat.writes(executed) + "\n")


def _cleaned(output, count: int):
    if "execution_count" in output:
        output.execution_count = count
    output.get("metadata", {}).clear()
    if png := output.get("data", {}).get("image/png"):
        output.data["image/png"] = base64.b64encode(fewer_colors(base64.b64decode(png))).decode()
    return output


def fewer_colors(png: bytes) -> bytes:
    """Keep 256 colours of a PNG, a quarter of the size: with fewer, the pale bands of two lines take on one colour."""
    small, picture = io.BytesIO(), Image.open(io.BytesIO(png)).convert("RGB")
    picture.quantize(256, method=Image.Quantize.MAXCOVERAGE).save(small, "png", optimize=True)
    return small.getvalue()


def _is_progress(output) -> bool:
    text = output.get("data", {}).get("text/plain", "")
    return "application/vnd.jupyter.widget-view+json" in output.get("data", {}) and bool(
        re.search(r"\d+%\||it/s|\?it", text)
    )
