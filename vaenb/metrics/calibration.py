"""Is a classifier's confidence calibrated, and can a VAE's signals repair it? Document 000's open question.

With p (N, K) the softmax of the logits l, c = max_k p_k and B_b the images whose c is in (b − 1, b]/B:

    Brier = mean Σ_k (p_k − 1[k = y])²        ECE  = Σ_b |B_b|/N · |accuracy(B_b) − mean confidence(B_b)|
    p(x)  = softmax(l / T(x)),  T(x) = softplus(a + w·s(x)),  a and w by validation NLL

ECE with B = 15 and one temperature for all images: Guo et al. 2017 (1706.04599). T(x) from signals s such as the
reconstruction error and the KL is what is added here.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import minimize
from torch import Tensor

from vaenb.checks import (
    check_batch,
    check_counts,
    check_labels,
    check_logits,
    check_number,
    check_probabilities,
    check_shape,
    check_vector,
)
from vaenb.precision import widened
from vaenb.stats import wilson

_RANGE = (1e-2, 1e2)  # of T at the mean of the signals
_STEEPEST = 100.0  # of |w_j|, per standard deviation of a signal
_FLOOR = 1e-3  # of T(x), where softplus would underflow to 0


def brier(probabilities: Tensor, labels: Tensor) -> Tensor:
    """Compute the Brier score of each image, Σ_k (p_k − 1[k = y])²: (N,) in [0, 2], lower is better."""
    check_probabilities(probabilities, labels)
    p = widened(probabilities.detach())
    truth = F.one_hot(labels.long(), p.shape[1]).to(p)
    return (p - truth).square().sum(1)


def ece(probabilities: Tensor, labels: Tensor, *, bins: int = 15) -> float:
    """Compute the expected calibration error of the predicted label, in [0, 1], over `bins` equal bins (a, b].

    For a calibrated classifier it is not 0, but up to about ½ √(bins/N): compare at equal N.
    """
    check_counts(bins=bins)
    found = reliability(probabilities, labels, bins=bins)
    gaps = (found.accuracy - found.confidence).abs() * found.count
    return gaps.nansum().item() / len(labels)  # NaN: an empty bin


@dataclass(frozen=True, eq=False)
class Reliability:
    """A reliability diagram of B bins; an empty bin has count 0 and NaN elsewhere."""

    edges: Tensor  # (B + 1,) from 0 to 1
    confidence: Tensor  # (B,), mean
    accuracy: Tensor  # (B,)
    count: Tensor  # (B,), whole numbers
    low: Tensor  # (B,), Wilson's 95 % interval of the accuracy
    high: Tensor  # (B,)


def reliability(probabilities: Tensor, labels: Tensor, *, bins: int = 15) -> Reliability:
    """Compare accuracy with mean confidence in the bins (a, b] of `ece`."""
    check_counts(bins=bins)
    confidence, correct = _top(probabilities, labels)
    edges, index = _bins(confidence, bins)
    n = torch.bincount(index, minlength=bins)
    k = torch.bincount(index, correct, minlength=bins)
    low, high = wilson(k, n)
    return Reliability(
        edges=edges,
        confidence=torch.bincount(index, confidence, minlength=bins) / n,
        accuracy=k / n,
        count=n,
        low=low,
        high=high,
    )


@dataclass(frozen=True, eq=False)
class Binned:
    """Means in B bins of confidence: NaN in an empty bin, and no standard error for a single image."""

    edges: Tensor  # (B + 1,) from 0 to 1
    mean: Tensor  # (B,)
    count: Tensor  # (B,), whole numbers
    error: Tensor  # (B,), standard error of the mean


def binned(values: Tensor, confidence: Tensor, *, bins: int = 20) -> Binned:
    """Average `values` (N,) in equal bins (a, b] of `confidence` (N,) in [0, 1]: document 000's experiment B."""
    check_counts(bins=bins)
    values = check_vector(values, "values")
    confidence = check_vector(confidence, "confidence", len(values))
    for extreme in confidence.aminmax():
        check_number("confidence", extreme.item(), "[0, 1]", least=0, most=1 + 1e-6)
    edges, index = _bins(confidence.clamp_max(1), bins)
    count = torch.bincount(index, minlength=bins)
    mean = torch.bincount(index, values, minlength=bins) / count
    squares = torch.bincount(index, (values - mean[index]).square(), minlength=bins)
    return Binned(edges, mean, count, error=(squares / (count - 1) / count).sqrt())


@dataclass(frozen=True, eq=False)
class Temperature:
    """T(x) = max(softplus(a + w·s(x)), 0.001) with signals s standardised as on the validation set; F may be 0."""

    a: float
    w: Tensor  # (F,), per standard deviation
    mean: Tensor  # (F,)
    deviation: Tensor  # (F,), inf for a signal that was constant, so that it has no influence

    def temperature(self, signals: Tensor | None = None) -> Tensor:
        """Evaluate T for signals (N, F): (N,); without signals, the one for all images: ()."""
        if signals is None and len(self.w):
            raise ValueError(
                f"signals: (N, {len(self.w)}) expected, as this temperature was fitted with them; got None"
            )
        if signals is None:
            signals = self.mean
        check_shape(signals, "signals", (*signals.shape[:-1], len(self.w)), "those of the fit")
        home = signals.device
        standardised = (signals.double() - self.mean.to(home)) / self.deviation.to(home)
        return F.softplus(self.a + standardised @ self.w.to(home)).clamp_min(_FLOOR)

    def probabilities(self, logits: Tensor, signals: Tensor | None = None) -> Tensor:
        """Compute softmax(logits / T) (N, K), in float32 at least; the predicted labels stay what they are."""
        check_logits(logits, len(logits), "logits")
        t = self.temperature(signals).to(logits.device)
        if signals is not None:
            check_shape(t, "signals", (len(logits),), "a row for each of the logits")
        return (logits.double() / t.view(-1, 1)).softmax(1).to(widened(logits).dtype)


@torch.inference_mode(False)  # a gradient may pass through the result later
def fit_temperature(logits: Tensor, labels: Tensor, signals: Tensor | None = None) -> Temperature:
    """Fit T(x) to a validation set by its mean NLL: logits (N, K), labels (N,), signals (N, F), or one T without them.

    The fit with signals starts from the one T, so that its validation NLL is never higher; it may be a local minimum.
    Skewed signals fit better by their logarithm. Where all images are classified correctly (T → 0), confidence says
    nothing (T → ∞) or a signal tells the errors (|w| → ∞) the NLL has no minimum: T at the mean signals stays in
    [0.01, 100] and each |w| below 100.
    """
    check_logits(logits, len(logits), "logits")
    check_labels(labels, *logits.shape)
    logits, labels = logits.detach().double().cpu(), labels.long().cpu()
    gaps = logits - logits.gather(1, labels[:, None])  # to the true class's logit: NLL = log Σ_k exp(gap_k / T)
    none = logits.new_empty(0)
    one = _minimise(gaps, logits.new_empty(len(logits), 0), np.array([_inverse_softplus(1)]))
    if signals is None:
        return Temperature(one.item(), w=none, mean=none, deviation=none)
    check_batch(signals, "signals", dims=2, shape="signals (N, F)")
    check_shape(signals, "signals", (len(logits), signals.shape[1]), "a row for each of the logits")
    signals = signals.detach().double().cpu()
    mean, constant = signals.mean(0), signals.amax(0) == signals.amin(0)
    deviation = signals.std(0, correction=0).masked_fill(constant, math.inf)
    start = np.append(one, np.zeros(signals.shape[1]))
    a, *w = _minimise(gaps, (signals - mean) / deviation, start).tolist()
    return Temperature(a, torch.tensor(w, dtype=torch.float64), mean, deviation)


def _minimise(gaps: Tensor, s: Tensor, start: np.ndarray) -> np.ndarray:
    """Minimise the mean NLL of gaps (N, K), with standardised signals s (N, F), over (a, w), downhill from `start`."""

    def objective(values: np.ndarray) -> tuple[float, np.ndarray]:
        theta = torch.from_numpy(values.copy())
        u = theta[0] + s @ theta[1:]
        t = F.softplus(u).clamp_min(_FLOOR)
        scaled = gaps / t[:, None]
        by_t = -(scaled.softmax(1) * scaled).sum(1) / t  # dNLL/dt of each
        t_by_u = u.sigmoid() * (t > _FLOOR)
        slope = by_t * t_by_u / len(t)
        gradient = torch.cat([slope.sum()[None], slope @ s])
        return scaled.logsumexp(1).mean().item(), gradient.numpy()

    coldest, hottest = _RANGE
    bounds = [(_inverse_softplus(coldest), _inverse_softplus(hottest))]
    bounds += [(-_STEEPEST, _STEEPEST)] * s.shape[1]
    tight = {"ftol": 1e-14, "gtol": 1e-9}
    return minimize(objective, start, jac=True, method="L-BFGS-B", bounds=bounds, options=tight).x


def _inverse_softplus(t: float) -> float:
    return math.log(math.expm1(t))


def _top(probabilities: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Confidence of the predicted label, at most 1, and 1 where it is right: both (N,), float64."""
    check_probabilities(probabilities, labels)
    confidence, predicted = probabilities.detach().double().cpu().max(1)
    return confidence.clamp_max(1), (predicted == labels.cpu()).double()


def _bins(confidence: Tensor, bins: int) -> tuple[Tensor, Tensor]:
    """The edges (B + 1,) of equal bins (a, b], and the bin of each confidence (N,)."""
    edges = torch.linspace(0, 1, int(bins) + 1, dtype=torch.float64)
    return edges, (torch.bucketize(confidence, edges) - 1).clamp_min(0)
