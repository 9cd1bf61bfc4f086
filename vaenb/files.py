"""Writing files so that nothing is lost: a reader sees the old file or the whole new one."""

import csv
import io
import json
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


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


def project_folder() -> Path:
    """Give the folder that this package is installed from with its notebooks; else the current one."""
    root = Path(__file__).resolve().parents[1]
    return root if (root / "pyproject.toml").is_file() else Path.cwd()


def runs_folder() -> Path:
    """Give the folder of all runs: VAENB_RUNS, else `runs` in the project folder."""
    return Path(os.environ.get("VAENB_RUNS") or project_folder() / "runs").expanduser().absolute()
