"""Running one notebook: a folder named by its settings, with the executed notebook, figures and claims."""

import hashlib
import json
import os
import re
import shutil
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import nbformat
import papermill
import psutil
from filelock import FileLock
from jupyter_client.kernelspec import NoSuchKernel
from traitlets.config import Config

from vaenb import claims, files, plots

_one_run = threading.Lock()


class RunFailed(RuntimeError):
    """A cell raised, or the kernel died; the unfinished notebook is kept and named."""


class KernelDied(RunFailed):
    """The kernel did not start, or ended by itself (killed for its memory, say): the same run may succeed again."""


def run(
    notebook: Path | str,
    parameters: dict | None = None,
    *,
    folder: Path | str | None = None,
    progress: bool = True,
    again: bool = True,
) -> Path:
    """Execute `notebook` with papermill and return the folder that holds its notebook, figures and claims.

    Parameter names are checked against the notebook's parameters cell, since papermill only warns of an unknown one;
    whole numbers become floats where the notebook's annotation says so. `folder` defaults to runs/<notebook>, with
    the given settings appended. What the run took (seconds; GiB of memory at its peak, the kernel with its children)
    is added to run.json. Results grow in `unfinished-run` of the folder (which the next run empties), and take the
    place of an earlier run's when all are there; not `again` leaves a finished run as it is. Raises FileNotFoundError,
    ValueError, RunFailed with the cell's error, and FileExistsError where something is in the way.
    """
    notebook = Path(notebook)
    parameters = checked(notebook, parameters or {})
    folder = Path(folder) if folder else files.runs_folder() / folder_name(notebook, parameters)
    if notebook.parent.resolve() in (folder.resolve(), (folder / claims.UNFINISHED).resolve()):
        raise ValueError(f"folder: the notebook itself is in {notebook.parent}, which the run writes to; copy it")
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock"):  # another sweep may be at the same run: one after the other
        if again or not finished(notebook, folder, parameters):
            if not finished(notebook, folder / claims.UNFINISHED, parameters):  # else it was stopped while it moved in
                _execute(notebook, parameters, folder / claims.UNFINISHED, progress)
            _move_in(folder, notebook.name)
    return folder


def _execute(notebook: Path, parameters: dict, folder: Path, progress: bool) -> None:
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir()
    part = folder / f"{notebook.stem}.part.ipynb"
    quiet = {"progress_bar": progress, "store_widget_state": False}
    quiet["config"] = Config({"KernelManager": {"transport_encryption": "auto"}})  # else ipykernel warns of its lack
    with _environment(VAENB_RUN=str(folder.resolve()), PLOTLY_RENDERER=_renderer(), **named_folders()), _cost() as cost:
        try:
            papermill.execute_notebook(notebook, part, parameters, cwd=notebook.parent, **quiet)
        except papermill.PapermillExecutionError as error:
            raise RunFailed(
                f"cell {error.exec_count} of {notebook} failed; see {part}\n{error.ename}: {error.evalue}"
            ) from error
        except RuntimeError as error:
            raise KernelDied(f"the kernel of {notebook} died ({error}); see {part}") from error
        except NoSuchKernel as error:
            raise RunFailed(f"{notebook}: {error}; its kernelspec names a kernel that is not installed") from error
    if not (folder / "claims.json").is_file():
        files.write_json(folder / "claims.json", [])  # so that an earlier run's do not stay
    made = [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and path != part]
    about = {"parameters": parameters, **cost, "files": sorted({*made, "run.json", notebook.name})}
    _add_to_run_json(folder, about, notebook.stem)
    part.replace(folder / notebook.name)


def _move_in(folder: Path, notebook: str) -> None:
    """Move what a finished run made into its folder, the notebook last, and drop what only the run before it made.

    Stopped in the middle, it can be called again: run.json stays in both places until all is there.
    """
    part = folder / claims.UNFINISHED
    made = json.loads((part / "run.json").read_text(encoding="utf-8"))["files"]
    places = [folder / name for name in made]
    blocked = [p for place in places for p in place.parents if p.exists() and not p.is_dir()]
    if blocked := blocked + [place for place in places if place.is_dir()]:
        raise FileExistsError(f"folder: {blocked[0]} is in the way of the run's results; move it, and run again")
    with suppress(OSError, ValueError, KeyError, TypeError):  # no earlier run, or one that kept no list
        before = json.loads((folder / "run.json").read_text(encoding="utf-8"))["files"]
        for old in (folder / name for name in before if name not in made):
            if old.resolve().is_relative_to(folder.resolve()):
                old.unlink(missing_ok=True)
    (folder / notebook).unlink(missing_ok=True)  # a folder with the notebook in it is a finished run
    for name in sorted(made, key=lambda name: (name == notebook, name == "run.json")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if (part / name).exists():  # else it has moved already
            (shutil.copy if name == "run.json" else shutil.move)(part / name, folder / name)
    shutil.rmtree(part, ignore_errors=True)


def finished(notebook: Path | str, folder: Path, parameters: dict) -> bool:
    """Whether `folder` holds a whole run with these parameters of the notebook as it is now, code and all."""
    done = folder / Path(notebook).name
    try:
        same = json.loads((folder / "run.json").read_text(encoding="utf-8"))["parameters"] == parameters
        return same and done.is_file() and _code(done) == _code(Path(notebook))
    except (ValueError, OSError, AttributeError, KeyError, TypeError, nbformat.ValidationError):  # damaged: not a run
        return False


def named_folders() -> dict[str, str]:
    """The folders that the environment names, absolute, as a kernel has another current folder."""
    names = ("VAENB_DATA", "VAENB_CACHE", "VAENB_RUNS")
    return {name: str(Path(os.environ[name]).expanduser().absolute()) for name in names if os.environ.get(name)}


def checked(notebook: Path, parameters: dict) -> dict:
    """Hold parameters against the notebook's parameters cell. Raises FileNotFoundError or ValueError."""
    if not notebook.is_file():
        raise FileNotFoundError(f"notebook: {notebook} does not exist")
    try:
        known = papermill.inspect_notebook(str(notebook))
    except (ValueError, TypeError, KeyError, AttributeError, nbformat.ValidationError) as error:
        raise ValueError(f"notebook: {notebook} can't be read as one ({type(error).__name__}: {error})") from error
    for given in parameters:
        if given not in known:
            raise ValueError(f"parameter {given!r}: {notebook.name} has {', '.join(known) or 'no parameters cell'}")
    return {given: _typed(given, value, known[given]["inferred_type_name"]) for given, value in parameters.items()}


def folder_name(notebook: Path, parameters: dict) -> str:
    """Name a run's folder by its settings, as in 00_start_here_beta=4.0_betas=1.0,4.0; a long name is cut."""
    shown = {k: ",".join(map(str, v)) if isinstance(v, list) else str(v) for k, v in sorted(parameters.items())}
    plain = "_".join([notebook.stem, *(f"{k}={v}" for k, v in shown.items())])
    safe = re.sub("[^A-Za-z0-9.,+=_-]+", "-", plain)[:180]  # file systems end at 255, and files stand in it
    return safe if safe == plain else f"{safe}-{hashlib.sha256(plain.encode()).hexdigest()[:6]}"


def _typed(name: str, value, annotation: str):
    """Hold a value against the notebook's annotation; 4 is also a float."""
    kind = {"int": int, "float": float, "str": str, "bool": bool, "list": list}.get(annotation)
    if kind is float and type(value) is int:
        return float(value)
    if kind and type(value) is not kind:
        raise ValueError(f"parameter {name!r}: {annotation} expected, got {value!r}")
    return value


def _code(notebook: Path) -> list[str]:
    cells = nbformat.read(notebook, as_version=4).cells
    return [
        c.source for c in cells if c.cell_type == "code" and "injected-parameters" not in c.metadata.get("tags", ())
    ]


def _add_to_run_json(folder: Path, more: dict, notebook: str) -> None:
    """A notebook without `claims.start_run` has no run.json; it gets one of what is known."""
    known = {"notebook": notebook}
    with suppress(OSError, ValueError, TypeError):
        known |= json.loads((folder / "run.json").read_text(encoding="utf-8"))
    files.write_json(folder / "run.json", known | more)


@contextmanager
def _cost():
    """Yield a dict that holds, at the end, seconds and the largest memory (GiB) of this process's children."""
    cost: dict[str, float] = {}
    peak, done, start = [0], threading.Event(), time.monotonic()

    def watch() -> None:
        while not done.wait(0.2):
            with suppress(psutil.Error):  # children end while they are listed
                peak[0] = max(peak[0], sum(map(_memory, psutil.Process().children(recursive=True))))

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield cost
    finally:
        done.set()
        watcher.join()
        cost |= {"seconds": round(time.monotonic() - start, 1), "peak_memory_gib": round(peak[0] / 2**30, 2)}


def _memory(process: psutil.Process) -> int:
    try:
        return process.memory_info().rss
    except psutil.Error:  # it has ended meanwhile
        return 0


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
