"""Is a classifier's confidence calibrated, and can a VAE's signals repair it? Document 000's open question.

With p (N, K) the softmax of the logits l, c = max_k p_k and B_b the images whose c is in (b − 1, b]/B:

    Brier = mean Σ_k (p_k − 1[k = y])²        ECE  = Σ_b |B_b|/N · |accuracy(B_b) − mean confidence(B_b)|
    AURC  = mean over k = 1 … N of the error rate of the k images with the highest confidence
    p(x)  = softmax(l / T(x)),  T(x) = softplus(a + w·s(x)),  a and w by validation NLL

ECE with B = 15 and one temperature for all images: Guo et al. 2017 (1706.04599). AURC: Geifman & El-Yaniv 2017
(1705.08500). T(x) from signals s such as the
reconstruction error and the KL is what is added here.
"""

import math
from dataclasses import dataclass
from numbers import Integral

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import minimize
from torch import Tensor
from torchmetrics.functional.classification import binary_calibration_error

from vaenb.checks import check_batch, check_labels

_Z = 1.959964  # 97.5 % of N(0, 1) lie below
_RANGE = (1e-2, 1e2)  # of T at the mean of the signals
_STEEPEST = 100.0  # of |w_j|, per standard deviation of a signal
_FLOOR = 1e-3  # of T(x), where softplus would underflow to 0


def brier(probabilities: Tensor, labels: Tensor) -> Tensor:
    """Compute the Brier score of each image, Σ_k (p_k − 1[k = y])²: (N,) in [0, 2], lower is better.

    For two classes it is twice the score of the one probability that is often reported.
    """
    _check_probabilities(probabilities, labels)
    truth = F.one_hot(labels.long(), probabilities.shape[1]).to(probabilities)
    return (probabilities.detach() - truth).square().sum(1)


def ece(probabilities: Tensor, labels: Tensor, *, bins: int = 15) -> float:
    """Compute the expected calibration error of the predicted label, in [0, 1], over `bins` equal bins (a, b].

    Its expectation is not 0 for a calibrated classifier, but up to about ½ √(bins/N): compare at equal N.
    """
    confidence, correct = _top(probabilities, labels)
    # torchmetrics has bins [a, b) and a bin of its own for exactly 1, where a float32 softmax often ends; one float
    # lower, its bins are ours. Above 1 by rounding it would take all for logits, so `_top` clamps. Its multiclass
    # function is the same, after the argmax, but goes back to float32.
    below = torch.nextafter(confidence, torch.zeros_like(confidence))
    return binary_calibration_error(below, correct.long(), n_bins=_whole(bins)).item()


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
    confidence, correct = _top(probabilities, labels)
    edges, index = _bins(confidence, bins)
    n, k = torch.bincount(index, minlength=bins), torch.bincount(index, correct, minlength=bins)
    middle = (k + _Z**2 / 2) / (n + _Z**2)
    half = _Z / (n + _Z**2) * (k * (n - k) / n + _Z**2 / 4).sqrt()  # 0/0 = NaN in an empty bin
    mean = torch.bincount(index, confidence, minlength=bins) / n
    return Reliability(edges, mean, k / n, n, (middle - half).clamp_min(0), (middle + half).clamp_max(1))


@dataclass(frozen=True, eq=False)
class Binned:
    """Means in B bins of confidence: NaN in an empty bin, and no standard error for a single image."""

    edges: Tensor  # (B + 1,) from 0 to 1
    mean: Tensor  # (B,)
    count: Tensor  # (B,), whole numbers
    error: Tensor  # (B,), standard error of the mean


def binned(values: Tensor, confidence: Tensor, *, bins: int = 20) -> Binned:
    """Average `values` (N,) in equal bins (a, b] of `confidence` (N,) in [0, 1]: document 000's experiment B.

    There the values are the reconstruction's MSE and the confidence is max softmax. A confidence of 0 is in the first
    bin.
    """
    values = _vector(values, "values")
    confidence = _vector(confidence, "confidence", len(values))
    if confidence.min() < 0 or confidence.max() > 1 + 1e-6:
        raise ValueError(f"confidence: [0, 1] expected, got {confidence.min():.4g} to {confidence.max():.4g}")
    edges, index = _bins(confidence.clamp_max(1), bins)
    count = torch.bincount(index, minlength=bins)
    mean = torch.bincount(index, values, minlength=bins) / count
    squares = torch.bincount(index, (values - mean[index]).square(), minlength=bins)
    return Binned(edges, mean, count, (squares / (count - 1) / count).sqrt())


def risk_coverage(confidence: Tensor, errors: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the error rate among the k images of highest confidence, k = 1 … N: coverage k/N and risk, both (N,).

    `confidence` (N,) is any score, higher for surer; `errors` (N,) is 1 or True where the label is wrong, or any loss.
    Among images of equal confidence every order is equally likely, and the risk is the expected one.
    """
    confidence = _vector(confidence, "confidence")
    errors = _vector(errors, "errors", len(confidence))
    _, group, size = confidence.unique(return_inverse=True, return_counts=True)  # from the lowest
    expected = (torch.bincount(group, errors) / size).flip(0).repeat_interleave(size.flip(0))
    k = torch.arange(1, len(errors) + 1)
    return k / len(errors), expected.cumsum(0) / k


def aurc(confidence: Tensor, errors: Tensor) -> float:
    """Compute the area under `risk_coverage`, lower is better; a confidence that says nothing has the error rate."""
    return risk_coverage(confidence, errors)[1].mean().item()


@dataclass(frozen=True, eq=False)
class Temperature:
    """T(x) = max(softplus(a + w·s(x)), 0.001) with signals s standardised as on the validation set; F may be 0.

    Far outside the validation set's signals, T grows linearly or falls to the floor: it is extrapolated.
    """

    a: float
    w: Tensor  # (F,), per standard deviation
    mean: Tensor  # (F,)
    deviation: Tensor  # (F,), inf for a signal that was constant, so that it has no influence

    def temperature(self, signals: Tensor | None = None) -> Tensor:
        """Evaluate T for signals (N, F): (N,); without signals, the one for all images: ()."""
        if signals is not None:
            check_batch(signals, "signals", dims=2, shape="signals (N, F)")
        count = 0 if signals is None else signals.shape[1]
        if count != len(self.w):
            raise ValueError(f"signals: the {len(self.w)} of the fit expected, got {count}")
        signals = self.mean if signals is None else signals  # all of them empty
        w, mean, deviation = (v.to(signals.device) for v in (self.w, self.mean, self.deviation))
        return F.softplus(self.a + (signals.double() - mean) / deviation @ w).clamp_min(_FLOOR)

    def probabilities(self, logits: Tensor, signals: Tensor | None = None) -> Tensor:
        """Compute softmax(logits / T) (N, K) in the dtype of the logits; the predicted labels stay what they are."""
        _check_logits(logits)
        t = self.temperature(signals).to(logits.device)
        if t.ndim and len(t) != len(logits):
            raise ValueError(f"signals: a row for each of the {len(logits)} images expected, got {len(t)} rows")
        return (logits.double() / t.view(-1, 1)).softmax(1).to(logits.dtype)


@torch.inference_mode(False)  # a gradient may pass through the result later
def fit_temperature(logits: Tensor, labels: Tensor, signals: Tensor | None = None) -> Temperature:
    """Fit T(x) to a validation set by its mean NLL: logits (N, K), labels (N,), signals (N, F), or one T without them.

    The fit with signals starts from the one T, so that its validation NLL is never higher; it may be a local minimum.
    Skewed signals fit better by their logarithm. Where every image is classified correctly the NLL has no minimum
    (T → 0), and neither where confidence says nothing (T → ∞), or where a signal tells the errors (|w| → ∞): so T at
    the mean signals stays in [0.01, 100] and each |w| below 100.
    """
    _check_logits(logits)
    check_labels(labels, *logits.shape)
    logits, labels = logits.detach().double().cpu(), labels.long().cpu()
    gaps = logits - logits.gather(1, labels[:, None])  # to the true class's logit: NLL = log Σ_k exp(gap_k / T)
    a = _minimise(gaps, logits.new_empty(len(logits), 0), np.array([math.log(math.expm1(1))]))
    if signals is None:
        return Temperature(a.item(), *logits.new_empty(3, 0))
    check_batch(signals, "signals", dims=2, shape="signals (N, F)")
    if len(signals) != len(logits):
        raise ValueError(f"signals: a row for each of the {len(logits)} images expected, got {tuple(signals.shape)}")
    signals = signals.detach().double().cpu()
    mean, constant = signals.mean(0), signals.amax(0) == signals.amin(0)
    deviation = signals.std(0, correction=0).masked_fill(constant, math.inf)
    a, *w = _minimise(gaps, (signals - mean) / deviation, np.append(a, np.zeros(signals.shape[1]))).tolist()
    return Temperature(a, torch.tensor(w, dtype=torch.float64), mean, deviation)


def _minimise(gaps: Tensor, s: Tensor, start: np.ndarray) -> np.ndarray:
    """Minimise the mean NLL of gaps (N, K), with standardised signals s (N, F), over (a, w), downhill from `start`."""

    def objective(theta: np.ndarray) -> tuple[float, np.ndarray]:
        theta = torch.from_numpy(theta.copy())
        u = theta[0] + s @ theta[1:]
        t = F.softplus(u).clamp_min(_FLOOR)
        scaled = gaps / t[:, None]
        slope = -(scaled.softmax(1) * scaled).sum(1) / t * u.sigmoid() * (t > _FLOOR) / len(t)  # dNLL/du
        return scaled.logsumexp(1).mean().item(), torch.cat([slope.sum()[None], slope @ s]).numpy()

    bounds = [tuple(math.log(math.expm1(t)) for t in _RANGE), *[(-_STEEPEST, _STEEPEST)] * s.shape[1]]
    tight = {"ftol": 1e-14, "gtol": 1e-9}
    return minimize(objective, start, jac=True, method="L-BFGS-B", bounds=bounds, options=tight).x


def _top(probabilities: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Confidence of the predicted label, at most 1, and 1 where it is right: both (N,), float64."""
    _check_probabilities(probabilities, labels)
    confidence, predicted = probabilities.detach().double().cpu().max(1)
    return confidence.clamp_max(1), (predicted == labels.cpu()).double()


def _bins(confidence: Tensor, bins: int) -> tuple[Tensor, Tensor]:
    """The edges (B + 1,) of equal bins (a, b], and the bin of each confidence (N,)."""
    edges = torch.linspace(0, 1, _whole(bins) + 1, dtype=torch.float64)
    return edges, (torch.bucketize(confidence, edges) - 1).clamp_min(0)


def _whole(bins: int) -> int:
    if not isinstance(bins, Integral) or bins < 1:
        raise ValueError(f"bins: a whole number ≥ 1 expected, got {bins!r}")
    return int(bins)


def _vector(x: Tensor, name: str, count: int | None = None) -> Tensor:
    if not isinstance(x, Tensor):
        raise TypeError(f"{name}: a torch tensor (N,) expected, got {type(x).__name__}")
    if x.ndim != 1 or len(x) != (len(x) if count is None else count) or not len(x):
        raise ValueError(f"{name}: one number for each image, ({count or 'N'},), expected, got shape {tuple(x.shape)}")
    if not x.isfinite().all():
        raise ValueError(f"{name}: NaN or infinite values at {(~x.isfinite()).nonzero().flatten().tolist()[:5]}")
    return x.detach().double().cpu()


def _check_logits(logits: Tensor) -> None:
    _check_rows(logits, "logits")
    if logits.min() >= 0 and (logits.sum(1) - 1).abs().max() < 1e-4:
        raise ValueError("logits: these look like probabilities; pass the values before the softmax")


def _check_probabilities(probabilities: Tensor, labels: Tensor) -> None:
    _check_rows(probabilities, "probabilities")
    low, off = probabilities.min(), (probabilities.double().sum(1) - 1).abs().max()
    if low < -1e-4 or off > 1e-4:
        raise ValueError(
            f"probabilities: rows in [0, 1] that sum to 1 expected, got values from {low:.4g} and sums up to {off:.4g} "
            "away from 1; these look like logits, use .float().softmax(1)"
        )
    check_labels(labels, *probabilities.shape)


def _check_rows(x: Tensor, name: str) -> None:
    check_batch(x, name, dims=2, shape=f"{name} (N, K)")
    if x.shape[1] < 2:
        raise ValueError(f"{name}: at least two classes, (N, K), expected, got shape {tuple(x.shape)}")
