"""The claims and their primary cells, as they were frozen before the runs that they judge.

`claims.csv` holds each claim as a statistic, a kind, a bound and a margin, and `cells.csv` the cells that decide it:
one setting of data, model, attack and measure in a row. Documents' claims and questions of our own are told apart.
"""

import csv
import difflib
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any


@dataclass(frozen=True)
class Cell:
    """One primary cell: what is measured on which data, model and attack, and by which statistic of which arrays.

    `radii` are those of the attack, along a curve's last axis where there are several. `gates` names what must hold
    first; `published` is the document's own number, None where it prints none; `runs` is 0 where nothing is trained.
    """

    claim: str
    name: str
    measure: str
    statistic: str
    arrays: tuple[str, ...]
    levels: tuple[float, ...]
    data: str
    size: int
    model: str
    attack: str
    radii: tuple[float, ...]
    images: int
    runs: int
    gates: tuple[str, ...]
    published: float | None
    note: str

    @property
    def parts(self) -> dict[str, int]:
        """The sign that each data set's statistic enters with: "a - b" is measured on a and b, and subtracted."""
        first, *rest = self.data.split(" - ")
        return {first: 1} | dict.fromkeys(rest, -1)

    @property
    def sampled(self) -> str:
        """What the arrays' second axis goes over: images, unless the note says that models stand there."""
        return "models" if "models stand where images do" in self.note else "images"


@dataclass(frozen=True)
class Claim:
    """A statement as a statistic against a bound: a document's (role "claim") or a question asked beyond them.

    `words` quotes the document, `published` is what its tables and figures give for the statistic, and effects within
    the bound ± `margin` are small.
    """

    id: str
    role: str
    words: str
    statement: str
    statistic: str
    kind: str
    bound: float
    margin: float
    primary: str
    data: str
    published: str
    note: str
    cells: tuple[Cell, ...]

    @property
    def document(self) -> str:
        """The document's short name, such as "002a", or "joint" for two of them together."""
        return self.id.removeprefix("q.").split(".")[0]

    @property
    def measures(self) -> list[str]:
        """The units of measure, each with a verdict of its own."""
        return list(dict.fromkeys(cell.measure for cell in self.cells))

    @property
    def bounded(self) -> str:
        """What is claimed of the statistic, in words, such as "greater than 0.1"."""
        if self.kind == "equivalent":
            return f"0 within ±{self.bound:g}"
        return f"{self.kind.replace('_', ' ')} than {self.bound:g}"

    def cell(self, name: str) -> Cell:
        """Find a primary cell. Raises ValueError, listing those there are."""
        for cell in self.cells:
            if cell.name == name:
                return cell
        names = "; ".join(cell.name for cell in self.cells)
        raise ValueError(
            f"cell {name!r} is no primary cell of {self.id} (they are: {names}); primary cells are frozen in "
            "cells.csv, and anything else is recorded with role='probe', which is shown and never decides"
        )


@cache
def load() -> dict[str, Claim]:
    """Read the claims by id, in the documents' order, each with its primary cells."""
    cells: dict[str, list[Cell]] = {}
    for row in _rows("cells.csv"):
        cells.setdefault(row["claim"], []).append(_cell(row))
    claims = {}
    for row in _rows("claims.csv"):
        fields: dict[str, Any] = dict(row)
        for name in ("bound", "margin"):
            fields[name] = float(row[name])
        claims[row["id"]] = Claim(**fields, cells=tuple(cells.get(row["id"], ())))
    return claims


def find(claim_id: str) -> Claim:
    """Give the claim of an id. Raises ValueError, naming the ids that are close."""
    if claim_id not in load():
        close = difflib.get_close_matches(str(claim_id), load(), cutoff=0.5)
        remedy = f"close to it: {', '.join(close)}" if close else "docs/claims.md lists them all"
        raise ValueError(f"claim {claim_id!r} is not in claims.csv; {remedy}")
    return load()[claim_id]


@cache
def images() -> dict[str, tuple[int, ...]]:
    """The test images of each data set, as their indices, in the order in which cells take the first n of them."""
    listed = {}
    for row in _rows("images.csv"):
        listed[row["data"]] = tuple(map(int, row["indices"].split()))
    return listed


def frozen() -> str:
    """Give all that was fixed before the runs: claims, cells and images, as their files have them."""
    return "".join(map(_text, ("claims.csv", "cells.csv", "images.csv")))


def _rows(name: str) -> list[dict[str, str]]:
    return list(csv.DictReader(_text(name).splitlines()))


def _text(name: str) -> str:
    return (resources.files("vaenb.claims") / name).read_text(encoding="utf-8")


def _cell(row: dict[str, str]) -> Cell:
    fields: dict[str, Any] = dict(row)
    fields["name"] = fields.pop("cell")
    fields["radii"] = _numbers(fields.pop("radius"))
    fields["levels"] = _numbers(row["levels"])
    for name in ("arrays", "gates"):
        fields[name] = _names(row[name])
    for name in ("size", "images", "runs"):
        fields[name] = int(row[name] or 0)
    fields["published"] = float(row["published"]) if row["published"] else None
    return Cell(**fields)


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(";") if name.strip())


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(map(float, _names(text)))
