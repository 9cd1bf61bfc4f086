"""The statistics of the claims by name: from the raw arrays of a cell to the values that `stats.pooled` takes.

Arrays are (S, N, ...), S training runs and N images. A statistic is one of three kinds:

    image     a number for each run and image, (S, N), of which the mean counts: a difference of SSIM, a slope
    run       a number of each run's images, f((N, ...), ...): an AUROC, a ratio, a correlation; by pseudo-values
    median    as image, but of each run the median counts

Curves have the radii on their last axis, from 0 on; `levels` (β, d, or a radius, or a drop in SSIM) go along the last
axis, or along the one before that where there are radii, too.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr

from vaenb import stats
from vaenb.checks import NotDefined, check_choice
from vaenb.metrics import detection, frechet
from vaenb.metrics.distortion import aaddc_abs

Array = np.ndarray
UNSURE, SURE = 0.6, 0.95  # confidences below and above which document 000's bins are compared
_POINTS = 50  # of a common range of ELBOs


def evaluate(
    name: str,
    arrays: Mapping[str, Array],
    *,
    levels: Sequence[float] = (),
    radii: Sequence[float] = (),
) -> stats.Values:
    """Compute the values or pseudo-values (S, N) of the statistic `name` from a cell's arrays, in their order.

    N is the number of images, or of blocks of them. Raises ValueError for an unknown name, and for numbers of arrays,
    levels or radii that do not fit; NotDefined where the SSIM never falls so far, where no ELBO is common to both, and
    where a run has no unsure image.
    """
    check_choice("statistic", name, STATISTICS)
    function, *axes = STATISTICS[name]
    parts = [np.asarray(array, dtype=float) for array in arrays.values()]
    vectors = {"levels": np.array(levels, dtype=float), "radii": np.array(radii, dtype=float)}
    given = [vectors[axis] for axis in axes]
    try:
        if name in PER_RUN:
            return _jackknifed(name, parts, given)
        values = function(*parts, *given)
    except NotDefined:
        raise
    except (TypeError, IndexError, ValueError) as error:
        shapes = ", ".join(f"{key} {np.shape(array)}" for key, array in arrays.items())
        told = f"levels {tuple(levels)} and radii {tuple(radii)}"
        raise ValueError(f"statistic {name!r} of {shapes} with {told}: {error}") from error
    return stats.Values(values, median=name in MEDIANS)


def _jackknifed(name: str, arrays: list[Array], axes: list[Array]) -> stats.Values:
    """Leave out image by image; the arrays have different shapes, so that rows are looked up by run and place."""
    function = PER_RUN[name][0]
    runs, images = arrays[0].shape[:2]
    each = math.ceil(images / BLOCKS.get(name, images))
    count = images // each  # what does not fill a block stays out
    blocks = []
    for array in arrays:
        filled = array[:, : count * each]
        blocks.append(filled.reshape(runs, count, each, *array.shape[2:]))

    def of_rows(rows: Array) -> float:
        run = int(rows[0, 0])
        places = rows[:, 1].astype(int)
        parts = []
        for array in blocks:
            kept = array[run][places]
            parts.append(kept.reshape(-1, *kept.shape[2:]))
        return function(*parts, *axes)

    places = np.moveaxis(np.indices((runs, count)), 0, -1)  # (S, blocks, 2)
    return replace(stats.jackknifed(places, of_rows), block=each)


# Of each image.


def mean(a: Array) -> Array:
    return a


def difference(a: Array, b: Array) -> Array:
    return a - b


def lost(curve: Array) -> Array:
    """What a curve (S, N, K) loses from its first point to its last."""
    return curve[..., 0] - curve[..., -1]


def lost_difference(a: Array, b: Array) -> Array:
    """How much more a loses than b from the first point to the last."""
    return lost(a) - lost(b)


def one_label(labels: Array) -> Array:
    """1 where all copies of an image have one label, of their numbers of labels."""
    return (labels == 1).astype(float)


def split_difference(a: Array, b: Array) -> Array:
    """P(two labels or more) under a minus that under b."""
    return (a >= 2).astype(float) - (b >= 2)


def difference_at(a: Array, b: Array, levels: Array, radii: Array) -> Array:
    """The difference of two curves (S, N, K) at one of the radii."""
    (k,) = np.flatnonzero(np.isclose(radii, levels[0]))
    return a[..., k] - b[..., k]


def difference_within(a: Array, b: Array, levels: Array, radii: Array) -> Array:
    """The mean difference of two curves (S, N, K) at the radii in (0, level]."""
    within = (radii > 0) & (radii <= levels[0] * (1 + 1e-9))
    return (a - b)[..., within].mean(-1)


def strongest_difference(a: Array, b: Array) -> Array:
    """a (S, N, attacks) under the attack that leaves the smallest mean, minus b (S, N), or (S, N, attacks) likewise."""
    return _under_strongest(a) - _under_strongest(b)


def _under_strongest(a: Array) -> Array:
    if a.ndim == 2:
        return a
    return a[..., a.mean((0, 1)).argmin()]


def best_difference(single: Array, together: Array) -> Array:
    """The smallest along the last axis of (S, N, L), image by image, minus (S, N)."""
    return single.min(-1) - together


def slope(values: Array, levels: Array) -> Array:
    """Least-squares slope over log levels of values (..., levels)."""
    x = np.log(levels) - np.log(levels).mean()
    return values @ x / (x @ x)


def area(curve: Array, radii: Array, better: str = "higher") -> Array:
    """AADDC_abs (...) of curves (..., K), as `metrics.distortion` has it."""
    curves = torch.from_numpy(curve.reshape(-1, len(radii)).T.copy())
    areas = aaddc_abs(torch.from_numpy(radii), curves, better=better)
    return areas.numpy().reshape(curve.shape[:-1])


def area_difference(a: Array, b: Array, radii: Array, better: str = "higher") -> Array:
    """AADDC_abs of a minus that of b; higher is better for SSIM, lower for LPIPS."""
    return area(a, radii, better) - area(b, radii, better)


def area_slope(curves: Array, levels: Array, radii: Array, better: str = "higher") -> Array:
    """Slope over log levels of AADDC_abs, curves (S, N, levels, K)."""
    return slope(area(curves, radii, better), levels)


def standardised_slope_difference(a: Array, b: Array, levels: Array, radii: Array) -> Array:
    """Slope over log levels of AADDC_abs, each divided by its standard deviation over models: a's minus b's.

    A model is a run at a level. The standard deviations count as known.
    """
    slopes = []
    for curves in (a, b):
        areas = area(curves, radii)  # (S, N, levels)
        spread = areas.mean(1).std(ddof=1)
        slopes.append(slope(areas, levels) / spread)
    return slopes[0] - slopes[1]


def absolute_difference(a: Array, b: Array) -> Array:
    """|a| − |b|, image by image."""
    return np.abs(a) - np.abs(b)


# Of each run, arrays (N, ...).


def auroc(inside: Array, outside: Array) -> float:
    """AUROC minus ½ of scores (N,) of each; an image of either is left out at a time."""
    return detection.auroc(inside, outside) - 0.5


def auroc_difference(inside: Array, outside: Array, inside_b: Array, outside_b: Array) -> float:
    return detection.auroc(inside, outside) - detection.auroc(inside_b, outside_b)


def ratio(a: Array, b: Array) -> float:
    return a.mean() / b.mean()


def last_over_first(curve: Array) -> float:
    """The mean at a curve's last point over that at its first."""
    return curve[:, -1].mean() / curve[:, 0].mean()


def unsure_over_sure(loss: Array, confidence: Array) -> float:
    """Mean loss at confidence below .6 over that above .95, minus 1 (document 000's bins)."""
    unsure = confidence < UNSURE
    sure = confidence > SURE
    if not unsure.any() or not sure.any():
        raise NotDefined(f"confidence: images below {UNSURE} and above {SURE} expected, got none of one of them")
    return loss[unsure].mean() / loss[sure].mean() - 1


def spearman(a: Array, b: Array) -> float:
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        raise NotDefined("a rank correlation: numbers that differ expected, got the same for every image")
    return float(spearmanr(a, b).statistic)


def area_spread(*axes: Array) -> float:
    """(max − min) / mean of the AADDC_abs of several models' curves (N, K), the radii last."""
    *curves, radii = axes
    areas = [area(curve, radii).mean() for curve in curves]
    return (max(areas) - min(areas)) / np.mean(areas)


def at_drop(values: Array, ssim: Array, levels: Array) -> float:
    """The mean of values (N, K) at the radius where the mean SSIM (N, K) has fallen by the level."""
    return _at_drop(values.mean(0), ssim, levels[0])


def spread_at_drop(codes: Array, ssim: Array, levels: Array) -> float:
    """tr Cov(z') / tr Cov(z) − 1 at that radius, of attacked codes (N, K, D), the first of them not attacked."""
    spreads = codes.var(0, ddof=1).sum(-1)  # (K,)
    return _at_drop(spreads, ssim, levels[0]) / spreads[0] - 1


def _at_drop(curve: Array, ssim: Array, drop: float) -> float:
    """A curve (K,), interpolated where the mean of `ssim` (N, K) first lies `drop` below its start."""
    fallen = ssim[:, 0].mean() - ssim.mean(0)
    beyond = np.flatnonzero(fallen >= drop)
    if len(beyond) == 0:
        raise NotDefined(f"ssim: a fall by {drop:g} expected, got {fallen.max():.3g} at most; attack farther")
    k = beyond[0]
    return float(np.interp(drop, fallen[k - 1 : k + 1], curve[k - 1 : k + 1]))


def frechet_ratio(a: Array, b: Array, real: Array) -> float:
    """Fréchet distance of a to `real` over that of b, minus 1, of features (N, F)."""
    goal = torch.from_numpy(real)
    first = frechet.frechet_distance(torch.from_numpy(a), goal)
    second = frechet.frechet_distance(torch.from_numpy(b), goal)
    return first / second - 1


def gap_slope(a: Array, b: Array, levels: Array, radii: Array) -> float:
    """Slope over log levels of |mean AADDC_abs of a − that of b|, curves (N, levels, K)."""
    gaps = area_difference(a, b, radii).mean(0)
    return float(slope(np.abs(gaps), levels))


def difference_at_equal_elbo(a: Array, b: Array, elbo_a: Array, elbo_b: Array) -> float:
    """a minus b at equal mean ELBO, each (N, weights), interpolated and averaged over the common range of ELBOs."""
    first, second = elbo_a.mean(0), elbo_b.mean(0)
    low = max(first.min(), second.min())
    high = min(first.max(), second.max())
    if low >= high:
        raise NotDefined(f"ELBO: a common range expected, got up to {high:.4g} of one and from {low:.4g} of the other")
    at = np.linspace(low, high, _POINTS)
    return float(np.mean(_interpolated(at, first, a.mean(0)) - _interpolated(at, second, b.mean(0))))


def _interpolated(at: Array, x: Array, y: Array) -> Array:
    order = np.argsort(x)
    return np.interp(at, x[order], y[order])


PER_IMAGE: dict[str, tuple[Any, ...]] = {  # the function, and what it takes after the arrays
    "mean": (mean,),
    "difference": (difference,),
    "lost": (lost,),
    "lost difference": (lost_difference,),
    "one label": (one_label,),
    "split difference": (split_difference,),
    "difference at": (difference_at, "levels", "radii"),
    "difference within": (difference_within, "levels", "radii"),
    "strongest difference": (strongest_difference,),
    "best difference": (best_difference,),
    "slope": (slope, "levels"),
    "area difference": (area_difference, "radii"),
    "area difference, lower better": (partial(area_difference, better="lower"), "radii"),
    "area slope": (area_slope, "levels", "radii"),
    "area slope, lower better": (partial(area_slope, better="lower"), "levels", "radii"),
    "standardised slope difference": (standardised_slope_difference, "levels", "radii"),
}
MEDIANS: dict[str, tuple[Any, ...]] = {
    "median |a| - |b|": (absolute_difference,),
}
PER_RUN: dict[str, tuple[Any, ...]] = {
    "auroc": (auroc,),
    "auroc difference": (auroc_difference,),
    "ratio": (ratio,),
    "last over first": (last_over_first,),
    "unsure over sure": (unsure_over_sure,),
    "spearman": (spearman,),
    "area spread": (area_spread, "radii"),
    "at drop": (at_drop, "levels"),
    "spread at drop": (spread_at_drop, "levels"),
    "frechet ratio": (frechet_ratio,),
    "gap slope": (gap_slope, "levels", "radii"),
    "difference at equal ELBO": (difference_at_equal_elbo,),
}
BLOCKS = {"unsure over sure": 500, "frechet ratio": 20}  # where to leave out each image would take too long
STATISTICS = PER_IMAGE | MEDIANS | PER_RUN
