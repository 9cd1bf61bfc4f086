"""Pixel likelihoods p(x|z), from a decoder's logits to nats per image.

Values of different families are never comparable: a Bernoulli on grey pixels is neither a density nor a probability,
the continuous Bernoulli and the Gaussians are densities of pixels in [0, 1], the discretised logistic is a probability
of images of 8 bits. A density whose width is learned must see dequantised images, or it grows without bound on pixels
that take few values.

`best_log_prob(x)` is log p(x|·) of a perfect reconstruction, the largest over all logits where that is finite: see the
continuous Bernoulli.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli as _Bernoulli
from torch.distributions import Normal as _Normal
from torch.nn.functional import logsigmoid

from vaenb.checks import check_choice, check_number
from vaenb.distributions import rand_like
from vaenb.precision import widened

_HALF = 0.5 / 255  # half a grey level
_FASTER = 10  # Adam moves every weight about lr a step, and the log of a width has some units to go


def dequantize(x: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Spread each grey level of 8-bit images x (N, C, H, W) evenly over its 1/256 of [0, 1] (Uria et al., 2013)."""
    return (255 * x + rand_like(x, generator)) / 256


class Likelihood:
    """p(x|z) for a decoder's logits (N, C, H, W)."""

    dequantized: ClassVar[bool] = False  # whether it is trained on dequantised images

    def mean(self, logits: Tensor) -> Tensor:
        """The mean image, (N, C, H, W) in [0, 1]."""
        return logits.sigmoid()

    def log_prob(self, x: Tensor, logits: Tensor) -> Tensor:
        """Nats per image (N,), for x (N, C, H, W)."""
        raise NotImplementedError

    def best_log_prob(self, x: Tensor) -> Tensor:
        """Nats of a perfect reconstruction: (N,)."""
        raise NotImplementedError


@dataclass(frozen=True)
class Bernoulli(Likelihood):
    """x log p + (1 − x) log(1 − p) with p = sigmoid(logits), also for grey x in [0, 1], as most VAE papers use it."""

    def log_prob(self, x: Tensor, logits: Tensor) -> Tensor:
        return _Bernoulli(logits=logits, validate_args=False).log_prob(x).flatten(1).sum(1)

    def best_log_prob(self, x: Tensor) -> Tensor:
        """Minus the sum of the pixels' entropies: (N,)."""
        return (torch.xlogy(x, x) + torch.xlogy(1 - x, 1 - x)).flatten(1).sum(1)


@dataclass(frozen=True)
class ContinuousBernoulli(Likelihood):
    """The Bernoulli's shape normalised over x in [0, 1] (Loaiza-Ganem and Cunningham, 2019); its mean is not λ.

    With l = logit λ the density is exp(xl) · l / (e^l − 1) and the mean 1 / (1 − e^−l) − 1 / l, both computed from l:
    torch.distributions clamps λ, and in float32 loses the normaliser and every mean below 1/16 beyond |l| = 16.
    """

    def mean(self, logits: Tensor) -> Tensor:
        return self._mean(widened(logits)).to(logits.dtype)

    def _mean(self, logits: Tensor) -> Tensor:
        near = logits.abs() < 0.1  # the two poles cancel at 0: use the series there
        safe = torch.where(near, torch.ones_like(logits), logits)
        # Beyond e^80 the first pole's part is 0 in float32, and its gradient 0·inf.
        poles = 1 / -torch.expm1(-safe.clamp_min(-80)) - 1 / safe
        return torch.where(near, 0.5 + logits / 12 - logits**3 / 720, poles)

    def log_prob(self, x: Tensor, logits: Tensor) -> Tensor:
        logits = widened(logits)
        size = logits.abs()
        near = size < 0.01
        safe = torch.where(near, torch.ones_like(size), size)
        even = torch.where(near, size**2 / 24, safe / 2 + (-torch.expm1(-safe) / safe).log())
        return ((x - 0.5) * logits - even).flatten(1).sum(1)

    def best_log_prob(self, x: Tensor) -> Tensor:
        """The density where the mean is x, (N,); of black and white, where it is infinite, half a grey level inside."""
        inside = x.detach().double().clamp(_HALF, 1 - _HALF)
        low, high = torch.full_like(inside, -600), torch.full_like(inside, 600)  # the mean rises with the logit
        for _ in range(50):
            middle = (low + high) / 2
            below = self.mean(middle) < inside
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return self.log_prob(inside, (low + high) / 2).to(x.dtype)


@dataclass(frozen=True)
class Gaussian(Likelihood):
    """N(sigmoid(logits), σ²) per pixel. With σ² = ½, −log p is document 001's summed squared error, plus a constant."""

    sigma: float = 0.5**0.5

    def __post_init__(self) -> None:
        check_number("sigma", self.sigma, "a positive standard deviation", above=0)

    def log_prob(self, x: Tensor, logits: Tensor) -> Tensor:
        return _Normal(logits.sigmoid(), self.sigma, validate_args=False).log_prob(x).flatten(1).sum(1)

    def best_log_prob(self, x: Tensor) -> Tensor:
        """The density at the mean, the same for every image: (N,)."""
        return _at_the_mean(x, math.log(self.sigma))


class LearnedGaussian(Likelihood, nn.Module):
    """N(sigmoid(logits), σ²) per pixel with one learned σ for all pixels (σ-VAE: Rybkin et al., 2021).

    It is trained on dequantised images, and is to be measured on them, `elbo(model, dequantize(x, generator))`: log p
    of 8-bit images is then bounded, see `dequantize`.
    """

    dequantized = True

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(-1.0 / _FASTER))

    @property
    def log_sigma(self) -> Tensor:
        return _FASTER * self.weight

    def log_prob(self, x: Tensor, logits: Tensor) -> Tensor:
        return _Normal(logits.sigmoid(), self.log_sigma.exp(), validate_args=False).log_prob(x).flatten(1).sum(1)

    def best_log_prob(self, x: Tensor) -> Tensor:
        """The density at the mean, the same for every image: (N,)."""
        return _at_the_mean(x, self.log_sigma)


class DiscretizedLogistic(Likelihood, nn.Module):
    """The probability that a logistic with location m = sigmoid(logits) gives to x's grey level (Kingma et al., 2016).

    With F the sigmoid and one learned scale s for all pixels, F((x + h − m)/s) − F((x − h − m)/s), h = 1/510; the tails
    belong to black and to white, so that the 256 levels' probabilities add up to 1. `mean` is the location m.
    """

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(-2.0 / _FASTER))

    @property
    def log_scale(self) -> Tensor:
        return _FASTER * self.weight

    def log_prob(self, x: Tensor, logits: Tensor) -> Tensor:
        return self._log_prob(x, logits.sigmoid())

    def best_log_prob(self, x: Tensor) -> Tensor:
        """The probability with the location at x: (N,)."""
        return self._log_prob(x, x)

    def _log_prob(self, x: Tensor, m: Tensor) -> Tensor:
        scale = self.log_scale.exp()
        up, down = logsigmoid((x + _HALF - m) / scale), logsigmoid((m - x + _HALF) / scale)
        # F(a) − F(b) = F(a) F(−b) (1 − e^(b−a)), without a difference of nearly equal numbers
        middle = up + down + (-torch.expm1(-2 * _HALF / scale)).log()
        return torch.where(x < _HALF, up, torch.where(x > 1 - _HALF, down, middle)).flatten(1).sum(1)


LIKELIHOODS: dict[str, type[Likelihood]] = {
    "bernoulli": Bernoulli,
    "continuous_bernoulli": ContinuousBernoulli,
    "gaussian": Gaussian,
    "learned_gaussian": LearnedGaussian,
    "discretized_logistic": DiscretizedLogistic,
}
PLAIN = ("bernoulli", "continuous_bernoulli", "gaussian")  # no weights, images as they are


def named_likelihood(name: str, choices: Iterable[str] = LIKELIHOODS) -> Likelihood:
    """Build one of the `choices`. Raises ValueError for another name."""
    check_choice("likelihood", name, choices)
    return LIKELIHOODS[name]()


def _at_the_mean(x: Tensor, log_sigma: Tensor | float) -> Tensor:
    return (-(log_sigma + 0.5 * math.log(2 * math.pi)) * torch.ones_like(x)).flatten(1).sum(1)
