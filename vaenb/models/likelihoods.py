"""Pixel likelihoods p(x|z), from a decoder's logits to nats per image.

Values of different families are never comparable: a Bernoulli on grey pixels is not a density, the two others are.
"""

from dataclasses import dataclass

from torch import Tensor
from torch.distributions import Bernoulli as _Bernoulli
from torch.distributions import ContinuousBernoulli as _ContinuousBernoulli
from torch.distributions import Normal as _Normal


@dataclass(frozen=True)
class Bernoulli:
    """x log p + (1 − x) log(1 − p) with p = sigmoid(logits), also for grey x in [0, 1], as most VAE papers use it."""

    def mean(self, logits: Tensor) -> Tensor:
        return logits.sigmoid()

    def log_prob(self, x: Tensor, logits: Tensor) -> Tensor:
        """Nats per image (N,), for x and logits (N, C, H, W)."""
        return _Bernoulli(logits=logits, validate_args=False).log_prob(x).flatten(1).sum(1)


@dataclass(frozen=True)
class ContinuousBernoulli:
    """The Bernoulli's shape normalised over x in [0, 1] (Loaiza-Ganem and Cunningham, 2019); its mean is not λ."""

    def mean(self, logits: Tensor) -> Tensor:
        return _ContinuousBernoulli(logits=logits, validate_args=False).mean

    def log_prob(self, x: Tensor, logits: Tensor) -> Tensor:
        """Nats per image (N,), for x and logits (N, C, H, W)."""
        return _ContinuousBernoulli(logits=logits, validate_args=False).log_prob(x).flatten(1).sum(1)


@dataclass(frozen=True)
class Gaussian:
    """N(sigmoid(logits), σ²) per pixel. With σ² = ½, −log p is document 001's summed squared error, plus a constant."""

    sigma: float = 0.5**0.5

    def __post_init__(self) -> None:
        if not self.sigma > 0:
            raise ValueError(f"sigma: a positive standard deviation expected, got {self.sigma}")

    def mean(self, logits: Tensor) -> Tensor:
        return logits.sigmoid()

    def log_prob(self, x: Tensor, logits: Tensor) -> Tensor:
        """Nats per image (N,), for x and logits (N, C, H, W)."""
        return _Normal(logits.sigmoid(), self.sigma, validate_args=False).log_prob(x).flatten(1).sum(1)
