"""The Fréchet distance between two sets of images: of the Gaussians fitted to their features.

    d² = ‖μ_a − μ_b‖² + tr(Σ_a + Σ_b − 2 (Σ_a Σ_b)^½)

The square of the 2-Wasserstein distance between N(μ_a, Σ_a) and N(μ_b, Σ_b). With the features of the Inception
network it is the published FID (Heusel et al. 2017, 1706.08500). A distance belongs to its network and its two sample
sizes.
"""

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from vaenb.checks import check_features, check_images, check_whole, evaluating
from vaenb.metrics.blocks import in_blocks
from vaenb.precision import no_autocast, widened

_BLOCK = 256  # images at a time
Features = Callable[[Tensor], Tensor]  # images (N, C, H, W) → (N, F)


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """Squared Fréchet distance d² between the Gaussians fitted to features a (N, F) and b (M, F), as FID reports it.

    Computed in double precision with covariances over N − 1; sets smaller than F have singular ones, which is fine.
    It is biased upwards: two sets drawn from one N(0, I) are about F(F + 5)/4 · (1/N + 1/M) apart for N, M ≫ F, not 0.
    So compare only distances at equal sample sizes, and state them.
    """
    check_features(2, a=a, b=b)
    a, b = a.detach().double(), b.detach().to(a.device).double()
    # the eigenvalues of Σ_a Σ_b are the squared singular values of R_a R_bᵀ: no root of a nearly singular product
    root_a, root_b = _root(a), _root(b)
    overlap = torch.linalg.svdvals(root_a @ root_b.T).sum()
    shift = (a.mean(0) - b.mean(0)).square().sum()
    distance = shift + root_a.square().sum() + root_b.square().sum() - 2 * overlap
    return max(distance.item(), 0.0)  # rounding may leave −1e-13 for equal sets


def leading(features: Tensor, count: int) -> Tensor:
    """The `count` directions (F, count) in which features (N, F) vary most, the first one most: project on them.

    In fewer dimensions a distance of few images is less biased.
    """
    check_features(2, features=features)
    check_whole("count", count, least=1, most=min(features.shape))
    rows = features.detach().double()
    return torch.linalg.svd(rows - rows.mean(0), full_matrices=False).Vh[:count].T


@no_autocast
@torch.no_grad()
def features_of(network: Features, x: Tensor) -> Tensor:
    """Features (N, F) of images x (N, C, H, W) in [0, 1], for `frechet_distance`.

    `network` maps some of the images to their features, such as a trained classifier's `.features`; say beside the
    number which network it is. Raises TypeError, or ValueError for images and features of another kind.
    """
    if not callable(network):
        raise TypeError(f"network: a callable expected, got {network!r}")
    check_images(x)
    with evaluating("network"):
        return in_blocks(partial(_rows, network), x, size=_BLOCK)


def _rows(network: Features, x: Tensor) -> Tensor:
    values = network(x)
    if not isinstance(values, Tensor) or values.ndim != 2 or len(values) != len(x):
        got = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        n = len(x)
        raise ValueError(f"network: it has to map {n} images to ({n}, F), got {got}; flatten(1) it")
    return widened(values)


def _root(x: Tensor) -> Tensor:
    """R (≤ F, F) with RᵀR the covariance of x (N, F)."""
    return torch.linalg.qr((x - x.mean(0)) / math.sqrt(len(x) - 1), mode="r").R
