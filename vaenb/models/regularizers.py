"""What makes an autoencoder generative: the second term of the training loss.

A regulariser is called with the posterior of a batch, a sample z from it and the generator, and returns the penalty
in nats per image (a scalar) and the statistics worth watching. `beta` is its weight, document 001's λ. With z the
codes of the batch and p = N(0, I):

    KL                β KL[q(z|x) ‖ p]
    MMD               β MMD²_u(z, z̃), z̃ ~ p
    ShapiroWilk       β mean_j (1 − W_j), W_j the statistic of Shapiro and Wilk of latent dimension j
    TotalCorrelation  I_q(x; z) + β KL[q(z) ‖ Π_j q(z_j)] + Σ_j KL[q(z_j) ‖ p(z_j)], with q(z) = (1/N) Σ_n q(z|x_n)
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from numbers import Integral

import numpy as np
import torch
from torch import Tensor

from vaenb.checks import check_choice, check_latents, check_number, check_whole
from vaenb.contract import NotDefined, Posterior
from vaenb.distributions import DiagonalGaussian, randn_like, standard_normal
from vaenb.precision import no_autocast

ESTIMATORS = ("mss", "mss_published", "mws", "exact")
_SCALES = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
_LAST = (-2.706056, 4.434685, -2.07119, -0.147981, 0.221157, 0.0)  # Royston's polynomials in 1/√n
_NEXT_TO_LAST = (-3.582633, 5.682633, -1.752461, -0.293762, 0.042981, 0.0)
_DRAWS = 64  # compared with the posterior's rows at a time


Penalty = tuple[Tensor, dict[str, Tensor]]  # in nats per image, a scalar; and the statistics
Regularizer = Callable[[Posterior, Tensor, torch.Generator | None], Penalty]


@dataclass(frozen=True)
class _Weighted:
    beta: float = 1.0

    def __post_init__(self) -> None:
        check_number("beta", self.beta, "a finite weight ≥ 0", least=0)


@dataclass(frozen=True)
class KL(_Weighted):
    """β·KL[q(z|x) ‖ N(0, I)], averaged over the batch (β = 1: Kingma and Welling 2014; β-VAE: Higgins et al. 2017)."""

    def __call__(self, posterior: Posterior, z: Tensor, generator: torch.Generator | None = None) -> Penalty:
        kl = posterior.kl(standard_normal(z)).mean()
        return self.beta * kl, {"kl": kl}


@dataclass(frozen=True)
class MMD(_Weighted):
    """β·MMD² between the batch's codes and as many draws from N(0, I) (Tolstikhin et al. 2018; document 001)."""

    def __call__(self, posterior: Posterior, z: Tensor, generator: torch.Generator | None = None) -> Penalty:
        distance = mmd(z, randn_like(z, generator))
        return self.beta * distance, {"mmd": distance}


@dataclass(frozen=True)
class ShapiroWilk(_Weighted):
    """β·mean(1 − W) over the latent dimensions and `projections` random directions (document 001's SWT).

    W ignores mean and scale: where the codes lie and how wide they spread stays free, so always report their spread.
    W per dimension also ignores how the dimensions depend on each other; random directions, drawn anew for every
    batch, see that. Of Gaussian codes 1 − W is about .02 in a batch of 64, not 0.
    """

    projections: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole("projections", self.projections, least=0)

    def __call__(self, posterior: Posterior, z: Tensor, generator: torch.Generator | None = None) -> Penalty:
        views = z
        if self.projections:
            directions = randn_like(z.new_empty(z.shape[1], self.projections), generator)
            views = torch.cat([z, z @ torch.nn.functional.normalize(directions, dim=0)], dim=1)
        gap = (1 - shapiro_wilk(views)).mean()
        return self.beta * gap, {"one_minus_w": gap}


@dataclass(frozen=True)
class TotalCorrelation:
    """The KL term taken apart, with β on the total correlation alone (β-TCVAE, Chen et al. 2018).

    `size` is N, the number of training images. The estimator is mss, which is biased at the batch size one trains with,
    see `decomposed_kl`. At β = 1 the three terms add up to log q(z|x) − log p(z).
    """

    size: int
    beta: float = 1.0

    def __post_init__(self) -> None:
        check_number("beta", self.beta, "a finite weight ≥ 0", least=0)
        check_whole("size", self.size, least=2)

    def __call__(self, posterior: Posterior, z: Tensor, generator: torch.Generator | None = None) -> Penalty:
        terms = decomposed_kl(posterior, z, size=self.size)
        information, tc, dimensions = (term.mean() for term in terms)
        penalty = information + self.beta * tc + dimensions
        return penalty, {"mutual_information": information, "tc": tc, "dimension_kl": dimensions}


@no_autocast
def mmd(a: Tensor, b: Tensor) -> Tensor:
    """Estimate MMD² between the laws of a (n, D) and b (m, D) without bias, so that it can be negative: a scalar.

    The kernel is Σ_s C_s / (C_s + ‖·‖²) with C_s = 2D·{.1, .2, .5, 1, 2, 5, 10}, the multi-scale inverse multiquadratic
    of Tolstikhin et al. (2018), for a prior of unit variance. Raises ValueError for fewer than two rows.
    """
    for name, rows in (("a", a), ("b", b)):
        check_latents(rows, name)
        if len(rows) < 2 or rows.shape[1] != a.shape[1]:
            raise ValueError(f"{name}: at least two rows of {a.shape[1]} numbers expected, got {tuple(rows.shape)}")
    centre = torch.cat([a, b]).mean(0).detach()  # it does not matter, but keeps the digits of distances far from 0
    a, b = a - centre, b - centre
    return _among(a) + _among(b) - 2 * _imq(a, b).mean()


@no_autocast
def shapiro_wilk(z: Tensor) -> Tensor:
    """Compute W of every column of z (B, D), in (0, 1], 1 for the shape of a Gaussian sample: (D,), differentiable.

    The weights are Royston's (1992; AS R94), as in scipy.stats.shapiro. Raises ValueError for fewer than three rows,
    and for a constant column, of which W is not defined.
    """
    check_latents(z)
    if len(z) < 3:
        raise ValueError(f"z: W needs a batch of at least 3 codes, got {len(z)}")
    ordered = z.sort(dim=0).values
    extent = ordered[-1] - ordered[0]
    flat = ordered[-1] == ordered[0]
    if flat.any():
        raise ValueError(
            f"z: latent dimension(s) {flat.nonzero().flatten().tolist()[:5]} are constant over the batch, and W is not "
            "defined; the model does not use them: lower latent_dim, or the regulariser's weight"
        )
    weights = torch.tensor(_royston(len(z)), dtype=z.dtype, device=z.device)
    # (Σ a_i z_(i))² / Σ (z_i − z̄)²; the centre does not matter above, as Σ a_i = 0, but keeps the digits, and the
    # extent does not matter at all, but keeps the squares of tiny and huge codes from being 0 and inf
    centred = (ordered - ordered.mean(0)) / extent.detach()
    return (weights @ centred) ** 2 / (centred**2).sum(0)


def decomposed_kl(
    posterior: Posterior, z: Tensor, *, size: int | None = None, estimator: str = "mss"
) -> tuple[Tensor, Tensor, Tensor]:
    """Split log q(z|x) − log p(z) into log q(z|x)/q(z), log q(z)/Π_j q(z_j) and log Π_j q(z_j)/p(z_j): (M,) each.

    Their means estimate I_q(x; z), the total correlation and the dimension-wise KL, in nats (Chen et al. 2018). z
    (M, D) holds a draw of each of the first M rows of the posterior; q(z) = (1/N) Σ_n q(z|x_n) runs over N = `size`
    images, of which the posterior's B rows are a sample:

        exact          all N rows are given
        mss            minibatch-stratified sampling: weight 1/N on the image's own row, (N − M)/(NM) on one other row,
                       1/M on the rest, with M = B − 1: unbiased for q(z), so too low for log q(z)
        mss_published  its widely copied code, which has the first two weights in the first two columns instead
        mws            minibatch-weighted sampling, 1/(NB) on all rows: the total correlation is off by about
                       (D − 1) log N, which is constant

    All of them need many rows near z. In batches of 64 (D = 8, N = 4096) mss puts the total correlation .7 too low for
    posteriors of σ = .5, and 1.4 too high at σ = .1, where only the own row counts. Of narrow posteriors even `exact`
    exceeds that of the law the images come from: it is that of N separate bumps.
    """
    if not isinstance(posterior, DiagonalGaussian):
        raise NotDefined(f"the total correlation needs a Gaussian posterior, got a {type(posterior).__name__}")
    check_latents(z)
    rows, dims = posterior.mean.shape
    drawn = len(z) <= rows if estimator == "exact" else len(z) == rows >= 2
    if not drawn or z.shape[1] != dims:
        raise ValueError(f"z: a draw of each of the posterior's rows, at least 2, {rows, dims}, got {tuple(z.shape)}")
    weights = _log_weights(rows, len(z), size, estimator).to(z)
    joint, each = [], []
    for draws, w in zip(z.split(_DRAWS), weights.split(_DRAWS), strict=True):
        squares = (draws[:, None] - posterior.mean) ** 2 * (-posterior.logvar).exp()
        pairs = -0.5 * (squares + posterior.logvar + math.log(2 * math.pi))  # (_DRAWS, B, D)
        joint.append((pairs.sum(2) + w).logsumexp(1))
        each.append((pairs + w[..., None]).logsumexp(1).sum(1))
    log_q, log_product = torch.cat(joint), torch.cat(each)
    log_conditional = posterior[: len(z)].log_prob(z)
    log_prior = standard_normal(z).log_prob(z)
    return log_conditional - log_q, log_q - log_product, log_product - log_prior


def _log_weights(rows: int, draws: int, size: int | None, estimator: str) -> Tensor:
    """The weight of every posterior in the estimate of q(z_i): (draws, rows), or (draws, 1) where all are equal."""
    check_choice("estimator", estimator, ESTIMATORS)
    if estimator == "exact":
        return torch.full((draws, 1), -math.log(rows))
    if not isinstance(size, Integral) or size < rows:
        raise ValueError(f"size: the number of training images, at least the batch's {rows}, expected, got {size!r}")
    if estimator == "mws":
        return torch.full((draws, 1), -math.log(size * rows))
    others = rows - 1
    own, one_other = 1 / size, (size - others) / (size * others)
    weights = torch.full((rows, rows), 1 / others)
    if estimator == "mss":
        i = torch.arange(rows)
        weights[i, i], weights[i, (i + 1) % rows] = own, one_other
    else:
        weights[:, 0], weights[:, 1] = own, one_other
        weights[-2, 0] = one_other
    return weights.log()


def _among(x: Tensor) -> Tensor:
    """The kernel's mean over all pairs of different rows."""
    kernel = _imq(x, x)
    return (kernel.sum() - kernel.trace()) / (len(x) * (len(x) - 1))


def _imq(a: Tensor, b: Tensor) -> Tensor:
    """The multi-scale kernel of all pairs, summed over the scales: (n, m)."""
    squares = (a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * a @ b.T
    scales = 2 * a.shape[1] * torch.tensor(_SCALES, dtype=a.dtype, device=a.device)
    scales = scales[:, None, None]  # (S, 1, 1)
    return (scales / (scales + squares.clamp_min(0))).sum(0)


@cache
def _royston(n: int) -> tuple[float, ...]:
    """The n weights of Shapiro and Wilk's W: normal scores, the last one or two corrected by a polynomial."""
    if n == 3:
        return (-(0.5**0.5), 0.0, 0.5**0.5)
    m = torch.special.ndtri((torch.arange(1, n + 1, dtype=torch.float64) - 0.375) / (n + 0.25))
    square, u = (m**2).sum(), n**-0.5
    corrected = [m[-1] / square.sqrt() + np.polyval(_LAST, u)]
    if n > 5:
        corrected.append(m[-2] / square.sqrt() + np.polyval(_NEXT_TO_LAST, u))
    ends = torch.stack(corrected)
    k = len(ends)
    left = (square - 2 * (m[-k:] ** 2).sum()) / (1 - 2 * (ends**2).sum())
    a = m / left.sqrt()
    a[-k:], a[:k] = ends.flip(0), -ends
    return tuple(a.tolist())
