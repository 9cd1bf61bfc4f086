"""How often the rule for results errs, against the rule before it (`make bench`; by itself, it prints Markdown).

Simulated cells have S training runs × N images. On a latent normal scale a value is the sum of a run's, an image's and
their interaction's effect, the last two of equal variance. *Ratio* is that of the standard deviations of the two means
that the cell's mean is made of, (σ_run / √S) / (σ_image / √N): at 1 the runs and the images matter alike, at 2 the runs
make up most. In the *harder* table it is σ_run / σ_image, so that at 2 the runs make up 99 %. Cells that share runs and
images share half of each variance. Lognormal values are exp(latent) of a standardised latent, binary ones are 1 above
a threshold.

A verdict of the old rule: percentile bootstrap over images of the runs' mean; a cell is reproduced or contradicted by
its interval unless a run alone lies on the other side; the claim is contradicted where a cell is, else reproduced where
all are.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest
from scipy.special import stdtr, stdtrit
from scipy.stats import norm

from vaenb import stats

RUNS, IMAGES, REPEATS = 5, 100, 4000
RATIOS = (0, 0.5, 1, 2)
CELLS = ((1, True), (8, True), (48, True), (8, False), (48, False))  # number, and whether they share runs and images
KINDS = ("normal", "lognormal", "binary .5", "binary .1")
BEYOND = 4  # standard errors at which the power is asked for
BATCH = 100_000  # runs × images × cells × repeats at a time, in 50s
RESAMPLES = 400  # of the old rule's bootstrap


@dataclass(frozen=True)
class Setting:
    kind: str = "normal"
    ratio: float = 1.0
    cells: int = 1
    shared: bool = True
    harder: bool = False

    @property
    def deviations(self) -> np.ndarray:
        """Of runs, images and interaction on the latent scale, with squares that sum to 1."""
        run = self.ratio * (1 if self.harder else np.sqrt(RUNS / IMAGES))
        raw = np.array([run, 1.0, 1.0])
        return raw / np.linalg.norm(raw)

    @property
    def truth(self) -> float:
        """The mean of the values."""
        if self.kind == "normal":
            return 0.0
        if self.kind == "lognormal":
            return float(np.exp(0.5))
        return self.share

    @property
    def share(self) -> float:
        """Of ones among binary values."""
        return float(self.kind.split()[1])

    @property
    def whole(self) -> bool:
        return self.kind.startswith("binary")


def draw(setting: Setting, repeats: int, rng: np.random.Generator) -> np.ndarray:
    """Values (repeats, cells, S, N)."""
    latent = np.zeros((repeats, setting.cells, RUNS, IMAGES))
    shapes = ((RUNS, 1), (1, IMAGES), (RUNS, IMAGES))
    for deviation, shape in zip(setting.deviations, shapes, strict=True):
        own = rng.standard_normal((repeats, setting.cells, *shape))
        if setting.shared and setting.cells > 1:
            common = rng.standard_normal((repeats, 1, *shape))
            own = (own + common) * np.sqrt(0.5)
        latent += deviation * own
    if setting.kind == "normal":
        return latent
    if setting.kind == "lognormal":
        return np.exp(latent)
    return (latent > norm.isf(setting.share)).astype(float)


@dataclass(frozen=True)
class Cells:
    """What a rule knows of simulated cells, (repeats, cells) each, and of their pool, (repeats,)."""

    effect: np.ndarray
    error: np.ndarray
    df: np.ndarray
    pool: np.ndarray
    pool_error: np.ndarray
    pool_df: np.ndarray
    low: np.ndarray  # the old rule's interval
    high: np.ndarray
    least_run: np.ndarray
    most_run: np.ndarray


def measured(setting: Setting, values: np.ndarray, rng: np.random.Generator) -> Cells:
    """Both rules' intervals of values (repeats, cells, S, N)."""
    square, df = stats.variance(values, whole=setting.whole)
    if setting.shared:
        pool_square, pool_df = stats.variance(values.mean(1), whole=setting.whole)
    else:
        pool_square = square.mean(1) / setting.cells
        spread = (square**2 / np.maximum(df, 1e-9)).sum(1) / setting.cells**4
        pool_df = pool_square**2 / np.maximum(spread, 1e-300)
    effect = values.mean((-2, -1))
    low, high = old_interval(values.mean(-2), rng)
    of_run = values.mean(-1)
    old = (low, high, of_run.min(-1), of_run.max(-1))
    return Cells(effect, np.sqrt(square), df, effect.mean(1), np.sqrt(pool_square), pool_df, *old)


def old_interval(images: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Percentile bootstrap of the mean of (..., N); all cells of a batch share their resamples."""
    weights = rng.multinomial(IMAGES, np.full(IMAGES, 1 / IMAGES), size=RESAMPLES) / IMAGES
    means = images @ weights.T
    low, high = np.quantile(means, [0.025, 0.975], axis=-1)
    return low, high


@cache
def simulated(setting: Setting, repeats: int = REPEATS, seed: int = 0) -> Cells:
    rng = np.random.default_rng(seed)
    batch = max(1, 50 * BATCH // (setting.cells * RUNS * IMAGES))
    parts = []
    for done in range(0, repeats, batch):
        values = draw(setting, min(batch, repeats - done), rng)
        parts.append(vars(measured(setting, values, rng)))
    joined = {}
    for name in parts[0]:
        joined[name] = np.concatenate([part[name] for part in parts])
    return Cells(**joined)


def new_verdicts(cells: Cells, bound: float) -> dict[str, np.ndarray]:
    """Where the rule says "mixed", "reproduced" and "contradicted" of a claim "greater than the bound"."""
    half = cells.pool_error * stdtrit(cells.pool_df, 0.975)
    t = (cells.effect - bound) / cells.error
    hypotheses = cells.effect.shape[1]
    above = (stdtr(cells.df, -t) * hypotheses).min(1) <= 0.025  # the first step of Holm's correction
    below = (stdtr(cells.df, t) * hypotheses).min(1) <= 0.025
    mixed = above & below
    reproduced = ~mixed & (cells.pool - half > bound)
    contradicted = ~mixed & (cells.pool + half < bound)
    return {"mixed": mixed, "reproduced": reproduced, "contradicted": contradicted}


def old_verdicts(cells: Cells, bound: float) -> dict[str, np.ndarray]:
    """As `new_verdicts`, by the rule of the first ledger."""
    against = ((cells.high < bound) & (cells.most_run < bound)).any(1)
    holds = ((cells.low > bound) & (cells.least_run > bound)).all(1)
    return {"mixed": np.zeros_like(against), "reproduced": holds & ~against, "contradicted": against}


def rates(setting: Setting, repeats: int = REPEATS) -> dict[str, float]:
    """Percentages: coverage, false verdicts where the effect is the bound, and power 4 standard errors beyond it."""
    cells, truth = simulated(setting, repeats), setting.truth
    half = cells.pool_error * stdtrit(cells.pool_df, 0.975)
    found = {
        "coverage": abs(cells.pool - truth) <= half,
        "old coverage": (cells.low <= truth) & (truth <= cells.high),
        "above": cells.pool - half > truth,
        "below": cells.pool + half < truth,
    }
    far = truth - BEYOND * cells.pool.std()
    for name, rule in (("", new_verdicts), ("old ", old_verdicts)):
        for word, where in rule(cells, truth).items():
            found[name + word] = where
        found[name + "power"] = rule(cells, far)["reproduced"]
    return {name: 100 * float(where.mean()) for name, where in found.items()}


def failures(setting: Setting, found: dict[str, float], doubt: float = 0.0) -> list[str]:
    """Which of the criteria for the rule are not met; binary and lognormal data have wider ones.

    `doubt` widens them by percentage points, where repeats are few.
    """
    low, high, side = (93, 97, 3.5) if setting.kind == "normal" else (90, 100, 8)
    wrong = []
    if not low - doubt <= found["coverage"] <= high + doubt:
        wrong.append("coverage")
    sides = [found[name] for name in ("reproduced", "contradicted", "above", "below")]
    if max(sides) > side + doubt:
        wrong.append("side")
    if setting.kind == "normal" and found["power"] < 80 - doubt:
        wrong.append("power")
    return wrong


HEAD = (
    "| cells | ratio | coverage, % | reproduced / contradicted / mixed at the bound, % | reproduced at 4 SE, % |",
    "|---|---|---|---|---|",
)


def line(setting: Setting, found: dict[str, float], note: str) -> str:
    shared = "" if setting.cells == 1 else (", shared" if setting.shared else ", apart")
    numbers = []
    for names in (("coverage",), ("reproduced", "contradicted", "mixed"), ("power",)):
        new = " / ".join(f"{found[name]:.1f}" for name in names)
        old = " / ".join(f"{found['old ' + name]:.1f}" for name in names)
        numbers.append(f"{new} (old: {old})")
    return f"| {setting.cells}{shared} | {setting.ratio:g} | {' | '.join(numbers)} |{note}"


def report(kind: str, harder: bool = False, repeats: int = REPEATS) -> list[str]:
    """Print the table of one kind of data; the settings whose criteria are not met."""
    print(f"\n**{kind}{', harder' if harder else ''}** ({repeats:,} claims a row)\n", *HEAD, sep="\n")
    missed = []
    for cells, shared in CELLS:
        for ratio in RATIOS:
            setting = Setting(kind, ratio, cells, shared, harder)
            found = rates(setting, repeats)
            wrong = failures(setting, found)
            print(line(setting, found, f" ← {', '.join(wrong)}" if wrong else ""), flush=True)
            missed += [f"{setting}: {what} {found}" for what in wrong]
            simulated.cache_clear()
    return missed


@pytest.mark.benchmark(group="verdicts")
@pytest.mark.parametrize("kind", KINDS)
def test_the_rule_errs_as_seldom_as_it_says(benchmark, kind):
    missed = benchmark.pedantic(report, args=(kind,), rounds=1)
    assert not missed


if __name__ == "__main__":
    for kind in KINDS:
        report(kind)
    for kind in KINDS:
        report(kind, harder=True)
