"""Running notebooks: one folder a run, named by its settings, with the executed notebook, figures and claims."""

import base64
import hashlib
import io
import os
import re
import threading
from contextlib import contextmanager
from pathlib import Path

import nbformat
import papermill
from PIL import Image

from vaenb import claims, plots

_one_run = threading.Lock()


class RunFailed(RuntimeError):
    """A cell raised, or the kernel died; the unfinished notebook is kept and named."""


def run(notebook: Path | str, parameters: dict | None = None, *, folder: Path | str | None = None) -> Path:
    """Execute `notebook` with papermill and return the folder that holds its notebook, figures and claims.

    Parameter names are checked against the notebook's parameters cell, since papermill only warns of an unknown one;
    whole numbers become floats where the notebook's annotation says so. `folder` defaults to runs/<notebook>, with
    the given settings appended. Raises FileNotFoundError, ValueError, or RunFailed with the cell's error.
    """
    notebook = Path(notebook)
    if not notebook.is_file():
        raise FileNotFoundError(f"notebook: {notebook} does not exist")
    parameters = _checked(notebook, parameters or {})
    folder = Path(folder) if folder else claims.runs_folder() / _name(notebook, parameters)
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f"{notebook.stem}.part.ipynb"
    (folder / notebook.name).unlink(missing_ok=True)  # a folder with the notebook in it is a finished run
    with _environment(VAENB_RUN=str(folder.resolve()), PLOTLY_RENDERER=_renderer()):
        try:
            papermill.execute_notebook(notebook, part, parameters, cwd=notebook.parent, store_widget_state=False)
        except papermill.PapermillExecutionError as error:
            raise RunFailed(
                f"cell {error.exec_count} of {notebook} failed; see {part}\n{error.ename}: {error.evalue}"
            ) from error
        except RuntimeError as error:
            raise RunFailed(f"the kernel of {notebook} died ({error}); see {part}") from error
    part.replace(folder / notebook.name)
    return folder


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
    part = notebook.with_suffix(".part")
    nbformat.write(executed, part)
    part.replace(notebook)


def _cleaned(output, count: int):
    if "execution_count" in output:
        output.execution_count = count
    output.get("metadata", {}).clear()
    if png := output.get("data", {}).get("image/png"):
        output.data["image/png"] = _fewer_colors(png)
    return output


def _fewer_colors(png: str) -> str:
    """Keep 64 colours of a base64 PNG: a third of the size, and no difference to the eye in charts and grey images."""
    small = io.BytesIO()
    Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB").quantize(64, method=Image.Quantize.MAXCOVERAGE).save(
        small, "png", optimize=True
    )
    return base64.b64encode(small.getvalue()).decode()


def _is_progress(output) -> bool:
    text = output.get("data", {}).get("text/plain", "")
    return "application/vnd.jupyter.widget-view+json" in output.get("data", {}) and bool(
        re.search(r"\d+%\||it/s|\?it", text)
    )


def _checked(notebook: Path, parameters: dict) -> dict:
    known = papermill.inspect_notebook(str(notebook))
    for name in parameters:
        if name not in known:
            raise ValueError(f"parameter {name!r}: {notebook.name} has {', '.join(known) or 'no parameters cell'}")
    return {name: _typed(name, value, known[name]["inferred_type_name"]) for name, value in parameters.items()}


def _typed(name: str, value, annotation: str):
    """Hold a value against the notebook's annotation; 4 is also a float."""
    kind = {"int": int, "float": float, "str": str, "bool": bool, "list": list}.get(annotation)
    if kind is float and type(value) is int:
        return float(value)
    if kind and type(value) is not kind:
        raise ValueError(f"parameter {name!r}: {annotation} expected, got {value!r}")
    return value


def _name(notebook: Path, parameters: dict) -> str:
    """Name a run's folder by its settings, as in 00_start_here_beta=4.0_betas=1.0,4.0."""
    shown = {k: ",".join(map(str, v)) if isinstance(v, list) else str(v) for k, v in sorted(parameters.items())}
    plain = "_".join([notebook.stem, *(f"{k}={v}" for k, v in shown.items())])
    safe = re.sub("[^A-Za-z0-9.,+=_-]+", "-", plain)
    return safe if safe == plain else f"{safe}-{hashlib.sha256(plain.encode()).hexdigest()[:6]}"


def _renderer() -> str:
    """Both interactive and a PNG where a Chrome is there to draw it."""
    if plots.chrome():
        return "plotly_mimetype+png"
    print("no Chrome found: the executed notebook holds interactive figures without static pictures beside them")
    return "plotly_mimetype"


@contextmanager
def _environment(**values: str):
    """Set environment variables for the kernel that is started meanwhile: one run at a time in a process."""
    with _one_run:
        before = {name: os.environ.get(name) for name in values}
        os.environ.update(values)
        try:
            yield
        finally:
            for name, value in before.items():
                os.environ.pop(name) if value is None else os.environ.__setitem__(name, value)
