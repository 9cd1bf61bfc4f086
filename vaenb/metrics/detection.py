"""Scores that tell images a model does not know, or that were attacked: larger is more suspicious, for all of them.

`signals` gives what a VAE has to say of an image. `likelihood_path` keeps ‖x − x̂‖, ‖μ‖ and ‖σ‖ apart, where their sum
in the ELBO lets them cancel (LPath: Huang et al., 2024, 2401.04933), and `mahalanobis`, fitted on inliers, joins them.
`auroc` judges a score.
"""

from collections.abc import Callable

import numpy as np
import torch
from scipy.stats import norm, rankdata
from sklearn.covariance import EmpiricalCovariance
from torch import Tensor

from vaenb.checks import check_features, check_model_and_images
from vaenb.contract import LatentModel
from vaenb.metrics.blocks import BLOCK, in_blocks
from vaenb.precision import no_autocast, widened

Score = Callable[[Tensor], Tensor]
"""score(features) -> (M,): how suspicious each row of features (M, F) is, float64."""


def auroc(inside, outside) -> float:
    """The probability that a score of `outside` exceeds one of `inside`, ties counted one half: 1 is perfect.

    Both are raw scores, (N,) and (M,), tensors or arrays; ±inf is a score like any other, NaN is refused. An interval
    over images is `stats.bootstrap(torch.stack([inside, outside], 1), statistic=lambda pairs: auroc(*pairs.T))`.
    """
    a, b = np.sort(_scores(inside, "inside")), np.sort(_scores(outside, "outside"))
    below = np.searchsorted(a, b, side="left").sum()
    not_above = np.searchsorted(a, b, side="right").sum()
    return int(below + not_above) / (2 * len(a) * len(b))  # whole numbers, so exact


@no_autocast
@torch.no_grad()
def signals(
    model: LatentModel, x: Tensor, *, samples: int = 16, generator: torch.Generator | None = None
) -> dict[str, Tensor]:
    """Measure what a model has to say of images x (N, C, H, W), each (N,), by `samples` draws z ~ q(z|x).

        mse             mean over the pixels of (x − x̂)², x̂ the decoded posterior mean, not a draw
        reconstruction  −E_q log p(x|z), nats
        kl              E_q[log q(z|x) − log p(z)], nats; by the draws, so that a hierarchy's is right too
        negative_elbo   the sum of both, nats; by the same draws, so that their noise cancels where q is nearly exact
        mean_norm       ‖μ(x)‖₂
        sigma           mean of σ(x) over the dimensions

    Raises NotDefined for a deterministic autoencoder.
    """
    check_model_and_images(model, x, samples=samples)
    found: dict[str, list[Tensor]] = {}
    for part in x.split(BLOCK):
        for name, values in _signals(model, part, samples, generator).items():
            found.setdefault(name, []).append(values)
    return {name: torch.cat(values) for name, values in found.items()}


@no_autocast
@torch.no_grad()
def likelihood_path(model: LatentModel, x: Tensor) -> Tensor:
    """LPath's statistics of images x (N, C, H, W), ‖x − x̂‖₂, ‖μ(x)‖₂ and ‖σ(x)‖₂, for a detector: (N, 3).

    x̂ is the decoded posterior mean. Those of several models are joined by `torch.cat(…, 1)`.
    """
    check_model_and_images(model, x)

    def statistics(part: Tensor) -> Tensor:
        q = model.posterior(part)
        error = widened(part) - model.decode(q.mean)
        norms = [widened(v).flatten(1).norm(dim=1) for v in (error, q.mean, q.stddev)]
        return torch.stack(norms, 1)

    return in_blocks(statistics, x)


def mahalanobis(inliers: Tensor) -> Score:
    """Fit on features (N, F) of inliers a score: the Mahalanobis distance after each feature is made normal, (M,).

    The inlier of rank r goes to Φ⁻¹((r − ½)/N), and what lies between two inliers to between their values. Beyond the
    last inlier it goes on by one unit for each standard deviation, so that gross outliers differ from slight ones.
    """
    fit = _inliers(inliers)
    normal = _to_normal(fit)
    covariance = EmpiricalCovariance().fit(normal(fit))
    spectrum, axes = np.linalg.eigh(covariance.covariance_)
    if spectrum[0] <= 1e-6 * spectrum[-1]:  # the inliers lie in a plane, and do not tell how far is far from it
        tied = np.flatnonzero(abs(axes[:, 0]) > 0.1).tolist()
        raise ValueError(f"inliers: features {tied} follow from each other; leave one of them out")

    def score(features: Tensor) -> Tensor:
        squared = covariance.mahalanobis(normal(_same_features(features, fit)))
        return torch.from_numpy(squared**0.5).to(features.device)

    return score


def _signals(model: LatentModel, x: Tensor, samples: int, generator: torch.Generator | None) -> dict[str, Tensor]:
    q = model.posterior(x)
    draws = [q.rsample(generator=generator) for _ in range(samples)]
    decoded = model.decode(q.mean)
    errors, divergences = [], []
    for z in draws:
        errors.append(-widened(model.log_likelihood(x, z)))
        divergences.append(widened(q.log_prob(z)) - widened(model.log_prior(z)))
    reconstruction = torch.stack(errors).mean(0)
    kl = torch.stack(divergences).mean(0)
    return {
        "mse": (widened(x) - decoded).square().flatten(1).mean(1),
        "reconstruction": reconstruction,
        "kl": kl,
        "negative_elbo": reconstruction + kl,
        "mean_norm": widened(q.mean).norm(dim=1),
        "sigma": widened(q.stddev).mean(1),
    }


def _to_normal(fit: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    values = norm.ppf((rankdata(fit, axis=0) - 0.5) / len(fit))  # equal inliers share their mean rank

    def normal(x: np.ndarray) -> np.ndarray:
        inner = np.empty_like(x)
        for j, column in enumerate(fit.T):
            knots, rows = np.unique(column, return_index=True)
            inner[:, j] = np.interp(x[:, j], knots, values[rows, j])
        return inner + _beyond(x, fit)

    return normal


def _beyond(x: np.ndarray, fit: np.ndarray) -> np.ndarray:
    """How far x lies outside the range of the inliers, with its sign, in their standard deviations."""
    return (x - x.clip(fit.min(0), fit.max(0))) / fit.std(0)


def _scores(values, name: str) -> np.ndarray:
    if isinstance(values, Tensor):
        values = values.detach().cpu().double()
    scores = np.asarray(values, dtype=np.float64)
    if scores.ndim != 1 or len(scores) == 0:
        raise ValueError(f"{name}: one score for each image, (N,), expected, got {scores.shape}")
    bad = np.isnan(scores)
    if bad.any():
        raise ValueError(f"{name}: numbers expected, got {bad.sum()} NaN, the first at {bad.argmax()}")
    return scores


def _inliers(inliers: Tensor) -> np.ndarray:
    check_features(inliers=inliers)
    fit = inliers.detach().cpu().double().numpy()
    if len(fit) <= fit.shape[1] + 1:
        raise ValueError(f"inliers: many more rows than features expected, got {fit.shape}")
    constant = np.ptp(fit, axis=0) <= 1e-6 * abs(fit).max(0)  # what varies is float32's rounding
    if constant.any():
        raise ValueError(f"inliers: feature(s) {np.flatnonzero(constant).tolist()} are constant; leave them out")
    return fit


def _same_features(features: Tensor, fit: np.ndarray) -> np.ndarray:
    check_features(features=features)
    if features.shape[1] != fit.shape[1]:
        raise ValueError(f"features: the {fit.shape[1]} of the inliers expected, got shape {tuple(features.shape)}")
    return features.detach().cpu().double().numpy()
