"""Writing files so that nothing is lost: a reader sees the old file or the whole new one."""

import csv
import hashlib
import io
import json
import os
import platform
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import TypeVar

T = TypeVar("T", bound="dict | list")


def make_folder(folder: Path) -> None:
    """Make a folder for results. Raises OSError with what to do where it can't be made or written to."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass  # it can be written to
    except OSError as error:
        why = f"folder: {folder} can't take results ({error.strerror}); give another one (-o), which is made"
        raise type(error)(why) from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a path beside `path` to write to; it takes `path`'s place when the block ends without an error.

    The folder is made. Raises OSError naming the file and its folder.
    """
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
        part.replace(path)
    except OSError as error:
        why = f"can't write {path.name} into its folder ({error.strerror or error})"
        raise OSError(error.errno, why, str(path.parent)) from error
    finally:
        with suppress(OSError):  # where the folder is none; the first error says so
            part.unlink(missing_ok=True)


def write(path: Path, content: str | bytes) -> None:
    """Write a text (UTF-8) or bytes, see `replacing`."""
    with replacing(path) as part:
        part.write_bytes(content.encode() if isinstance(content, str) else content)


def write_json(path: Path, value) -> None:
    """Write JSON, see `replacing`; numbers of numpy and torch become plain ones, paths become texts."""
    write(path, json.dumps(value, indent=1, default=plain) + "\n")


def write_csv(path: Path, rows: list[dict]) -> None:
    """Write rows as CSV, see `replacing`; a column that a row lacks is empty there."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(key for row in rows for key in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write(path, text.getvalue())


def plain(value):
    """What JSON has no word for, as what it has: json's `default`."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "tolist"):  # a numpy or torch number
        return value.tolist()
    raise TypeError(f"settings and data must be numbers, texts, lists or dicts, got {type(value).__name__} {value!r}")


def plainly(value):
    """Give a value as JSON has it: plain numbers, lists, texts. Raises TypeError; ValueError for NaN and infinity."""
    return json.loads(json.dumps(value, default=plain, allow_nan=False, ensure_ascii=False).encode())


def read_json(path: Path, kind: type[T]) -> T:
    """Read JSON of a kind, dict or list. Raises OSError, and ValueError naming a damaged file."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if not isinstance(value, kind):
        expected = "object" if kind is dict else "list"
        raise ValueError(f"{path} is damaged: a JSON {expected} expected, got {type(value).__name__}")
    return value


def digest(path: Path) -> str:
    """Hash a file's content; of a file that has not been touched since, what was found before is given."""
    status = path.stat()
    return _digest(path.absolute(), status.st_size, status.st_mtime_ns, status.st_ctime_ns)


@cache
def _digest(path: Path, *status: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def versions(*packages: str) -> dict[str, str]:
    """Name Python's version and those of packages, as they stand beside results."""
    found = {"python": platform.python_version()}
    for name in packages:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def project_folder() -> Path:
    """Give the folder that this package is installed from with its notebooks; else the current one."""
    root = Path(__file__).resolve().parents[1]
    return root if (root / "pyproject.toml").is_file() else Path.cwd()


def named_folder(variable: str) -> Path | None:
    """Give the folder that an environment variable names, absolute, and None where it is empty or not set."""
    text = os.environ.get(variable)
    return expanded(text).absolute() if text else None


def expanded(path: Path | str) -> Path:
    """Give a path with the home folder for its ~. Raises ValueError for the ~ of nobody."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise ValueError(f"{path}: {error}") from error


def runs_folder() -> Path:
    """Give the folder of all runs: VAENB_RUNS, else `runs` in the project folder."""
    return named_folder("VAENB_RUNS") or (project_folder() / "runs").absolute()


def cache_folder(name: str) -> Path:
    """Give vaenb's folder `name` in the user's cache folder."""
    return (named_folder("XDG_CACHE_HOME") or Path.home() / ".cache") / "vaenb" / name
