"""The rule: from a claim's primary cells and their pool to one of eight words (docs/results.md).

A pooled interval decides, and single cells only whether the claim is mixed: a cell on each side of the bound, by
one-sided t tests at .025 with Holm's correction (1979) over the claim's cells.
"""

from collections.abc import Sequence

from vaenb.claims.book import Claim
from vaenb.stats import Estimate, holm

REPRODUCED, SMALL, CONTRADICTED = "reproduced", "reproduced, but small", "contradicted"
MIXED, NO_EFFECT, INCONCLUSIVE = "mixed", "no effect", "inconclusive"
NOT_MEASURED, NOT_TESTABLE, NO_VERDICT = "not measured", "not testable", "no verdict"
# of a claim in several measures the first that any of them has; it is reproduced where all are
VERDICTS = (
    NOT_MEASURED,
    NOT_TESTABLE,
    NO_VERDICT,
    MIXED,
    CONTRADICTED,
    NO_EFFECT,
    INCONCLUSIVE,
    SMALL,
    REPRODUCED,
)
ANSWERS = {
    REPRODUCED: "yes",
    SMALL: "yes, but little",
    CONTRADICTED: "no",
    NO_EFFECT: "no",
    MIXED: "mixed",
    INCONCLUSIVE: "open",
}
DECIDED = (REPRODUCED, SMALL, CONTRADICTED, MIXED, NO_EFFECT)
LEVEL = 0.025  # of a test on one side


def overall(verdicts: Sequence[str]) -> str:
    """The verdict on a claim from those in its units of measure: it holds where all do, mixed is where they part."""
    if CONTRADICTED in verdicts and {REPRODUCED, SMALL} & set(verdicts):
        return min(MIXED, *verdicts, key=VERDICTS.index)
    return min(verdicts, key=VERDICTS.index, default=NOT_MEASURED)


def judge(claim: Claim, pooled: Estimate) -> str:
    """Hold a pooled interval against the claim's bound b and margin m.

    An interval at the bound decides nothing: all comparisons are strict.
    """
    low, high, b, m = pooled.low, pooled.high, claim.bound, claim.margin
    small = b - m < low and high < b + m and claim.kind in ("greater", "less")
    above, below = low > b, high < b
    if claim.kind == "equivalent":
        above = -b < low and high < b
        below = low > b or high < -b
    elif claim.kind in ("less", "not_greater"):
        above, below = below, above
    if above:
        return SMALL if small else REPRODUCED
    if below:
        return CONTRADICTED
    return NO_EFFECT if small else INCONCLUSIVE


def sides(claim: Claim, cells: Sequence[Estimate]) -> tuple[list[bool], list[bool]]:
    """Whether each cell lies on the claimed side of the bound, and whether on the other, after Holm on each side."""
    claimed, other = [], []
    for cell in cells:
        p_claimed, p_other = _p_values(claim, cell)
        claimed.append(p_claimed)
        other.append(p_other)
    return holm(claimed, level=LEVEL), holm(other, level=LEVEL)


def _p_values(claim: Claim, cell: Estimate) -> tuple[float, float]:
    b = claim.bound
    if claim.kind == "equivalent":  # two one-sided tests (Schuirmann 1987): inside where both say so
        inside = max(cell.p_value(-b, "greater"), cell.p_value(b, "less"))
        return inside, min(cell.p_value(b, "greater"), cell.p_value(-b, "less"))
    above, below = cell.p_value(b, "greater"), cell.p_value(b, "less")
    return (below, above) if claim.kind in ("less", "not_greater") else (above, below)


def edges(claim: Claim, pooled: Estimate) -> list[float]:
    """Give what an interval would have to leave to be decided: the bound, or the margin's ends if they lie farther."""
    b, m = claim.bound, claim.margin
    if claim.kind == "equivalent":
        return [-b, b]
    off = abs(pooled.effect - b)
    if claim.kind in ("greater", "less") and m - off > off:
        return [b - m, b + m]
    return [b]


def size(pooled: Estimate, published: float | None, note: str = "") -> str:
    """Compare with the document's number: "as large" where the interval holds it, else "smaller" or "larger".

    Of the absolute value; a result of the other sign is "opposite". Empty where the document prints no number.
    """
    if "not comparable" in note:
        return "not comparable"
    if published is None:
        return ""
    if pooled.low <= published <= pooled.high:
        return "as large"
    if pooled.effect * published < 0:
        return "opposite"
    return "larger" if abs(pooled.effect) > abs(published) else "smaller"
