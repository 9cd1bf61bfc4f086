"""What tests share: a generator, images, and a model about which everything is known in closed form."""

import math

import torch
from torch import Tensor
from torch.distributions import Normal

from vaenb.distributions import DiagonalGaussian, standard_normal


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(n: int = 6, seed: int = 0) -> Tensor:
    """Noise as images (n, 1, 4, 4) in [0, 1]."""
    return torch.rand(n, 1, 4, 4, generator=seeded(seed))


class LinearGaussian:
    """p(z) = N(0, I), p(x|z) = N(Wz + b, s²I), its exact posterior, and log p(x) in closed form: a foreign model."""

    def __init__(self, shape=(1, 4, 4), latent_dim=3, s=0.3):
        g = seeded(1)
        self.shape, self.s, self.b = shape, s, 0.5
        self.q, _ = torch.linalg.qr(torch.randn(math.prod(shape), latent_dim, generator=g))
        self.scale = torch.tensor([0.05, 0.1, 0.2])  # orthogonal columns make the posterior diagonal
        self.w = self.q * self.scale

    def posterior(self, x: Tensor) -> DiagonalGaussian:
        variance = 1 / (1 + self.scale**2 / self.s**2)
        mean = variance / self.s**2 * ((x.flatten(1) - self.b) @ self.w)
        return DiagonalGaussian(mean, variance.log().expand_as(mean))

    def decode(self, z: Tensor) -> Tensor:
        return (z @ self.w.T + self.b).view(-1, *self.shape)

    def log_prior(self, z: Tensor) -> Tensor:
        return standard_normal(z).log_prob(z)

    def log_likelihood(self, x: Tensor, z: Tensor) -> Tensor:
        return Normal(self.decode(z), self.s).log_prob(x).flatten(1).sum(1)

    def log_evidence(self, x: Tensor) -> Tensor:
        covariance = self.w @ self.w.T + self.s**2 * torch.eye(len(self.w))
        mean = torch.full((len(self.w),), self.b)
        return torch.distributions.MultivariateNormal(mean, covariance).log_prob(x.flatten(1))
