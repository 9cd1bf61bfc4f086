"""What runs measured: the raw outputs of every cell, the gates with their numbers, and where they came from.

A run's folder holds evidence.npz: the arrays, each (training runs, images, ...), and the list of the cells that they
belong to, each under a digest of its content. Whole numbers up to 127 are stored as int8, all others as float32 whose
last byte is zero: a relative error below 2^-16, and every interval is computed from what was stored. evidence.json is
the list once more, for people and other programs.
"""

import hashlib
import io
import json
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch

from vaenb import files, spent
from vaenb.checks import NotDefined, check_choice, check_whole
from vaenb.claims import book
from vaenb.claims.gates import Gate
from vaenb.claims.statistics import STATISTICS, evaluate
from vaenb.stats import numbers

PROFILES = ("quick", "paper")
ROLES = ("primary", "probe")
UNFINISHED = "unfinished-run"  # the folder, in a run's own, in which its results grow until all are there
_FORMAT = 2
_LIST = "list-"  # what the list of cells is stored under, and its digest
_ABOUT = ("notebook", "profile", "data", "seeds", "settings", "started")
_OF_SHARES = ("mean", "difference", "strongest difference")  # statistics of which each value is itself a share


@dataclass(frozen=True)
class Record:
    """One cell of one claim as a run measured it; `arrays` maps names to (S, N, ...) arrays, S runs and N images.

    `radii` and `levels` go along the last axes.
    """

    claim: str
    cell: str
    role: str
    data: str
    measure: str
    statistic: str
    arrays: dict[str, np.ndarray] = field(repr=False)
    levels: tuple[float, ...] = ()
    radii: tuple[float, ...] = ()


@dataclass
class Run:
    """The results folder of one notebook run, what made it (also in its run.json), and what it has recorded."""

    folder: Path
    notebook: str
    profile: str
    data: str
    seeds: tuple[int, ...]
    settings: str
    started: str
    records: list[Record] = field(default_factory=list, repr=False)
    gates: list[Gate] = field(default_factory=list, repr=False)

    def record(
        self,
        claim_id: str,
        cell: str,
        arrays: Mapping[str, np.ndarray | torch.Tensor],
        *,
        role: str = "primary",
        data: str | None = None,
        measure: str | None = None,
        statistic: str | None = None,
        levels: Iterable[float] = (),
        radii: Iterable[float] = (),
    ) -> Record:
        """Store the arrays of one cell of a claim, each (training runs, images, ...); a second call replaces the first.

        A primary cell is one of cells.csv, which says its measure, statistic, levels and radii; only a probe has its
        own. `data` is the run's where it is not given. Raises ValueError for an unknown claim or cell, a probe under a
        primary cell's name, missing arrays, shapes that don't fit the run or the statistic, or numbers that are not
        finite; OSError where the folder can't be written. Warns where the statistic is not defined on these arrays
        (an SSIM that never falls so far): they are stored, and the claim is not testable.
        """
        claim = book.find(claim_id)
        check_choice("role", role, ROLES)
        data = str(data or self.data)
        levels, radii = tuple(map(float, levels)), tuple(map(float, radii))
        if role == "primary":
            frozen = claim.cell(cell)
            own = {"measure": measure, "statistic": statistic, "levels": levels, "radii": radii}
            for name, value in own.items():
                if value and value != getattr(frozen, name):
                    raise ValueError(
                        f"{name} of cell {cell!r} is frozen in cells.csv at {getattr(frozen, name)!r}, got {value!r}; "
                        "leave it out, or record a probe"
                    )
            measure, statistic = frozen.measure, frozen.statistic
            levels, radii = frozen.levels, frozen.radii
            kept = self._primary(frozen, arrays, data)
        else:
            if any(cell == primary.name for primary in claim.cells):
                raise ValueError(f"cell {cell!r} of {claim_id} is primary (cells.csv); give the probe another name")
            check_choice("statistic", statistic, STATISTICS)
            kept = _compacted(arrays)
            _check_shapes(cell, kept, len(self.seeds))
        new = Record(
            claim=claim_id,
            cell=cell,
            role=role,
            data=data,
            measure=measure or "",
            statistic=str(statistic),
            arrays=kept,
            levels=levels,
            radii=radii,
        )
        try:
            evaluate(new.statistic, new.arrays, levels=new.levels, radii=new.radii)  # refused now, not in the ledger
        except NotDefined as reason:
            warnings.warn(f"cell {cell!r} of {claim_id} is stored, but says nothing: {reason}", stacklevel=2)
        same = (claim_id, cell, data)
        others = [old for old in self.records if (old.claim, old.cell, old.data) != same]
        self._write([*others, new], self.gates)
        return new

    def gate(self, gate: Gate) -> Gate:
        """Store a gate beside the evidence; a second of the same kind, name, claims and cells replaces the first."""
        for claim_id in gate.claims:
            book.find(claim_id)
        same = (gate.kind, gate.name, gate.claims, gate.cells)
        others = [old for old in self.gates if (old.kind, old.name, old.claims, old.cells) != same]
        self._write(self.records, [*others, gate])
        return gate

    def _primary(self, cell: book.Cell, arrays: Mapping, data: str) -> dict[str, np.ndarray]:
        where = f"cell {cell.name!r} of {cell.claim}"
        if data not in cell.parts:
            raise ValueError(f"data of {where} must be {' or '.join(cell.parts)}, got {data!r}")
        if set(arrays) != set(cell.arrays):
            raise ValueError(f"arrays of {where} must be named {', '.join(cell.arrays)}, got {', '.join(arrays)}")
        kept = _compacted({name: arrays[name] for name in cell.arrays})
        runs = len(self.seeds) if cell.runs else 1
        _check_shapes(cell.name, kept, runs)
        images = next(iter(kept.values())).shape[1]
        if self.profile == "paper" and cell.images not in (0, images):
            first = f"the first of claims.images()[{data!r}]"
            raise ValueError(f"{where} is frozen at {cell.images} images ({first}), got {images}")
        for name, array in kept.items():
            _check_axes(cell, name, array)
            if cell.measure == "share" and cell.statistic in _OF_SHARES and not (0 <= array.min() <= array.max() <= 1):
                raise ValueError(f"{name} of {where} must lie in [0, 1], got {array.min():g} to {array.max():g}")
        return kept

    def _write(self, records: list[Record], gates: list[Gate]) -> None:
        arrays, listed = {}, []
        for record in records:
            keys = {}
            for name, array in record.arrays.items():
                keys[name] = _digest(array)
                arrays[keys[name]] = array
            row = {key: value for key, value in vars(record).items() if key != "arrays"}
            listed.append(row | {"arrays": keys})
        about = {key: getattr(self, key) for key in _ABOUT}
        listing = {"format": _FORMAT, **about, "records": listed, "gates": list(map(asdict, gates))}
        text = json.dumps(files.plainly(listing), indent=1)
        letters = np.frombuffer(text.encode(), dtype=np.uint8)
        held = io.BytesIO()
        np.savez_compressed(held, allow_pickle=False, **arrays, **{f"{_LIST}{_digest(letters)}": letters})
        files.write(self.folder / "evidence.npz", held.getvalue())  # all of it at once
        self.records, self.gates = records, gates
        files.write(self.folder / "evidence.json", text + "\n")


def parameters(namespace: dict) -> dict:
    """Pick from a notebook's `globals()` what its parameters cell has defined: the plain values, without `folder`.

    To be called before anything else plain (a bool, int, float, str or list) is defined. Names that begin with an
    underscore, and IPython's own, are left out; `folder` says where results go, and is no setting of a run.
    """
    found = {}
    for name, value in namespace.items():
        if isinstance(value, (bool, int, float, str, list)) and not name.startswith("_"):
            found[name] = value
    for name in ("In", "folder"):
        found.pop(name, None)
    return found


def start_run(
    notebook: str, parameters: dict, *, data: dict[str, str], seeds: Iterable[int], folder: Path | str | None = None
) -> Run:
    """Open a results folder and write run.json: what is about to run, on what, with which versions.

    parameters: the notebook's, by name (see `parameters`), among them `profile` (else "quick") and `device` (else
    "cpu"); data: the digest of each set by name, the one that is trained on first; folder: by default
    `<runs>/<notebook>-<hash of parameters, seeds and data>`. An earlier run's evidence there is cleared. Raises
    ValueError, and OSError naming the folder.
    """
    book.load()  # now, and not at the first record, hours later: the package may be changed under a long run
    profile = parameters.get("profile", "quick")
    check_choice("profile", profile, PROFILES)
    if not notebook or Path(notebook).name != notebook:
        raise ValueError(f"notebook must be a plain name such as '03_defences', got {notebook!r}")
    seeds = tuple(files.plainly(list(seeds)))
    if not seeds:
        raise ValueError("seeds must hold at least one seed, got none")
    for seed in seeds:
        check_whole("seeds", seed, least=0)
    made_by = json.dumps([parameters, seeds, data], sort_keys=True, default=files.plain)
    key = hashlib.sha256(made_by.encode()).hexdigest()[:8]
    folder = files.expanded(folder or files.runs_folder() / f"{notebook}-{key}").absolute()
    started = datetime.now(UTC).isoformat(timespec="microseconds")
    about = {"notebook": notebook, "profile": profile, "seeds": seeds, "data": data, "settings": parameters}
    where = {"device": parameters.get("device", "cpu"), "threads": torch.get_num_threads()}
    where["versions"] = files.versions("torch", "torchvision", "torchmetrics", "vaenb")
    run = Run(folder, notebook, profile, next(iter(data), ""), seeds, key, started)
    run._write([], [])  # first, so that an earlier run's evidence never stands by new settings
    files.write_json(folder / "run.json", {**about, **where, "started": started})
    spent.keep_in(folder)
    return run


def read(folder: Path) -> Run:
    """Read a run's evidence back. Raises OSError, or ValueError naming a damaged file."""
    path = folder / "evidence.npz"
    whole = io.BytesIO(path.read_bytes())
    try:
        with np.load(whole, allow_pickle=False) as held:
            arrays = {key: held[key] for key in held.files}
        for key, array in arrays.items():
            if _digest(array) != key.removeprefix(_LIST):
                raise ValueError("an array was altered")
        (listed,) = [array for key, array in arrays.items() if key.startswith(_LIST)]
        return _run(folder, json.loads(listed.tobytes()), arrays)
    except Exception as error:  # zipfile, zlib and numpy raise some ten kinds between them
        raise ValueError(f"{path} is damaged ({type(error).__name__}: {error})") from error


def _run(folder: Path, listing: dict, arrays: dict[str, np.ndarray]) -> Run:
    if listing["format"] != _FORMAT:
        raise ValueError("another format")
    about = {key: listing[key] for key in _ABOUT}
    about["seeds"] = tuple(about["seeds"])
    run = Run(folder, **about)
    for row in listing["records"]:
        book.find(row["claim"])
        row.pop("settings", None)  # older evidence has some, all empty
        row["arrays"] = {name: arrays[key] for name, key in row["arrays"].items()}
        for name in ("levels", "radii"):
            row[name] = tuple(row[name])
        run.records.append(Record(**row))
    for gate in listing["gates"]:
        for name in ("claims", "cells"):
            gate[name] = tuple(gate[name])
        run.gates.append(Gate(**gate))
    return run


def found(folders: Iterable[Path | str] | None = None) -> list[Run]:
    """Read every run's evidence below `folders` (default: the runs and `figures/`), the oldest first.

    What an unfinished run left does not count; a damaged file is named in a warning and skipped.
    """
    roots = [files.runs_folder(), files.project_folder() / "figures"] if folders is None else list(map(Path, folders))
    if folders is not None and (absent := [str(f) for f in roots if not f.is_dir()]):
        raise ValueError(f"folders must be existing folders, got {', '.join(absent)}")
    runs = []
    for root in roots:
        for path in sorted(root.rglob("evidence.npz")):
            if UNFINISHED in path.relative_to(root).parts:
                continue
            try:
                runs.append(read(path.parent))
            except (OSError, ValueError) as error:
                warnings.warn(f"{error}; it is skipped", stacklevel=2)
    return sorted(runs, key=lambda run: run.started)


def digest(runs: Iterable[Run]) -> str:
    """Name a ledger by twelve hex digits, hashed from what it hangs on: the frozen lists and the evidence of `runs`.

    A run that recorded nothing, such as notebook 00's, leaves the name as it is.
    """
    parts = sorted(files.digest(run.folder / "evidence.npz") for run in runs if run.records or run.gates)
    return hashlib.sha256("".join([book.frozen(), *parts]).encode()).hexdigest()[:12]


def _compacted(arrays: Mapping) -> dict[str, np.ndarray]:
    if not arrays:
        raise ValueError("arrays must hold the raw (training runs, images) outputs of the cell, got none")
    return {name: compact(array, name) for name, array in arrays.items()}


def compact(array: np.ndarray | torch.Tensor, name: str = "array") -> np.ndarray:
    """Round an array to what evidence.npz holds. Raises ValueError where it is not finite."""
    values = numbers(name, array)
    if (values == np.round(values)).all() and (np.abs(values) <= 127).all():
        return values.astype(np.int8)
    with np.errstate(over="ignore"):
        bits = values.astype(np.float32).view(np.uint32)
    rounded = ((bits + 0x80) & 0xFFFFFF00).astype(np.uint32).view(np.float32)  # to the nearest
    numbers(name, rounded)  # 1e39 has become infinite
    return rounded


def _check_shapes(cell: str, arrays: dict[str, np.ndarray], runs: int) -> None:
    for name, array in arrays.items():
        if array.ndim < 2 or len(array) != runs:
            raise ValueError(
                f"arrays[{name!r}] of cell {cell!r} must be (training runs, images, ...) with {runs} runs, one for "
                f"each seed, got shape {array.shape}"
            )
    if len({array.shape[1] for array in arrays.values()}) > 1:
        shapes = {name: array.shape for name, array in arrays.items()}
        raise ValueError(f"arrays of cell {cell!r} must hold the same images along axis 1, got {shapes}")


def _check_axes(cell: book.Cell, name: str, array: np.ndarray) -> None:
    """A curve has a place for each of the cell's radii and levels behind its images."""
    for axis in ("radii", "levels"):
        wanted = len(getattr(cell, axis))
        if array.ndim > 2 and wanted > 1 and wanted not in array.shape[2:]:
            raise ValueError(
                f"arrays[{name!r}] of cell {cell.name!r} must have {wanted} {axis} along an axis, as cells.csv lists "
                f"them, got shape {array.shape}"
            )


def _digest(array: np.ndarray) -> str:
    head = f"{array.dtype}{array.shape}".encode()
    return hashlib.sha256(head + array.tobytes()).hexdigest()[:16]
