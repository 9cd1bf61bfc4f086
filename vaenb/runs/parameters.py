"""A run's parameters: held against the notebook, and what they name: a folder for the results, and data."""

import ast
import hashlib
import os
import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import nbformat
import papermill
from nbformat import NotebookNode
from papermill.exceptions import PapermillException

from vaenb import files
from vaenb.data.folder import EMBEDDED, SPLITS, available, data_folder
from vaenb.data.public import PUBLIC
from vaenb.data.readers import image_files

_ODD = (ValueError, TypeError, LookupError, AttributeError, RecursionError)
_CHOICES = {"profile": ("quick|paper", "quick or paper"), "device": (r"cpu|cuda(:\d+)?", "cpu, cuda or cuda:1")}
_UNREADABLE = (*_ODD, nbformat.ValidationError, PapermillException)


def read_book(notebook: Path) -> NotebookNode:
    """Read a notebook. Raises OSError, and ValueError naming a damaged one."""
    try:
        return nbformat.read(notebook, as_version=4)
    except _UNREADABLE as error:
        raise ValueError(f"notebook: {notebook} can't be read as one ({type(error).__name__}: {error})") from error


def known(notebook: Path) -> dict[str, dict]:
    """Give what the parameters cell defines, by name. Raises OSError, and ValueError naming a damaged notebook."""
    if not notebook.is_file():
        raise FileNotFoundError(f"notebook: {notebook} {'is a folder' if notebook.is_dir() else 'does not exist'}")
    try:
        return papermill.inspect_notebook(literal(notebook))
    except _UNREADABLE as error:
        raise ValueError(f"notebook: {notebook} can't be read as one ({type(error).__name__}: {error})") from error


def literal(path: Path) -> str:
    """Give a path as papermill takes it, which fills in what stands between braces."""
    return str(path).replace("{", "{{").replace("}", "}}")


def checked(notebook: Path, parameters: dict) -> dict:
    """Hold parameters against the notebook's parameters cell, and make them plain: a path from here absolute.

    Raises FileNotFoundError or ValueError.
    """
    cell = known(notebook)
    if "folder" in parameters:
        raise ValueError("parameter 'folder': the run itself says where its results go; give its folder (-o)")
    typed = {}
    for name, value in parameters.items():
        if name not in cell:
            raise ValueError(f"parameter {name!r}: {notebook.name} has {', '.join(cell) or 'no parameters cell'}")
        try:
            plain = files.plainly(value)
        except (TypeError, ValueError, RecursionError) as error:
            raise ValueError(f"parameter {name!r}: a finite number, a text or a list expected ({error})") from error
        default, annotation = _default(cell[name]), cell[name]["inferred_type_name"]
        _check_known(name, plain, default)
        typed[name] = _from_here(_typed(name, plain, annotation), default)
    return typed


def _check_known(name: str, value, default) -> None:
    """Refuse a profile or a device that there is none of, before a kernel starts; a notebook may have its own."""
    pattern, expected = _CHOICES.get(name, (".*", ""))
    if re.fullmatch(pattern, str(default)) and not re.fullmatch(pattern, str(value), re.DOTALL):
        raise ValueError(f"parameter {name!r}: {expected} expected, got {value!r}")


def _typed(name: str, value, annotation: str):
    """Hold a value against the notebook's annotation; 4 is also a float."""
    kind = {"int": int, "float": float, "str": str, "bool": bool, "list": list}.get(annotation)
    if kind is float and type(value) is int:
        with suppress(OverflowError):
            return float(value)
    if kind and type(value) is not kind:
        spelled = " (true or false)" if kind is bool else ""
        raise ValueError(f"parameter {name!r}: {annotation}{spelled} expected, got {value!r}")
    return value


def _default(parameter: dict):
    with suppress(ValueError, SyntaxError, TypeError):
        return ast.literal_eval(parameter["default"])
    return None  # an expression


def _from_here(value, default):
    """Make a path that exists from the current folder absolute, as the kernel has another one; a name stays a name."""
    if isinstance(value, list):
        return [_from_here(one, default) for one in value]
    if not isinstance(value, str):
        return value
    path = files.expanded(value) if os.sep in value else Path(value)
    is_path = os.sep in value or value.endswith(".npz")
    with suppress(OSError):  # too long for a path
        if not is_path and _takes_data(default):  # which a folder may be
            is_path = path.is_dir() and value not in (*available(), *PUBLIC, "color_mnist")
        if is_path and path.exists():
            return str(path.absolute())
    return str(path) if value.startswith("~") else value


def _takes_data(default) -> bool:
    """Whether a parameter's default is a data set's name, a list of them, or empty."""
    defaults = default if isinstance(default, list) else [default]
    return all(one in ("", *EMBEDDED, *PUBLIC) for one in defaults)


def contents(
    notebook: Path, parameters: dict, sets: Iterable[str] = (), *, folder: str | None = None
) -> dict[str, str]:
    """Digest the data behind the parameters, the notebook's defaults, and further sets, by what names them.

    These are paths, as the notebook sees them, and the sets kept in the data folder (default: `VAENB_DATA`).
    """
    defaults = {name: _default(parameter) for name, parameter in known(notebook).items()}
    named = {name.removesuffix(" (test)") for name in sets}
    for value in (defaults | parameters).values():
        for one in value if isinstance(value, list) else [value]:
            if isinstance(one, str):
                named.add(one)
    found = {}
    for name in sorted(named - {""}):
        with suppress(OSError):  # too long for a path, or unreadable: the notebook will say so
            files_of = _files(name, notebook.parent, data_folder(folder))
            digests = [f"{label} {files.digest(path)}" for label, path in files_of]
            if digests:
                found[name] = hashlib.sha256("\n".join(digests).encode()).hexdigest()[:12]
    return found


def _files(name: str, here: Path, kept: Path) -> list[tuple[str, Path]]:
    """The files behind a name, labelled: of a path, itself or its images, and of a set, its splits."""
    path = here / files.expanded(name)
    if path.is_file():
        return [("", path)]
    found = []
    for split in SPLITS:
        file = kept / f"{name.removeprefix('color_')}_{split}.npz"  # color_mnist is made of mnist
        if file.is_file():
            found.append((split, file))
    if path.is_dir() and not found:
        found = [(ascii(str(file.relative_to(path))), file) for file in image_files(path)]
    return found


def folder_name(notebook: Path, parameters: dict) -> str:
    """Name a run's folder by its settings, as in 00_start_here_beta=4.0_betas=1.0,4.0; a long name is cut.

    A notebook outside the project's `notebooks/` is told from others of its name by a hash of its path.
    """
    plain, path = notebook.stem, notebook.resolve()
    if path.parent != (files.project_folder() / "notebooks").resolve():
        plain += f"-{_short(os.fsencode(path))}"
    for name, value in sorted(parameters.items()):
        shown = ",".join(map(str, value)) if isinstance(value, list) else value
        plain += f"_{name}={shown}"
    safe = re.sub("[^A-Za-z0-9.,+=_-]+", "-", plain)[:180]  # file systems end at 255, and files stand in it
    return safe if safe == plain else f"{safe}-{_short(os.fsencode(plain))}"


def _short(name: bytes) -> str:
    return hashlib.sha256(name).hexdigest()[:6]
