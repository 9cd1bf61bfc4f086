"""The gates: what must hold before a claim is judged (docs/results.md).

A model that had not converged, an attack that more steps would make stronger, or a dose that was none says nothing
about a claim: it is "not testable here", and the gate says why.
"""

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.special import stdtrit

from vaenb.checkpoints import LARGEST_GAIN
from vaenb.checks import NotDefined, check_choice, check_number
from vaenb.claims.book import Cell, Claim
from vaenb.claims.statistics import PER_RUN, evaluate
from vaenb.stats import Values

Array = np.ndarray

KINDS = ("converged", "strong attack", "dose")


@dataclass(frozen=True)
class Gate:
    """One gate as it came out: its kind, what was tried (`name`), the numbers, and the claims that hang on it.

    `cells` names the primary cells that it covers; none: all of the claims' cells on the run's data.
    """

    kind: str
    name: str
    passed: bool
    numbers: dict[str, float] = field(default_factory=dict)
    claims: tuple[str, ...] = ()
    cells: tuple[str, ...] = ()

    def __post_init__(self):
        check_choice("kind", self.kind, KINDS)
        if not isinstance(self.passed, bool):
            raise TypeError(f"passed must be True or False, got {self.passed!r}")
        if not self.claims:
            raise ValueError(f"claims must name the claims that hang on the gate {self.name!r}, got none")
        if not self.numbers:
            raise ValueError(f"numbers must hold what the gate {self.name!r} was judged by, got none")

    def covers(self, claim_id: str, cell: str) -> bool:
        """Whether this gate is of this cell of a claim."""
        return claim_id in self.claims and (not self.cells or cell in self.cells)

    @property
    def within_chance(self) -> bool:
        """Whether it passed only because runs of one length differ: the longer run moved by half the margin or more."""
        n = self.numbers
        return self.passed and "longer statistic" in n and abs(n["longer statistic"] - n["statistic"]) >= n["allowed"]

    def __str__(self) -> str:
        told = ", ".join(f"{name} {number:.4g}" for name, number in self.numbers.items())
        return f"{self.kind} gate {'passed' if self.passed else 'FAILED'}: {self.name} ({told})"

    @property
    def failure(self) -> str:
        """Why the gate failed, in words for a table."""
        n = self.numbers
        if self.kind == "strong attack" and "doubled" in n:
            allowed = max(n["allowed"], n.get("chance moves it by", 0))
            moved = f"from {n['statistic']:.4g} to {n['doubled']:.4g}, and {allowed:.2g} is allowed"
            return f"the attack is too weak: doubled, it moves the first run's number {moved}"
        if self.kind == "converged" and "longer statistic" in n:
            if not n["gain in nats a pixel"] < n["allowed gain"]:  # NaN, too
                return f"the models had not converged: more passes gain {n['gain in nats a pixel']:.2g} nats a pixel"
            moved = f"from {n['statistic']:.4g} to {n['longer statistic']:.4g}"
            return f"the models had not converged: more passes move the number {moved}"
        return str(self)


def converged(
    claim: Claim, cells: Sequence[Cell], arrays: Mapping[str, Array], longer: Mapping[str, Array], gain: float
) -> Gate | None:
    """Whether runs of four thirds of the passes give the same mean of some primary cells in one unit of measure.

    arrays: the cells', and `longer` those of longer runs. `gain` is these runs' in nats a pixel, on validation images;
    it must stay below `LARGEST_GAIN`. The mean over the cells may move by half the claim's margin, or by what runs of
    one length differ by (the 95 % t range), where that is more: a move within it says nothing of the length. None where
    a statistic is not defined on `arrays`; a gate that fails where it is not on the longer runs'.
    """
    fixed = {"gain in nats a pixel": float(gain), "allowed gain": LARGEST_GAIN, "allowed": claim.margin / 2}
    both = _before_and_after("converged", "4/3 of the passes", claim, cells, arrays, longer, fixed)
    if not isinstance(both, tuple):
        return both
    runs, others = both
    move = float(others.mean() - runs.mean())
    noise = 0.0
    if len(runs) > 1:
        error = runs.std(ddof=1) * math.sqrt(1 / len(runs) + 1 / len(others))
        noise = float(stdtrit(len(runs) - 1, 0.975) * error)
    numbers = {"statistic": float(runs.mean()), "longer statistic": float(others.mean()), "runs differ by": noise}
    passed = bool(gain < LARGEST_GAIN and abs(move) < max(claim.margin / 2, noise))
    return _gate("converged", "4/3 of the passes", claim, cells, passed, fixed | numbers)


def strong_attack(
    claim: Claim,
    cells: Sequence[Cell],
    arrays: Mapping[str, Array],
    stronger: Mapping[str, Array],
    again: Mapping[str, Array] | None = None,
) -> Gate | None:
    """Whether doubled steps and restarts move the mean of some primary cells by less than half the claim's margin.

    All are arrays of the cells, of the same images and, for the cost, of one run; of 20 images chance decides, so take
    100. Where a draw or a chain comes after the attack, `again` has the same attack and other random numbers: the mean
    may then move by the 95 % t range of what these do to it, where that is more. None, and an undefined statistic, as
    in `converged`.
    """
    fixed = {cells[0].sampled: len(arrays[cells[0].arrays[0]][0]), "allowed": claim.margin / 2}
    both = _before_and_after("strong attack", "doubled", claim, cells, arrays, stronger, fixed)
    if not isinstance(both, tuple):
        return both
    before, after = (float(runs.mean()) for runs in both)
    numbers = fixed | {"statistic": before, "doubled": after}
    allowed = claim.margin / 2
    if again is not None:
        numbers["chance moves it by"] = _by_chance(cells, arrays, again)
        allowed = max(allowed, numbers["chance moves it by"])
    return _gate("strong attack", "doubled", claim, cells, abs(after - before) < allowed, numbers)


def _by_chance(cells: Sequence[Cell], arrays: Mapping[str, Array], again: Mapping[str, Array]) -> float:
    """The 95 % t range of the difference between two measurements of the same images, by a bootstrap of images."""
    images = len(arrays[cells[0].arrays[0]][0])
    rng = np.random.default_rng(0)
    moves = []
    for _ in range(500):
        drawn = rng.integers(images, size=images)
        means = []
        for measured in (arrays, again):
            rows = {name: values[:, drawn] for name, values in measured.items()}
            means.append(_statistics(cells, rows).mean())
        moves.append(means[1] - means[0])
    return float(stdtrit(images - 1, 0.975) * np.std(moves, ddof=1))


def _before_and_after(
    kind: str,
    tried: str,
    claim: Claim,
    cells: Sequence[Cell],
    arrays: Mapping[str, Array],
    others: Mapping[str, Array],
    numbers: dict[str, float],
) -> tuple[Array, Array] | Gate | None:
    """The cells' mean statistic in each run before and after; what `converged` says of one that is not defined."""
    try:
        before = _statistics(cells, arrays)
    except NotDefined as reason:
        warnings.warn(f"no {kind} gate of {claim.id}: {reason}", stacklevel=3)
        return None
    try:
        return before, _statistics(cells, others)
    except NotDefined as reason:
        return _gate(kind, f"{tried}: {reason}", claim, cells, False, numbers)


def _statistics(cells: Sequence[Cell], arrays: Mapping[str, Array]) -> Array:
    """The mean of the cells' statistics in each run: (S,)."""
    found = []
    for cell in cells:
        own = {name: arrays[name] for name in cell.arrays}
        if cell.statistic in PER_RUN:
            runs = range(len(next(iter(own.values()))))
            each = [_evaluated(cell, {name: array[[run]] for name, array in own.items()}) for run in runs]
            found.append(np.array([values.effect for values in each], dtype=float))
        else:
            values = _evaluated(cell, own)
            found.append(np.median(values.array, 1) if values.median else values.array.mean(1))
    return np.mean(found, axis=0)


def _evaluated(cell: Cell, arrays: Mapping[str, Array]) -> Values:
    return evaluate(cell.statistic, arrays, levels=cell.levels, radii=cell.radii)


def _gate(kind: str, tried: str, claim: Claim, cells: Sequence[Cell], passed: bool, numbers: dict[str, float]) -> Gate:
    names = tuple(cell.name for cell in cells)
    return Gate(kind, f"{claim.id} in {cells[0].measure}, {tried}", passed, numbers, (claim.id,), names)


def dose(
    name: str,
    without: float,
    with_it: float,
    *,
    least: float,
    claims: Iterable[str],
    cells: Iterable[str] = (),
) -> Gate:
    """Whether what the claim varies does vary: two values of it that lie at least `least` apart."""
    check_number("least", least, "the least difference that is a dose, a positive number", above=0)
    numbers = {"without": float(without), "with": float(with_it), "least": least}
    passed = bool(abs(with_it - without) >= least)
    return Gate("dose", name, passed, numbers, tuple(claims), tuple(cells))
