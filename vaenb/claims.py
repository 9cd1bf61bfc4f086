"""The documents' claims, the evidence a notebook records for them, and the verdicts computed from both.

`claims.csv` holds each claim as a statistic, a kind and a bound b. With the statistic's interval [low, high]:

    kind          reproduced               contradicted
    greater       low > b                  high < b
    less          high < b                 low > b
    not_less      low >= b                 high < b
    not_greater   high <= b                low > b
    equivalent    -b < low and high < b    low >= b or high <= -b

Anything else is inconclusive, and so is a cell whose trainings (seeds) disagree, or of which no number of each is known
(unless nothing was trained, as its data "analytic" say). A run of fewer than three trainings,
and one of the quick profile, shows its numbers and decides nothing. A claim over several cells (models, data sets,
radii) holds where it holds in all; it is incomplete where it holds in all that was measured, and a data set of the
claim is missing.
"""

import csv
import difflib
import hashlib
import json
import math
import operator
import platform
import warnings
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from functools import cache
from importlib import metadata, resources
from itertools import chain
from pathlib import Path

import torch

from vaenb import files
from vaenb.checks import check_choice, check_whole
from vaenb.stats import Estimate

PROFILES = ("quick", "paper")
NOT_MEASURED, INCOMPLETE = "not measured", "incomplete"
NO_VERDICT, FEW_TRAININGS = "no verdict (quick)", "no verdict (fewer than 3 trainings)"
UNFINISHED = "unfinished-run"  # the folder, in a run's own, in which its results grow until all are there
LEGEND = (
    "*Document / here*: the document's number (–: it prints none) and ours with its interval over images, in the "
    "weakest of the claim's cells, of which so many hold, fail (are contradicted) and are open. A cell is open, too, "
    "where one training alone lies on the other side of the bound. *Incomplete*: what was measured holds, and a data "
    "set of the claim (*no …*) is missing. *Stand-in*: another set, shown in its place and never counted."
)
# the first that is found among a claim's cells is the claim's
_ORDER = (NO_VERDICT, FEW_TRAININGS, "contradicted", "inconclusive", "reproduced")


@dataclass(frozen=True)
class Claim:
    """A statement of a document as a statistic against a bound; `data` names every set it must hold on.

    `published` is what the document's own tables and figures give for the statistic; empty where it gives no number.
    """

    id: str
    statement: str
    statistic: str
    kind: str
    bound: float
    data: tuple[str, ...]
    published: str = ""

    @property
    def bounded(self) -> str:
        """What is claimed of the statistic, in words, such as "greater than 0.1"."""
        if self.kind == "equivalent":
            return f"0 within ±{self.bound:g}"
        return f"{self.kind.replace('_', ' ')} than {self.bound:g}"

    @property
    def document(self) -> str:
        """The document's short name: "000", "002a", or "joint" for a claim that joins two of them."""
        return self.id.split(".")[0]


_NUMBERS = tuple(f.name for f in fields(Estimate))


@cache
def load() -> dict[str, Claim]:
    """Read the claims by id, in the documents' order."""
    text = (resources.files("vaenb") / "claims.csv").read_text(encoding="utf-8")
    claims = {}
    for row in csv.DictReader(text.splitlines()):
        bound, data = float(row.pop("bound")), _names(row.pop("data"))
        claims[row["id"]] = Claim(**row, bound=bound, data=data)
    return claims


def verdict(claim: Claim, estimate: Estimate) -> str:
    """Hold an interval against the claim's bound: "reproduced", "contradicted" or "inconclusive"."""
    worse, better = _margins(claim, estimate)
    if worse > 0 or (worse == 0 and claim.kind in ("not_less", "not_greater")):
        return "reproduced"
    if better < 0 or (better == 0 and claim.kind == "equivalent"):
        return "contradicted"
    return "inconclusive"


@dataclass(frozen=True)
class Evidence:
    """What one run measured for one claim on one data set (or several, "mnist; celeba", for a claim across sets)."""

    claim: str
    data: str
    profile: str
    notebook: str
    seeds: tuple[int, ...]
    settings: str
    started: str
    cells: dict[str, Estimate]
    per_seed: dict[str, list[float]] = field(default_factory=dict)

    def __post_init__(self):
        _claim(self.claim)
        check_choice("profile", self.profile, PROFILES)
        if not _names(self.data):
            raise ValueError("data must name the data set that was measured, got an empty name")
        if not self.cells or not all(isinstance(e, Estimate) for e in self.cells.values()):
            raise ValueError(f"cells must map at least one name to an Estimate, got {self.cells!r}")
        for name, numbers in self.per_seed.items():
            if name not in self.cells or len(numbers) != len(self.seeds) or not all(map(math.isfinite, numbers)):
                raise ValueError(
                    f"per_seed must map names of cells {list(self.cells)} to one finite number for each "
                    f"of the seeds {self.seeds}, got {name!r}: {numbers}"
                )

    @property
    def counts(self) -> bool:
        """Whether the claim names these data; a stand-in (digits for mnist) is shown but decides nothing."""
        return set(_names(self.data)) <= set(_claim(self.claim).data)

    @property
    def verdict(self) -> str:
        """The verdict over these cells alone."""
        return _overall(row["verdict"] for row in self.rows())

    def rows(self) -> list[dict]:
        """Give one flat dict a cell, as the ledger keeps them."""
        run = {"data": self.data, "counts": self.counts, "profile": self.profile, "notebook": self.notebook}
        run |= {"seeds": self.seeds, "settings": self.settings, "started": self.started}
        cells = self.cells.items()
        return [{"cell": name, **asdict(e), "verdict": self._cell_verdict(name), **run} for name, e in cells]

    def _cell_verdict(self, name: str) -> str:
        """Hold the interval over images against the bound, and every training's own effect, too: all must agree."""
        if self.profile == "quick":
            return NO_VERDICT
        if len(set(self.seeds)) < 3:
            return FEW_TRAININGS
        claim = _claim(self.claim)
        pooled = verdict(claim, self.cells[name])
        if name not in self.per_seed:
            return pooled if self.data == "analytic" else "inconclusive"
        single = {verdict(claim, Estimate(v, v, v)) for v in self.per_seed[name]}
        return pooled if single <= {pooled} else "inconclusive"

    def to_json(self) -> dict:
        """Give the dict that claims.json holds; its verdicts are for readers, and computed again on reading."""
        cells = {row["cell"]: {k: row[k] for k in (*_NUMBERS, "verdict")} for row in self.rows()}
        return asdict(self) | {"cells": cells, "verdict": self.verdict}

    @classmethod
    def from_json(cls, item: dict) -> "Evidence":
        """Read back what `to_json` gave. Raises KeyError, TypeError, ValueError or AttributeError on anything else."""
        text = {k: str(item[k]) for k in ("claim", "data", "profile", "notebook", "settings", "started")}
        cells = {name: _estimate(cell) for name, cell in item["cells"].items()}
        seeds = tuple(map(operator.index, item["seeds"]))
        return cls(**text, seeds=seeds, cells=cells, per_seed=dict(item["per_seed"]))


@dataclass
class Run:
    """The results folder of one notebook run, with what made it (also in its run.json)."""

    folder: Path
    notebook: str
    profile: str
    seeds: tuple[int, ...]
    settings: str
    started: str
    evidence: dict[tuple[str, str], Evidence] = field(default_factory=dict, repr=False)

    def record(self, claim_id: str, cells: dict[str, Estimate], *, data: str, per_seed: dict | None = None) -> Evidence:
        """Store a claim's estimates in the folder's claims.json; a second call for the same data adds its cells.

        cells: one estimate per model, radius, ...; data: as the claim names it; per_seed: a cell's effect at each seed
        of the run, without which it decides nothing. Raises ValueError for an unknown claim, OSError (naming the
        folder) where it can't be written.
        """
        new = Evidence(
            claim=claim_id,
            data="; ".join(_names(data)),
            profile=self.profile,
            notebook=self.notebook,
            seeds=self.seeds,
            settings=self.settings,
            started=self.started,
            cells=dict(cells),
            per_seed={name: list(map(float, numbers)) for name, numbers in (per_seed or {}).items()},
        )
        key = new.claim, new.data
        if old := self.evidence.get(key):
            spread = {name: numbers for name, numbers in old.per_seed.items() if name not in new.cells}
            new = replace(new, cells=old.cells | new.cells, per_seed=spread | new.per_seed)
        evidence = self.evidence | {key: new}
        files.write_json(self.folder / "claims.json", [e.to_json() for e in evidence.values()])
        self.evidence = evidence
        return new


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
    "cpu"); data: the digest of each set by name; folder: by default `<runs>/<notebook>-<hash of parameters, seeds and
    data>`. An earlier run's claims there are cleared. Raises ValueError, and OSError naming the folder.
    """
    load()  # now, and not at the first record, hours later: the package may be changed under a long run
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
    where = {"device": parameters.get("device", "cpu"), "threads": torch.get_num_threads(), "versions": _versions()}
    files.write_json(folder / "claims.json", [])  # first, so that an earlier run's claims never stand by new settings
    files.write_json(folder / "run.json", {**about, **where, "started": started})
    return Run(folder, notebook, profile, seeds, key, started)


def ledger(folders: Iterable[Path | str] | None = None) -> list[dict]:
    """Give one row for every claim, from every claims.json below `folders` (default: the runs and `figures/`).

    A row: claim, document, statement, verdict, data (measured), missing, cells (all, stand-ins too), shown (the cells
    the verdict rests on), notebook, profile, seeds. Paper evidence wins over quick, and three trainings or more over
    fewer. Of runs with the same notebook, data, settings and seeds the newest counts, and runs with different ones all
    do: nothing found is dropped in silence (delete a run's folder to take its word back). Runs of one seed each do not
    add up to one of three, whose trainings are held against each other: give `num_seeds`. What an unfinished run left
    does not count, and a damaged file is named in a warning and skipped.
    """
    roots = [files.runs_folder(), files.project_folder() / "figures"] if folders is None else [Path(f) for f in folders]
    if folders is not None and (absent := [str(f) for f in roots if not f.is_dir()]):
        raise ValueError(f"folders must be existing folders, got {', '.join(absent)}")
    found = []
    for root in roots:
        for path in sorted(root.rglob("claims.json")):
            if UNFINISHED not in path.relative_to(root).parts:
                found += read(path)
    cells: dict[str, dict[tuple, list[dict]]] = {name: {} for name in load()}
    for evidence in sorted(found, key=lambda e: e.started):  # so that a newer run replaces an older one
        same = (evidence.notebook, evidence.data, evidence.settings, evidence.seeds)
        cells[evidence.claim][same] = evidence.rows()
    return [_row(claim, list(chain(*cells[name].values()))) for name, claim in load().items()]


def table(rows: list[dict], *, statements: bool = False) -> str:
    """Lay ledger rows out as Markdown: what a document found, and what came out here.

    Of several cells it shows the weakest, the one the verdict hangs on, and how many hold, fail (are contradicted) and
    are open; the document's number is "–" where it has none.
    With `statements`, which are too long for a terminal, each claim stands in words, with its statistic and bound, and
    columns are not padded.
    """
    heads = [
        "what it says" if statements else "claim",
        "verdict",
        "document / here [95 %]",
        "data",
        "seeds",
        "notebook",
    ]
    if statements:
        heads.insert(3, "measured as")
    lines = [heads]
    for row in rows:
        claim = _claim(row["claim"])
        name = f"{claim.statement} (`{claim.id}`)" if statements else claim.id
        both = f"{claim.published or '–'} / {_effect(row) or '–'}"
        line = [name, row["verdict"], both, _data(row), ", ".join(map(str, row["seeds"])), row["notebook"]]
        if statements:
            line.insert(3, f"{claim.statistic}: {claim.bounded}")
        lines.append(list(map(_escaped, line)))
    widths = [0 if statements else max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * max(width, 3) for width in widths])
    return "\n".join(_line(map(str.ljust, line, widths)) for line in lines)


def summary(rows: list[dict]) -> str:
    """Count the verdicts of each document's claims, as a Markdown table with a line for all."""
    found = Counter(row["verdict"] for row in rows)
    order = ("reproduced", "contradicted", "inconclusive", INCOMPLETE, NO_VERDICT, FEW_TRAININGS, NOT_MEASURED)
    verdicts = [verdict for verdict in order if found[verdict]]
    documents = dict.fromkeys(row["document"] for row in rows)  # each once, in order
    lines = [_line(["document", "claims", *verdicts]), "|---|" + "---:|" * (1 + len(verdicts))]
    for document in (*documents, "all"):
        counts = Counter(row["verdict"] for row in rows if document in ("all", row["document"]))
        lines.append(_line([document, str(counts.total()), *(str(counts[verdict] or "") for verdict in verdicts)]))
    return "\n".join(lines)


def _line(texts: Iterable[str]) -> str:
    return "| " + " | ".join(texts) + " |"


def _escaped(text: str) -> str:
    """A text that stays in its cell of a Markdown table."""
    return " ".join(text.splitlines()).replace("|", "\\|")


def _row(claim: Claim, cells: list[dict]) -> dict:
    trained = [cell for cell in cells if cell["counts"] and cell["profile"] == "paper"]
    paper = [cell for cell in trained if cell["verdict"] != FEW_TRAININGS] or trained
    quick = [cell for cell in cells if cell["profile"] == "quick"]
    shown = paper or [cell for cell in quick if cell["counts"]] or quick or cells
    measured = {name for cell in shown if cell["counts"] for name in _names(cell["data"])}
    missing = [name for name in claim.data if name not in measured]
    result = _overall(cell["verdict"] for cell in paper or quick)
    return {
        "claim": claim.id,
        "document": claim.document,
        "statement": claim.statement,
        "verdict": INCOMPLETE if result == "reproduced" and missing else result,
        "data": [name for name in claim.data if name in measured],
        "missing": missing,
        "cells": cells,
        "shown": sorted(shown, key=lambda cell: (_ORDER.index(cell["verdict"]), _margins(claim, _estimate(cell))[0])),
        "notebook": ", ".join(sorted({cell["notebook"] for cell in shown})),
        "profile": shown[0]["profile"] if shown else "",
        "seeds": sorted(set().union(*(cell["seeds"] for cell in shown))),
    }


def margin(claim_id: str, cell: dict) -> Estimate:
    """How far a ledger cell lies on the claimed side of the bound, with its interval: below 0 it contradicts."""
    worse, better = _margins(_claim(claim_id), _estimate(cell))
    point = Estimate(cell["effect"], cell["effect"], cell["effect"])
    return Estimate(_margins(_claim(claim_id), point)[0], worse, better)


def _overall(verdicts: Iterable[str]) -> str:
    return min(verdicts, key=_ORDER.index, default=NOT_MEASURED)


def _margins(claim: Claim, estimate: Estimate) -> tuple[float, float]:
    """Give how far the interval's worse end, and its better end, lie on the right side of the bound."""
    low, high, b = estimate.low, estimate.high, claim.bound
    if claim.kind == "equivalent":
        return min(b + low, b - high), min(b + high, b - low)
    return (low - b, high - b) if claim.kind in ("greater", "not_less") else (b - high, b - low)


def _estimate(cell: dict) -> Estimate:
    return Estimate(effect=cell["effect"], low=cell["low"], high=cell["high"], n=cell["n"])


def _effect(row: dict) -> str:
    """Give the number of the weakest cell and its interval, and how many cells hold, fail and are open."""
    if not row["shown"]:
        return ""
    cell = row["shown"][0]
    number = f"{cell['effect']:.3g} [{cell['low']:.3g}, {cell['high']:.3g}]"
    if len(row["shown"]) == 1:
        return number
    weakest = cell["cell"]
    if len({other["data"] for other in row["shown"]}) > 1:
        weakest += f" on {cell['data']}"
    counts = Counter(other["verdict"] for other in row["shown"] if other["counts"])
    words = {"reproduced": "hold", "contradicted": "fail", "inconclusive": "open"}
    told = ", ".join(f"{counts[verdict]} {word}" for verdict, word in words.items() if counts[verdict])
    return f"{number} (weakest of {len(row['shown'])}: {weakest}{'; ' if told else ''}{told})"


def _data(row: dict) -> str:
    if not row["cells"]:
        return ""
    standins = {f"{cell['data']} (stand-in)" for cell in row["cells"] if not cell["counts"]}
    absent = [f"no {name}" for name in row["missing"]]
    return "; ".join([*row["data"], *sorted(standins), *absent])


def _names(data: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in data.split(";") if name.strip())


def _claim(claim_id: str) -> Claim:
    if claim_id not in load():
        close = difflib.get_close_matches(str(claim_id), load(), cutoff=0.5) or load()
        raise ValueError(f"claim {claim_id!r} is not in claims.csv; close to it: {', '.join(close)}")
    return load()[claim_id]


def read(path: Path) -> list[Evidence]:
    """Read one claims.json; a damaged file is named in a warning, and gives nothing."""
    try:
        return read_strictly(path)
    except (OSError, ValueError) as error:
        warnings.warn(f"{error}; it is skipped", stacklevel=2)
        return []


def read_strictly(path: Path) -> list[Evidence]:
    """Read one claims.json. Raises OSError, or ValueError naming a damaged file."""
    items = files.read_json(path, list)
    try:
        return [Evidence.from_json(item) for item in items]
    except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is damaged ({type(error).__name__}: {error})") from error


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for name in ("torch", "torchvision", "torchmetrics", "vaenb"):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return versions
