"""Estimates with intervals over images.

Intervals are percentile bootstraps (Efron and Tibshirani 1993, chapter 13): a little narrow where images are few (of a
normal sample's mean, 10 images give 87 %, 24 give 91 % and 40 give 93 % instead of 95 %), and blind to what happened to
no image: where none of 30 changed its label, up to a tenth of all may.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch

from vaenb.checks import check_counts, check_number, check_whole


@dataclass(frozen=True)
class Estimate:
    """A statistic with its interval, all finite, low <= high; `n` counts the images behind it.

    The effect may lie outside its interval, as percentile intervals of a biased statistic (a maximum) do.
    """

    effect: float
    low: float
    high: float
    n: int | None = field(default=None, compare=False)

    def __post_init__(self):
        for name in ("effect", "low", "high"):  # numpy and torch numbers become floats
            object.__setattr__(self, name, float(getattr(self, name)))
        if not all(map(math.isfinite, (self.effect, self.low, self.high))):
            raise ValueError(f"effect, low and high must be finite, got {self.effect}, {self.low}, {self.high}")
        if self.low > self.high:
            raise ValueError(f"low must not exceed high, got low={self.low}, high={self.high}")
        if self.n is not None:
            check_whole("n", self.n)
            object.__setattr__(self, "n", int(self.n))


def bootstrap(
    values, *, statistic: Callable = np.mean, confidence: float = 0.95, resamples: int = 2000, seed: int = 0
) -> Estimate:
    """Estimate `statistic(values)` with a percentile interval over images.

    values: (N, ...) array or tensor, N >= 2. Whole rows are drawn, so a statistic of pairs (a correlation, an AUROC)
    takes the pairs as columns, and a paired difference is `bootstrap(a - b)`. `statistic` maps an array to a number.
    """
    x = _checked_rows(values, confidence, resamples, at_least=2)
    rng = np.random.default_rng(seed)
    draws = [statistic(x[rng.integers(len(x), size=len(x))]) for _ in range(resamples)]
    low, high = np.quantile(draws, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Estimate(float(statistic(x)), float(low), float(high), n=len(x))


def half_samples(
    values, *, statistic: Callable = np.mean, confidence: float = 0.95, resamples: int = 200, seed: int = 0
) -> Estimate:
    """Estimate `statistic(values)` with an interval from random halves of the rows, for a statistic biased by its N.

    As `bootstrap`, for statistics such as a Fréchet distance, which doubled rows would shift. A half differs from the
    whole as widely as the whole from the truth, if not around the same centre, so that the halves' deviations from
    their own mean are laid around the estimate (the delete-half jackknife; Shao & Tu, 1995, ch. 2). N >= 4. That suits
    a difference of two such distances, whose biases cancel. In a ratio they do not: it is drawn towards 1, by much
    where N is not far above the number of features, and its interval is too narrow.
    """
    x = _checked_rows(values, confidence, resamples, at_least=4)
    rng = np.random.default_rng(seed)
    draws = np.array([statistic(x[rng.permutation(len(x))[: len(x) // 2]]) for _ in range(resamples)])
    effect, tail = float(statistic(x)), (1 - confidence) / 2
    low, high = effect + np.quantile(draws - draws.mean(), [tail, 1 - tail])
    return Estimate(effect, float(low), float(high), n=len(x))


def _checked_rows(values, confidence: float, resamples: int, *, at_least: int) -> np.ndarray:
    x = np.asarray(values.detach().cpu().double() if torch.is_tensor(values) else values, dtype=float)
    if x.ndim == 0 or len(x) < at_least:
        raise ValueError(f"values must hold at least {at_least} images along axis 0, got shape {x.shape}")
    if not np.isfinite(x).all():
        raise ValueError(f"values must be finite, got {(~np.isfinite(x)).sum()} NaN or infinite of {x.size}")
    check_number("confidence", confidence, "a number between 0 and 1", above=0, below=1)
    check_counts(resamples=resamples)
    return x
