"""Distributions over flat latents (N, D), one for each image, and the drawing of noise that a generator repeats."""

import math
from dataclasses import dataclass
from numbers import Integral

import torch
from torch import Tensor

from vaenb.checks import check_whole
from vaenb.contract import NotDefined


@dataclass(frozen=True, eq=False)
class Point:
    """The posterior of a deterministic autoencoder: all mass on `mean` (N, D), so that it has no density."""

    mean: Tensor

    @property
    def stddev(self) -> Tensor:
        return torch.zeros_like(self.mean)

    def rsample(self, *, generator: torch.Generator | None = None, noise: Tensor | None = None) -> Tensor:
        return self.mean

    def log_prob(self, z: Tensor) -> Tensor:
        raise NotDefined("a deterministic autoencoder's posterior is a point and has no density, so no ELBO either")

    def kl(self, other: "Point") -> Tensor:
        raise NotDefined("a deterministic autoencoder's posterior is a point and has no KL; compare the means")

    def __getitem__(self, index) -> "Point":
        return Point(self.mean[as_rows(index)])


@dataclass(frozen=True, eq=False)
class DiagonalGaussian:
    """N(mean, diag(exp(logvar))) for each row; `mean` and `logvar` are (N, D)."""

    mean: Tensor
    logvar: Tensor

    @property
    def stddev(self) -> Tensor:
        return (0.5 * self.logvar).exp()

    def rsample(self, *, generator: torch.Generator | None = None, noise: Tensor | None = None) -> Tensor:
        return self.mean + self.stddev * (randn_like(self.mean, generator) if noise is None else noise)

    def log_prob(self, z: Tensor) -> Tensor:
        return self.log_densities(z).sum(1)

    def log_densities(self, z: Tensor) -> Tensor:
        """The log density of each latent by itself, in nats: (N, D)."""
        squares = ((z - self.mean) * (-0.5 * self.logvar).exp()) ** 2
        return -0.5 * (squares + self.logvar + math.log(2 * math.pi))

    def kl(self, other: "DiagonalGaussian") -> Tensor:
        shift = ((self.mean - other.mean) * (-0.5 * other.logvar).exp()) ** 2
        difference = self.logvar - other.logvar
        return 0.5 * (difference.expm1() - difference + shift).sum(1)  # in float32 exp() − 1 would cancel

    def __getitem__(self, index) -> "DiagonalGaussian":
        rows = as_rows(index)
        return DiagonalGaussian(self.mean[rows], self.logvar[rows])


def as_rows(index):
    """An index of some of the images as tensors take it; of one number, a list, which keeps the tensors' shapes."""
    alone = isinstance(index, Integral) or getattr(index, "ndim", None) == 0
    return [int(index)] if alone else index


def standard_normal(like: Tensor) -> DiagonalGaussian:
    """N(0, I) in the shape, dtype and device of `like` (N, D)."""
    return DiagonalGaussian(torch.zeros_like(like), torch.zeros_like(like))


def seeded(seed: int, device: torch.device | str = "cpu") -> torch.Generator:
    """Make a random generator from a seed, any whole number, numpy's too. Raises ValueError for another."""
    check_whole("seed", seed, least=-(2**63), most=2**64 - 1)
    return torch.Generator(device).manual_seed(int(seed))


def randn_like(x: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Draw N(0, I) in the shape of x; on the generator's device first, so that a CPU generator serves a GPU too."""
    return torch.randn(x.shape, generator=generator, device=_home(x, generator), dtype=x.dtype).to(x.device)


def rand_like(x: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Draw uniformly from [0, 1) in the shape of x, on the generator's device first."""
    return torch.rand(x.shape, generator=generator, device=_home(x, generator), dtype=x.dtype).to(x.device)


def _home(x: Tensor, generator: torch.Generator | None) -> torch.device:
    if generator is not None and not isinstance(generator, torch.Generator):
        raise TypeError(f"generator: a torch.Generator expected, got {generator!r}; seeded(seed) makes one")
    return generator.device if generator else x.device
