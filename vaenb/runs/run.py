"""Running one notebook: a folder named by its settings, with the executed notebook, figures and evidence."""

import re
import shutil
import sys
import time
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any

import nbformat
import papermill
from filelock import FileLock, Timeout
from jupyter_client.kernelspec import NoSuchKernel
from nbformat import NotebookNode
from traitlets.config import Config

from vaenb import claims, files, spent
from vaenb.runs import KernelDied, RunFailed, kernel
from vaenb.runs.parameters import checked, contents, folder_name, known, literal, read_book


def run(
    notebook: Path | str,
    parameters: dict | None = None,
    *,
    folder: Path | str | None = None,
    environment: dict[str, str] | None = None,
    progress: bool = True,
    again: bool = True,
) -> Path:
    """Execute `notebook` with papermill and return the folder that holds its notebook, figures and evidence.

    Parameter names are checked against the notebook's parameters cell, since papermill only warns of an unknown one;
    whole numbers become floats where the notebook's annotation says so, and paths that exist from the current folder
    absolute. `folder` defaults to runs/<notebook>, with the given settings appended; a notebook with a parameter
    `folder` is told where to put its results. `environment` holds variables for the kernel alone. The seconds that the
    run took, and those behind what it read from the store, are added to run.json, with a digest of the data that its
    parameters name. Results grow in `unfinished-run` of the folder (which the next run empties), and take the place of
    an earlier run's when all are there; not `again` leaves a finished run as it is. Raises
    FileNotFoundError, ValueError, RunFailed with the cell's error, and FileExistsError where something is in the way.
    """
    notebook, environment = files.expanded(notebook), environment or {}
    parameters = checked(notebook, parameters or {})
    folder = files.expanded(folder) if folder else files.runs_folder() / folder_name(notebook, parameters)
    growing = folder / claims.UNFINISHED
    if notebook.parent.resolve() in (folder.resolve(), growing.resolve()):
        raise ValueError(f"folder: the notebook itself is in {notebook.parent}, which the run writes to; copy it")
    files.make_folder(folder)
    _refuse_anothers(folder, notebook)
    data = environment.get("VAENB_DATA")
    with alone(folder):
        if not again and finished(notebook, folder, parameters, data=data):
            return folder
        if not (finished(notebook, growing, parameters, data=data) and _made(growing)):  # else stopped moving in
            _grow(notebook, parameters, growing, environment, progress)
        _move_in(folder, notebook.name)
    return folder


def _refuse_anothers(folder: Path, notebook: Path) -> None:
    """Refuse a folder with another notebook's results, which would be deleted."""
    there = None
    with suppress(OSError, ValueError):  # there are none, or they are damaged
        there = files.read_json(folder / "run.json", dict).get("notebook")
    if there not in (None, notebook.stem):
        raise ValueError(f"folder: {folder} holds a run of {there}; give another one (-o)")


def alone(folder: Path) -> AbstractContextManager:
    """Hold a run's folder: another sweep may be at the same run, and it is one after the other."""
    lock = FileLock(folder / ".lock")
    try:
        return lock.acquire(timeout=1)
    except Timeout:
        print(f"{folder}: another run is at work here; this one waits until it ends", file=sys.stderr, flush=True)
        return lock.acquire()


def _grow(notebook: Path, parameters: dict, folder: Path, environment: dict[str, str], progress: bool) -> None:
    """Let all that a run makes, its list of files included, grow in an empty folder."""
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir()
    part = folder / f"{notebook.stem}.part.ipynb"
    data = environment.get("VAENB_DATA")
    before = contents(notebook, parameters, folder=data)
    begun = time.monotonic()
    _execute(notebook, part, parameters, kernel.manager(notebook.parent, environment), progress)
    seconds = round(time.monotonic() - begun, 1)
    _forget_folder(part, parameters)
    read_back = _read_back(folder)
    made = {"run.json", notebook.name}
    for path in folder.rglob("*"):
        if path.is_file() and path != part:
            made.add(str(path.relative_to(folder)))
    about: dict[str, Any] = {"notebook": notebook.stem}  # all that is known of one without `claims.start_run`
    with suppress(OSError, ValueError):
        about |= files.read_json(folder / "run.json", dict)
    after = contents(notebook, parameters, about.get("data", ()), folder=data)  # what was fetched is among it
    about |= {"parameters": parameters, "contents": after | before, "files": sorted(made)}
    about |= {"seconds": seconds, "seconds_read_back": read_back}
    files.write_json(folder / "run.json", about)
    part.replace(folder / notebook.name)


def _read_back(folder: Path) -> float | None:
    """The seconds behind what the kernel has read from the store, and None where it has not said."""
    told = folder / spent.FILE
    if not told.is_file():
        return None
    seconds = float(told.read_text(encoding="utf-8"))
    told.unlink()
    return seconds


def _execute(notebook: Path, part: Path, parameters: dict, manager: type, progress: bool) -> None:
    """Execute `notebook` into `part`. Raises RunFailed or KernelDied."""
    if "folder" in known(notebook):
        parameters = parameters | {"folder": str(part.parent.absolute())}
    try:
        papermill.execute_notebook(
            literal(notebook),
            literal(part),
            parameters,
            progress_bar=progress,
            store_widget_state=False,
            kernel_manager_class=manager,
            config=Config({"KernelManager": {"transport_encryption": "auto"}}),  # else ipykernel warns of its lack
        )
    except papermill.PapermillExecutionError as error:
        what = f"cell {error.exec_count} of {notebook} failed; see {part}"
        raise RunFailed(f"{what}\n{error.ename}: {error.evalue}") from error
    except RuntimeError as error:
        raise KernelDied(f"the kernel of {notebook} died ({error}); see {part}") from error
    except NoSuchKernel as error:
        raise RunFailed(f"{notebook}: {error}; its kernelspec names a kernel that is not installed") from error


def _forget_folder(part: Path, parameters: dict) -> None:
    """Take the folder out of the executed notebook's injected cell: no results stay there."""
    book = read_book(part)
    for cell in filter(_injected, book.cells):
        cell.source = re.sub("^folder = .*\n?", "", cell.source, flags=re.MULTILINE)
    book.cells = [cell for cell in book.cells if parameters or not _injected(cell)]
    files.write(part, nbformat.writes(book) + "\n")


def _move_in(folder: Path, notebook: str) -> None:
    """Move what a finished run made into its folder, the notebook last, and drop what only the run before it made.

    Stopped in the middle, it can be called again: run.json stays in both places until all is there.
    """
    part = folder / claims.UNFINISHED
    made = _made(part)
    for place in (folder / name for name in made):
        blocked = [above for above in place.parents if above.exists() and not above.is_dir()]
        if blocked or place.is_dir():
            where = blocked[0] if blocked else place
            raise FileExistsError(f"folder: {where} is in the way of the run's results; move it, and run again")
    for name in set(_made(folder)) - set(made):
        if (folder / name).resolve().is_relative_to(folder.resolve()):
            (folder / name).unlink(missing_ok=True)
    (folder / notebook).unlink(missing_ok=True)  # a folder with the notebook in it is a finished run
    for name in sorted(set(made) - {"run.json", notebook}):
        if (part / name).exists():  # else it has moved already
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.move(part / name, folder / name)
    shutil.copy(part / "run.json", folder / "run.json")
    if (part / notebook).exists():
        shutil.move(part / notebook, folder / notebook)
    shutil.rmtree(part, ignore_errors=True)


def _made(folder: Path) -> list[str]:
    """What the run in `folder` made, as its run.json lists it; nothing where there is none, or it is damaged."""
    with suppress(OSError, ValueError):
        made = files.read_json(folder / "run.json", dict).get("files")
        if isinstance(made, list) and all(isinstance(name, str) for name in made):
            return made
    return []


def finished(notebook: Path | str, folder: Path, parameters: dict, *, data: str | None = None) -> bool:
    """Whether `folder` holds a whole run with these parameters of the notebook as it is now, on the data as they are.

    `data` is the data folder, by default `VAENB_DATA`.
    """
    notebook = Path(notebook)
    done = folder / notebook.name
    try:
        about = files.read_json(folder / "run.json", dict)
        if about.get("parameters") != parameters or _code(done) != _code(notebook):
            return False
        return contents(notebook, parameters, about.get("data", ()), folder=data) == about.get("contents", {})
    except (OSError, ValueError, TypeError, AttributeError):  # damaged: not a run
        return False


def _code(notebook: Path) -> list[str]:
    return [cell.source for cell in read_book(notebook).cells if cell.cell_type == "code" and not _injected(cell)]


def _injected(cell: NotebookNode) -> bool:
    return "injected-parameters" in cell.metadata.get("tags", ())
