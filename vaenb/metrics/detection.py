"""Scores that tell images a model does not know, or that were attacked: larger is more suspicious, for all of them.

`signals` gives what a VAE has to say of an image: reconstruction, KL, ELBO, ‖μ‖, σ. `likelihood_path` keeps three of
these apart, ‖x − x̂‖, ‖μ‖, ‖σ‖, where their sum in the ELBO lets them cancel (LPath: Huang et al., 2024, 2401.04933),
and a detector fitted on inliers joins them: `mahalanobis` or `copod` (Li et al., 2020, 2009.09463). `auroc`, `aupr` and
`fpr95` judge a score. Further scores are in `consistency`, which asks a classifier too, and in `ood`.
"""

from collections.abc import Callable

import numpy as np
import torch
from scipy.stats import norm, rankdata
from sklearn.covariance import EmpiricalCovariance
from torch import Tensor

from vaenb.checks import check_counts, check_images, check_latents, check_model
from vaenb.contract import LatentModel

_BLOCK = 512  # images encoded at a time, whatever `chunk` is: the draws must not depend on it

Score = Callable[[Tensor], Tensor]
"""score(features) -> (M,): how suspicious each row of features (M, F) is, float64."""


def auroc(inside, outside) -> float:
    """The probability that a score of `outside` exceeds one of `inside`, ties counted one half: 1 is perfect.

    Both are raw scores, (N,) and (M,), tensors or arrays; ±inf is a score like any other. Below ½ the scores point the
    wrong way. An interval over images is `stats.bootstrap(torch.stack([inside, outside], 1), statistic=lambda pairs:
    auroc(*pairs.T))`, and likewise for `aupr` and `fpr95`. Raises ValueError for NaN.
    """
    a, b = _ordered(inside, outside)
    twice = np.searchsorted(a, b, side="left").sum() + np.searchsorted(a, b, side="right").sum()  # whole, so exact
    return int(twice) / (2 * len(a) * len(b))


def aupr(inside, outside) -> float:
    """The area under the precision-recall curve, as average precision, with the outside images as positives.

    It depends on the numbers of images: guessing gets M / (N + M). With the inside images as positives it is
    `aupr(-outside, -inside)`. Arguments as in `auroc`.
    """
    a, b = _ordered(inside, outside)
    hits, misses = (len(scores) - np.searchsorted(scores, b, side="left") for scores in (b, a))  # at threshold b
    return float(np.mean(hits / (hits + misses)))


def fpr95(inside, outside) -> float:
    """The share of outside images that pass where at least 95 % of the inside images do: 0 is perfect, 0.95 guessing.

    The threshold is the lowest that lets so many inside images pass, and a score equal to it passes. This is the FPR at
    95 % TPR of ODIN (Liang et al., 2018, 1706.02690), for whom inside images are positives; others take the outside
    images as positives and report the share of inside images lost. Arguments as in `auroc`.
    """
    a, b = _ordered(inside, outside)
    threshold = a[-(-95 * len(a) // 100) - 1]  # ⌈0.95 N⌉ of them pass, or more by ties
    return float(np.mean(b <= threshold))


@torch.no_grad()
def signals(
    model: LatentModel, x: Tensor, *, samples: int = 16, generator: torch.Generator | None = None, chunk: int = 512
) -> dict[str, Tensor]:
    """Measure what a model has to say of images x (N, C, H, W), each (N,), by `samples` draws z ~ q(z|x).

        mse             mean over the pixels of (x − x̂)², x̂ the decoded posterior mean, not a draw
        reconstruction  −E_q log p(x|z), nats
        kl              E_q[log q(z|x) − log p(z)], nats; by the draws, so that a hierarchy's is right too
        negative_elbo   the sum of both, nats; by the same draws, so that their noise cancels where q is nearly exact
        mean_norm       ‖μ(x)‖₂
        sigma           mean of σ(x) over the dimensions

    Whether unknown images have larger or smaller means and σ is an empirical question: look which side of ½ the AUROC
    is on. `chunk` images are decoded at a time; the draws do not depend on it. Raises NotDefined for a deterministic
    autoencoder.
    """
    _check_model_and_images(model, x, samples=samples, chunk=chunk)
    found = [_signals(model, part, samples, generator, chunk) for part in x.split(_BLOCK)]
    return {name: torch.cat([part[name] for part in found]) for name in found[0]}


@torch.no_grad()
def likelihood_path(model: LatentModel, x: Tensor, *, chunk: int = 512) -> Tensor:
    """LPath's statistics of images x (N, C, H, W), ‖x − x̂‖₂, ‖μ(x)‖₂ and ‖σ(x)‖₂, for a detector: (N, 3).

    x̂ is the decoded posterior mean. Those of several models are joined by `torch.cat(…, 1)`.
    """
    _check_model_and_images(model, x, chunk=chunk)

    def statistics(part: Tensor) -> Tensor:
        q = model.posterior(part)
        vectors = (part - model.decode(q.mean)).flatten(1), q.mean, q.stddev
        return torch.stack([v.norm(dim=1) for v in vectors], 1)

    return torch.cat([statistics(part) for part in x.split(chunk)])


def mahalanobis(inliers: Tensor) -> Score:
    """Fit on features (N, F) of inliers a score: the Mahalanobis distance after each feature is made normal, (M,).

    The inlier of rank r goes to Φ⁻¹((r − ½)/N), and what lies between two inliers to between their values. Beyond them
    a quantile transform, as scikit-learn's, gives slight and gross outliers one value; here it goes on, from the last
    inlier's, by one unit for each standard deviation of the inliers.
    """
    fit = _inliers(inliers)
    normal = _to_normal(fit)
    covariance = EmpiricalCovariance().fit(normal(fit))

    def score(features: Tensor) -> Tensor:
        squared = covariance.mahalanobis(normal(_same_features(features, fit)))
        return torch.from_numpy(squared**0.5).to(features.device)

    return score


def copod(inliers: Tensor) -> Score:
    """Fit on features (N, F) of inliers COPOD, an outlier score by empirical copulas, in nats: (M,).

    The largest of three sums over features of −log tail probability: all left tails, all right tails, and each
    feature's longer tail by the sign of its skewness. An image is ranked among the inliers and itself, and so does not
    depend on the others that are scored. Beyond the inliers' range, where ranks would tie all outliers at log(N + 1),
    the tail is exponential: one nat for each standard deviation of the inliers.
    """
    fit = _inliers(inliers)
    ordered, scale, count = np.sort(fit, axis=0), fit.std(0), len(fit)
    skewed_left = (((fit - fit.mean(0)) / scale) ** 3).mean(0) < 0

    def score(features: Tensor) -> Tensor:
        x = _same_features(features, fit)
        at_most, less = (_counts(ordered, x, side) for side in ("right", "left"))  # inliers ≤ x, and inliers < x
        beyond = _beyond(x, ordered[0], ordered[-1], scale)
        left = np.log((count + 1) / (at_most + 1)) + np.maximum(-beyond, 0)
        right = np.log((count + 1) / (count - less + 1)) + np.maximum(beyond, 0)
        sums = [tail.sum(1) for tail in (left, right, np.where(skewed_left, left, right))]
        return torch.from_numpy(np.max(sums, axis=0)).to(features.device)

    return score


def _signals(model: LatentModel, x: Tensor, samples: int, generator, chunk: int) -> dict[str, Tensor]:
    def log_likelihood(z: Tensor) -> Tensor:
        return torch.cat([model.log_likelihood(*pair) for pair in zip(x.split(chunk), z.split(chunk), strict=True)])

    q = model.posterior(x)
    draws = [q.rsample(generator=generator) for _ in range(samples)]
    decoded = torch.cat([model.decode(z) for z in q.mean.split(chunk)])
    reconstruction = torch.stack([-log_likelihood(z) for z in draws]).mean(0)
    kl = torch.stack([q.log_prob(z) - model.log_prior(z) for z in draws]).mean(0)
    return {
        "mse": (x - decoded).square().flatten(1).mean(1),
        "reconstruction": reconstruction,
        "kl": kl,
        "negative_elbo": reconstruction + kl,
        "mean_norm": q.mean.norm(dim=1),
        "sigma": q.stddev.mean(1),
    }


def _to_normal(fit: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    knots = [np.unique(column, return_index=True) for column in fit.T]
    values = norm.ppf((rankdata(fit, axis=0) - 0.5) / len(fit))  # equal inliers share their mean rank

    def normal(x: np.ndarray) -> np.ndarray:
        inner = [np.interp(x[:, j], knot, values[rows, j]) for j, (knot, rows) in enumerate(knots)]
        return np.stack(inner, 1) + _beyond(x, fit.min(0), fit.max(0), fit.std(0))

    return normal


def _counts(ordered: np.ndarray, x: np.ndarray, side: str) -> np.ndarray:
    columns = zip(ordered.T, x.T, strict=True)
    return np.stack([np.searchsorted(column, values, side=side) for column, values in columns], 1)


def _beyond(x: np.ndarray, low: np.ndarray, high: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """How far x lies outside [low, high], with its sign, in units of `scale`."""
    return (x - x.clip(low, high)) / scale


def _ordered(inside, outside) -> tuple[np.ndarray, np.ndarray]:
    return np.sort(_scores(inside, "inside")), np.sort(_scores(outside, "outside"))


def _scores(values, name: str) -> np.ndarray:
    scores = np.asarray(values.detach().cpu().double() if isinstance(values, Tensor) else values, dtype=np.float64)
    if scores.ndim != 1 or len(scores) == 0:
        raise ValueError(f"{name}: one score for each image, (N,), N ≥ 1, expected, got shape {scores.shape}")
    if (bad := np.isnan(scores)).any():
        raise ValueError(f"{name}: numbers expected, got {bad.sum()} NaN of {len(scores)}, first at {bad.argmax()}")
    return scores


def _inliers(inliers: Tensor) -> np.ndarray:
    check_latents(inliers, "inliers")
    fit = inliers.detach().cpu().double().numpy()
    if len(fit) <= fit.shape[1] + 1:
        raise ValueError(f"inliers: many more rows than features expected, (N, F), got shape {fit.shape}")
    if (constant := np.ptp(fit, axis=0) <= 1e-6 * abs(fit).max(0)).any():  # what varies is float32's rounding
        raise ValueError(f"inliers: feature(s) {np.flatnonzero(constant).tolist()} are constant; leave them out")
    return fit


def _same_features(features: Tensor, fit: np.ndarray) -> np.ndarray:
    check_latents(features, "features")
    if features.shape[1] != fit.shape[1]:
        raise ValueError(f"features: the {fit.shape[1]} of the inliers expected, got shape {tuple(features.shape)}")
    return features.detach().cpu().double().numpy()


def _check_model_and_images(model: LatentModel, x: Tensor, **counts: int) -> None:
    check_model(model)
    check_images(x)
    check_counts(**counts)
