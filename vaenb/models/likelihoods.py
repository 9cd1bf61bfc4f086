"""Pixel likelihoods p(x|z), from a decoder's logits to nats per image.

Values of different families are never comparable: a Bernoulli on grey pixels is not a density, the two others are.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Bernoulli as _Bernoulli
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
    """The Bernoulli's shape normalised over x in [0, 1] (Loaiza-Ganem and Cunningham, 2019); its mean is not λ.

    With l = logit λ the density is exp(xl) · l / (e^l − 1) and the mean 1 / (1 − e^−l) − 1 / l, both computed from l:
    torch.distributions clamps λ, and in float32 loses the normaliser and every mean below 1/16 beyond |l| = 16.
    """

    def mean(self, logits: Tensor) -> Tensor:
        near = logits.abs() < 0.1  # the two poles cancel at 0: use the series there
        safe = torch.where(near, torch.ones_like(logits), logits)
        return torch.where(near, 0.5 + logits / 12 - logits**3 / 720, 1 / -torch.expm1(-safe) - 1 / safe)

    def log_prob(self, x: Tensor, logits: Tensor) -> Tensor:
        """Nats per image (N,), for x and logits (N, C, H, W)."""
        size = logits.abs()
        near = size < 0.01
        safe = torch.where(near, torch.ones_like(size), size)
        even = torch.where(near, size**2 / 24, safe / 2 + (-torch.expm1(-safe) / safe).log())
        return ((x - 0.5) * logits - even).flatten(1).sum(1)


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
