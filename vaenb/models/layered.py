"""Posteriors of several layers of latents, each a diagonal Gaussian given the layers drawn before it: its path.

A flat latent (N, D) holds the layers' latents side by side.
"""

from collections.abc import Iterable, Sequence
from itertools import accumulate, pairwise

import torch
from torch import Tensor

from vaenb.distributions import DiagonalGaussian
from vaenb.precision import after_autocast

_LOGVAR = 10.0  # log-variances stay within ±10, softly: under attack no exponential overflows


class OnPath:
    """What layered posteriors have in common.

    `mean` is the ancestral mean, each layer's mean given the means before it (noise fixed at 0), and `stddev` belongs
    to the same path.
    """

    path: DiagonalGaussian  # the layers' conditionals along the mean path, (N, D)

    @property
    def mean(self) -> Tensor:
        return self.path.mean

    @property
    def stddev(self) -> Tensor:
        return self.path.stddev

    def kl_layers(self, other) -> Tensor:
        raise NotImplementedError

    def kl(self, other) -> Tensor:
        """Sum `kl_layers` over the layers: (N,)."""
        return self.kl_layers(other).sum(1)


def conditional(outputs: Tensor) -> DiagonalGaussian:
    """A layer's Gaussian from a net's outputs (N, 2d, …), means and log-variances side by side."""
    mean, logvar = after_autocast(outputs).chunk(2, 1)
    return DiagonalGaussian(mean, _LOGVAR * (logvar / _LOGVAR).tanh())


def side_by_side(parts: Sequence[DiagonalGaussian]) -> DiagonalGaussian:
    """Join the layers' Gaussians (N, d_i) to one over all latents (N, D)."""
    mean = torch.cat([part.mean for part in parts], 1)
    logvar = torch.cat([part.logvar for part in parts], 1)
    return DiagonalGaussian(mean, logvar)


def layer_columns(widths: Iterable[int]) -> list[slice]:
    """The columns of each layer in a flat latent."""
    ends = accumulate(widths, initial=0)
    return [slice(start, end) for start, end in pairwise(ends)]


def kl_by_layer(p: DiagonalGaussian, q: DiagonalGaussian, columns: Iterable[slice]) -> Tensor:
    """KL[p ‖ q] of each layer's columns, in nats: (N, L)."""
    return torch.stack([p[:, part].kl(q[:, part]) for part in columns], dim=1)
