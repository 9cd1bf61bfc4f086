"""Estimates with intervals over training runs and images.

S runs and N images are crossed: every run sees the same images. With the mean squares of a two-way table,

    Var(mean) = (MS_run + MS_image − MS_interaction) / (S·N),

Satterthwaite's degrees of freedom and Student's t (Searle, Casella & McCulloch 1992, ch. 5). A smooth statistic that is
no mean goes the same way through its jackknife pseudo-values (Tukey 1958), a median through a two-way bootstrap.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy import stats
from scipy.special import stdtr, stdtrit

from vaenb.checks import check_choice, check_counts, check_number

Statistic = Callable[[np.ndarray], float]
Groups = Sequence[Sequence["Values"]]  # cells of a group share runs and images
_PSEUDO = (1.0, 1.0, -1.0, -1.0)  # steps of pseudo-images from their run's mean
_NORMAL = 1e9  # degrees of freedom
_RUNS = (5, 6, 7, 8, 10, 12, 15, 20, 25, 30, 40, 50, 60, 80, 100)  # designs that `needed` looks at
_IMAGES = (50, 100, 150, 200, 300, 400, 500, 700, 1000, 1500, 2000, 3000, 5000, 7000, 10_000)


@dataclass(frozen=True)
class Estimate:
    """A statistic with its interval, all finite, low <= high.

    `n` counts the images, `runs` the training runs (None: nothing was trained), `error` is the standard error and `df`
    its degrees of freedom (None: unknown, or nothing varies). The effect may lie outside its interval, as percentile
    intervals of a biased statistic (a maximum) do.
    """

    effect: float
    low: float
    high: float
    n: int | None = field(default=None, compare=False)
    runs: int | None = field(default=None, compare=False)
    error: float | None = field(default=None, compare=False)
    df: float | None = field(default=None, compare=False)

    def __post_init__(self):
        for name in ("effect", "low", "high"):  # numpy and torch numbers become floats
            object.__setattr__(self, name, float(getattr(self, name)))
        if not all(map(math.isfinite, (self.effect, self.low, self.high))):
            raise ValueError(f"effect, low and high must be finite, got {self.effect}, {self.low}, {self.high}")
        if self.low > self.high:
            raise ValueError(f"low must not exceed high, got low={self.low}, high={self.high}")

    def __str__(self) -> str:
        """As in "0.136 [0.120, 0.152]": two significant digits of half the width decide the decimals."""
        half = (self.high - self.low) / 2
        size, digits = half, 2
        if half <= 1e-12 * abs(self.effect):  # a constant
            size, digits = abs(self.effect) or 1.0, 3
        decimals = digits - 1 - math.floor(math.log10(size))
        return format(self, f"z.{max(0, decimals)}f")

    def __format__(self, spec: str) -> str:
        """Apply a format such as ".2f" to each of the three numbers."""
        if not spec:
            return str(self)
        return f"{self.effect:{spec}} [{self.low:{spec}}, {self.high:{spec}}]"

    def p_value(self, bound: float, side: Literal["greater", "less"]) -> float:
        """Of the one-sided t test that the statistic lies on this side of the bound; 0 or 1 where nothing varies."""
        check_choice("side", side, ("greater", "less"))
        if self.error is None:
            raise ValueError("error: a standard error expected, got None; make the estimate with crossed or jackknife")
        beyond = self.effect - bound if side == "greater" else bound - self.effect
        if self.error == 0:
            return float(beyond <= 0)
        return float(stdtr(self.df or _NORMAL, -beyond / self.error))


@dataclass(frozen=True)
class Values:
    """One cell: values or pseudo-values (S, N) of S runs and N images.

    `effect` is the statistic itself where it is not the values' mean; `median` asks for the runs' medians. A single
    number, (1, 1), is a formula's and exact. Of blocks of images, `block` is the number of images in one.
    """

    array: np.ndarray
    effect: float | None = None
    median: bool = False
    block: int = 1

    def __post_init__(self):
        object.__setattr__(self, "array", _table("array", self.array, least=1))

    def __neg__(self) -> "Values":
        effect = None if self.effect is None else -self.effect
        return replace(self, array=-self.array, effect=effect)


def crossed(values: ArrayLike) -> Estimate:
    """Estimate the mean of values (S, N) with a 95 % interval over runs and images.

    S = 1 (nothing was trained) goes over images alone, N = 1 (a statistic of each run) over runs alone. Whole numbers
    (labels, shares, their differences) have some width where no image changed: see `variance`.
    """
    return pooled([[Values(_table("values", values))]])


def jackknife(values: ArrayLike, statistic: Statistic) -> Estimate:
    """Estimate the mean over runs of a smooth statistic of the images, values (S, N, ...).

    `statistic` maps one run's (N, ...) to a number: an AUROC, a slope, a ratio, a Fréchet distance. Around the mean of
    the runs' statistics lies the crossed interval of their pseudo-values; of a mean, that is `crossed`.
    """
    return pooled([[jackknifed(values, statistic)]])


def jackknifed(values: ArrayLike, statistic: Statistic) -> Values:
    """A cell for `pooled` of a smooth statistic T of each run's images, values (S, N, ...), N >= 2.

    Its pseudo-values are N·T_s − (N − 1)·T_(s, without i) for each run s and image i, (S, N).
    """
    x = numbers("values", values)
    if x.ndim < 2 or x.shape[1] < 2:
        raise ValueError(f"values: (S, N, ...) with at least 2 images expected, got shape {x.shape}")
    runs, images = x.shape[:2]
    pseudo, each = np.empty((runs, images)), np.empty(runs)
    for s in range(runs):
        each[s] = float(statistic(x[s]))
        for i in range(images):
            without = float(statistic(np.delete(x[s], i, axis=0)))
            pseudo[s, i] = images * each[s] - (images - 1) * without
    if not np.isfinite(pseudo).all():
        raise ValueError("statistic: finite numbers expected with any one image left out, got NaN or infinite ones")
    return Values(pseudo, effect=float(each.mean()))


def pooled(groups: Groups, *, cells: int | None = None) -> Estimate:
    """Estimate the mean over cells, each with the same weight, with its 95 % interval.

    The cells of a group share their runs and images, so that their arrays, all (S, N), are averaged element by
    element before the interval is taken. Groups share nothing (other data, other training runs): their variances add,
    with Satterthwaite's degrees of freedom. `runs` and `n` are those of the smallest group.

    The sum is divided by the number of `cells`, all of them by default. A cell that is a difference of two data sets
    stands in both groups, as `values` and `-values`, and counts once.
    """
    if not groups or not all(groups):
        raise ValueError("groups: at least one group, and a cell in each, expected, got an empty one")
    parts = list(map(_group, groups))
    effect = total = spread = 0.0
    for part, weight in zip(parts, _weights(groups, cells), strict=True):
        square = (weight * (part.error or 0.0)) ** 2
        effect += weight * part.effect
        total += square
        spread += square**2 / (part.df or _NORMAL)
    error = math.sqrt(total)
    df = total**2 / spread if spread else None
    half = _half_width(error, df)
    n = min((part.n for part in parts if part.n), default=None)
    runs = min((part.runs for part in parts if part.runs), default=None)
    return Estimate(effect, effect - half, effect + half, n=n, runs=runs, error=error, df=df)


def _half_width(error: float, df: float | None) -> float:
    """Of Student's 95 % interval."""
    return error * float(stdtrit(df or _NORMAL, 0.975))


def _weights(groups: Groups, cells: int | None) -> list[float]:
    sizes = list(map(len, groups))
    total = cells or sum(sizes)
    return [size / total for size in sizes]


def variance(values: np.ndarray, *, whole: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Give the variance of the mean of values (..., S, N), and its degrees of freedom (0 where nothing varies).

    It is never below MS_interaction / (S·N), which it would be by chance where neither runs nor images differ.

    `whole` numbers (labels, shares and their differences, counts) get four pseudo-images, two a step above their run's
    mean and two a step below, in the spirit of Agresti & Coull (1998). The step is 1 where no image differs: on 100 or
    300 images the interval then reaches .038 or .013 (the exact binomial one .036 or .012). Where images differ it is
    what they typically differ by; a share of .1 on 100 images gets an interval that is at most a fifth wider.
    """
    y = values
    if whole and y.shape[-1] > 1:
        step = _typical_step(y)[..., None, None]
        pseudo = y.mean(-1, keepdims=True) + step * np.array(_PSEUDO)
        y = np.concatenate([y, pseudo], axis=-1)
    total, df = _satterthwaite(*_mean_squares(y))
    return total / (y.shape[-2] * y.shape[-1]), df


def _typical_step(y: np.ndarray) -> np.ndarray:
    """By how much images (..., S, N) differ from most others, where they do; one more that differs by 1 is assumed."""
    image = y.mean(-2)
    away = abs(image - np.median(image, axis=-1, keepdims=True))
    return ((away**2).sum(-1) + 1) / (away.sum(-1) + 1)


def _satterthwaite(squares: Sequence, freedom: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """MS_run + MS_image − MS_interaction and its degrees of freedom."""
    run, image, rest = squares
    total = np.maximum(run + image - rest, rest)
    spread = np.zeros_like(total)
    for square, df in zip(squares, freedom, strict=True):
        spread += square**2 / max(df, 1)
    varies = spread > 0
    return total, np.where(varies, total**2 / np.where(varies, spread, 1), 0.0)


def _mean_squares(y: np.ndarray) -> tuple[list[np.ndarray], tuple[int, ...]]:
    """Mean squares of runs, images and interaction of (..., S, N), 0 where there is but one, and their freedom."""
    runs, images = y.shape[-2:]
    mean = y.mean((-2, -1), keepdims=True)
    of_run = y.mean(-1, keepdims=True) - mean
    of_image = y.mean(-2, keepdims=True) - mean
    rest = y - mean - of_run - of_image
    sums = [images * _squared(of_run), runs * _squared(of_image), _squared(rest)]
    freedom = _freedom(runs, images)
    squares = [total / max(df, 1) for total, df in zip(sums, freedom, strict=True)]
    return squares, freedom


def _squared(part: np.ndarray) -> np.ndarray:
    return (part**2).sum((-2, -1))


def _freedom(runs: int, images: int) -> tuple[int, ...]:
    return runs - 1, images - 1, (runs - 1) * (images - 1)


def _whole(values: np.ndarray) -> bool:
    """Whether all are whole numbers, as labels and shares are (or halves: a perfect AUROC minus .5)."""
    tolerance = 1e-6 * min(1, np.abs(values).max(initial=0))  # tiny numbers are no zeros
    return bool(np.allclose(2 * values, np.round(2 * values), rtol=0, atol=tolerance))


def _group(cells: Sequence[Values]) -> Estimate:
    """The mean of cells that share runs and images; only effect, error, df and the counts matter."""
    shapes = sorted({cell.array.shape for cell in cells})
    if len(shapes) > 1:
        raise ValueError(f"groups: cells of one group share runs and images, (S, N); got shapes {shapes}")
    arrays = np.stack([cell.array for cell in cells])
    runs, images = arrays.shape[1:]
    medians = sum(cell.median for cell in cells)
    if medians not in (0, len(cells)):
        raise ValueError("groups: either all cells of a group are medians or none is, got both")
    if medians:
        error, df = _median_error(arrays)
    else:
        square, freedom = variance(arrays.mean(0), whole=_whole(arrays))
        error, df = math.sqrt(square), float(freedom)
    effect = float(np.mean(list(map(_effect, cells))))
    n = images * cells[0].block if images > 1 else None
    trained = runs if runs > 1 else None
    return Estimate(effect, effect, effect, n=n, runs=trained, error=error, df=df or None)


def _effect(cell: Values) -> float:
    if cell.effect is not None:
        return cell.effect
    if cell.median:
        return float(np.median(cell.array, axis=1).mean())
    return float(cell.array.mean())


def _median_error(arrays: np.ndarray) -> tuple[float, float]:
    """Two-way bootstrap's standard error of the mean over cells and runs of the median, arrays (cells, S, N)."""
    runs, images = arrays.shape[1:]
    rng = np.random.default_rng(0)
    draws = np.empty(2000)
    for k in range(len(draws)):
        some = arrays[:, :, rng.integers(images, size=images)]
        medians = np.median(some, axis=-1).mean(0)  # (S,)
        # one run fewer than there are: the mean of S of S varies by (S - 1)/S of what it should
        draws[k] = medians[rng.integers(runs, size=max(runs - 1, 1))].mean()
    return float(draws.std(ddof=1)), runs - 1 if runs > 1 else images - 1


def holm(p_values: Sequence[float], level: float) -> list[bool]:
    """Which hypotheses are rejected when the chance of any false rejection is to be `level` (Holm 1979)."""
    rejected = [False] * len(p_values)
    order = np.argsort(p_values)
    for k, at in enumerate(order):
        if p_values[at] > level / (len(p_values) - k):
            break
        rejected[at] = True
    return rejected


@dataclass(frozen=True)
class Design:
    """How many training runs and images to measure; 1 where nothing is trained, or where there are no images."""

    runs: int
    images: int

    def __str__(self) -> str:
        if self.runs == 1:
            return f"{self.images:,} images"
        if self.images == 1:
            return f"{self.runs} training runs"
        return f"{self.runs} training runs of {self.images:,} images"


def needed(groups: Groups, edges: Sequence[float], *, cells: int | None = None) -> Design | None:
    """Give the smallest S·N (S <= 100, N <= 10,000, neither below today's, and not both today's) that would settle it.

    `groups` and `cells` as for `pooled`; each group gets this design. The interval would then hold none of the `edges`
    (a bound, or the two ends of its margin) if the effect and the variances were today's: even odds, no promise. None:
    no such design.
    """
    now = pooled(groups, cells=cells)
    distance = min(abs(now.effect - edge) for edge in edges)
    shapes = [group[0].array.shape for group in groups]
    today = max(runs for runs, _ in shapes), max(images for _, images in shapes)
    block = max(cell.block for group in groups for cell in group)
    components = _components(groups, _weights(groups, cells), now.error or 0.0)
    best, least = None, math.inf  # today's design has not settled it
    for runs in _at_least(today[0], _RUNS):
        for images in _at_least(today[1], _IMAGES):
            error, df = _expected(components, runs, images)
            if not components.any():  # whole numbers that are all the same: their pseudo-images are all there is
                error, df = _of_pseudo_images(now.error or 0.0, today[1], images), images - 1.0
            half = _half_width(error, df * len(groups))
            more = (runs, images) != today
            if more and runs * images < least and half < distance:
                best, least = Design(runs, images * block), runs * images
    return best


def _of_pseudo_images(error: float, today: int, images: int) -> float:
    """The error of the mean of so many equal numbers, from that of today's."""
    return error * math.sqrt((today + 3) * (today + 4) / ((images + 3) * (images + 4)))


def _at_least(today: int, more: Sequence[int]) -> list[int]:
    """Today's number and the greater ones; where there is but one (nothing trained, no images), it stays."""
    if today == 1:
        return [today]
    return [today, *(number for number in more if number > today)]


def _components(groups: Groups, weights: list[float], error: float) -> np.ndarray:
    """Variances of the pool due to runs, images and their interaction, scaled so that they give today's error."""
    found, plain = np.zeros(3), 0.0
    for group, weight in zip(groups, weights, strict=True):
        mean = np.mean([cell.array for cell in group], axis=0)
        (run, image, rest), _ = _mean_squares(mean)
        of_run = max(run - rest, 0) / mean.shape[1]
        of_image = max(image - rest, 0) / mean.shape[0]
        own = weight**2 * np.array([of_run, of_image, rest])
        found += own
        plain += _expected(own, *mean.shape)[0] ** 2
    return found * (error**2 / plain) if plain else found


def _expected(components: np.ndarray, runs: int, images: int) -> tuple[float, float]:
    """The standard error and the degrees of freedom to expect of a design."""
    run, image, rest = components
    squares = (rest + images * run, rest + runs * image, rest)
    total, df = _satterthwaite(squares, _freedom(runs, images))
    return math.sqrt(total / (runs * images)), float(df)


def bootstrap(
    values: ArrayLike, *, statistic: Statistic = np.mean, confidence: float = 0.95, resamples: int = 2000, seed: int = 0
) -> Estimate:
    """Estimate `statistic(values)` with a percentile interval over images alone.

    values: (N, ...) array or tensor, N >= 2. Whole rows are drawn, so a statistic of pairs (a correlation, an AUROC)
    takes the pairs as columns, and a paired difference is `bootstrap(a - b)`. `statistic` maps an array to a number.
    A little narrow where images are few: of a normal sample's mean, 10 images give 90 %, 24 give 93 % and 40 give 94 %;
    see `expanded`.
    """
    x = numbers("values", values)
    if x.ndim == 0 or len(x) < 2:
        raise ValueError(f"values must hold at least 2 images along axis 0, got shape {x.shape}")
    check_number("confidence", confidence, "a number between 0 and 1", above=0, below=1)
    check_counts(resamples=resamples)
    found = stats.bootstrap(
        (np.arange(len(x)),),
        lambda rows: float(statistic(x[rows])),
        vectorized=False,
        n_resamples=resamples,
        confidence_level=confidence,
        method="percentile",
        random_state=np.random.default_rng(seed),
    )
    low, high = found.confidence_interval
    return Estimate(float(statistic(x)), float(low), float(high), n=len(x))


def expanded(images: int) -> float:
    """The confidence to ask of `bootstrap` so that its interval of so few images covers in 95 % of cases.

    Percentiles at Φ(∓√(n/(n−1)) t), t the quantile of Student's distribution, which widen a normal sample's interval to
    Student's (Hesterberg, 2015, *The American Statistician* 69, section 5.3). For 2 images or more.
    """
    width = stats.t.ppf(0.975, images - 1) * np.sqrt(images / (images - 1))
    return min(float(1 - 2 * stats.norm.sf(width)), 1 - 1e-9)  # two images ask for more than a float can say


def wilson(k: torch.Tensor, n: torch.Tensor | int) -> tuple[torch.Tensor, torch.Tensor]:
    """Bound the chance behind k hits in n trials: Wilson's 95 % interval (1927); NaN for no trials."""
    z = stats.norm.ppf(0.975)
    middle = (k + z**2 / 2) / (n + z**2)
    half = z / (n + z**2) * (k * (n - k) / n + z**2 / 4).sqrt()
    return (middle - half).clamp_min(0), (middle + half).clamp_max(1)


def numbers(name: str, values: ArrayLike) -> np.ndarray:
    """Give an array or a tensor as an array of finite floats. Raises ValueError where it is not finite."""
    if torch.is_tensor(values):
        values = values.detach().cpu().double()  # NumPy has no bfloat16
    x = np.asarray(values).astype(float)
    if not np.isfinite(x).all():
        raise ValueError(f"{name} must be finite, got {(~np.isfinite(x)).sum()} NaN or infinite of {x.size}")
    return x


def _table(name: str, values: ArrayLike, *, least: int = 2) -> np.ndarray:
    """An array (S, N) of at least so many numbers, by default so many that something can vary."""
    x = numbers(name, values)
    if x.ndim != 2 or x.size < least:
        raise ValueError(
            f"{name}: (S, N), runs × images, at least {least} of one, expected, got shape {x.shape}; "
            "values of one run are values[None]"
        )
    return x
