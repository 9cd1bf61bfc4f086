"""The gates: what must hold before a claim is judged (docs/results.md).

A model that had not converged, an attack that more steps would make stronger, or a dose that was none says nothing
about a claim: it is "not testable here", and the gate says why.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from vaenb.checkpoints import Converged
from vaenb.checks import check_choice, check_counts, check_number

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

    def __str__(self) -> str:
        told = ", ".join(f"{name} {number:.4g}" for name, number in self.numbers.items())
        return f"{self.kind} gate {'passed' if self.passed else 'FAILED'}: {self.name} ({told})"


def converged(name: str, found: Converged, *, claims: Iterable[str], cells: Iterable[str] = ()) -> Gate:
    """A recipe's gate from `checkpoints.converged`: four thirds of its passes change next to nothing."""
    return Gate("converged", name, found.passed, found.numbers, tuple(claims), tuple(cells))


def strong_attack(
    name: str,
    measure: Callable[[int, int], float],
    *,
    steps: int,
    restarts: int,
    margin: float,
    claims: Iterable[str],
    cells: Iterable[str] = (),
) -> Gate:
    """Whether doubled steps and restarts move the primary statistic by less than half its margin.

    measure(steps, restarts): attack some 20 images with this budget, and give the claim's statistic.
    """
    check_counts(steps=steps, restarts=restarts)
    check_number("margin", margin, "the claim's margin, a positive number", above=0)
    before = float(measure(steps, restarts))
    after = float(measure(2 * steps, 2 * restarts))
    numbers = {"steps": steps, "restarts": restarts, "statistic": before, "doubled": after, "allowed": margin / 2}
    return Gate("strong attack", name, abs(after - before) < margin / 2, numbers, tuple(claims), tuple(cells))


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
    return Gate("dose", name, abs(with_it - without) >= least, numbers, tuple(claims), tuple(cells))
