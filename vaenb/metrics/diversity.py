"""Fidelity and diversity of generated images apart, on features of a network (N, F).

With B_k(x) the ball around x whose radius is the distance to its k-th nearest neighbour in x's own set:

    precision = mean over fake of [it lies in some B_k(real)]     recall   = the same with the sets exchanged
    density   = mean over fake of #{B_k(real) it lies in} / k     coverage = mean over real of [B_k holds some fake]
    Vendi     = exp(−Σ λ log λ),  λ the eigenvalues of K/n,  K the cosines between the n features

Precision and recall: Kynkäänniemi et al. 2019 (1904.06991), with closed balls. Density and coverage: Naeem et al. 2020
(2002.09797), with open balls. Vendi: Friedman & Dieng 2023 (2210.02410). They belong to their features, k and sample
sizes: state all three, and compare only at equal ones.
"""

from numbers import Integral

import torch
from torch import Tensor

from vaenb.checks import check_latents

_CHUNK = 1024  # rows of distances at a time


def precision_recall(real: Tensor, fake: Tensor, *, k: int = 3) -> dict[str, float]:
    """Precision and recall of features `fake` (M, F) against `real` (N, F): {"precision", "recall"} in [0, 1].

    Precision falls with images that look like none of the data, recall with data that no image looks like. One
    outlier has a large ball, and everything in it counts: density and coverage are less easily fooled.
    """
    real, fake = _check_sets(real, fake, k)
    near_real, near_fake = _radii(real, k), _radii(fake, k)
    precise, recalled = [], torch.zeros(len(real), dtype=torch.bool, device=real.device)
    for part, radii in zip(fake.split(_CHUNK), near_fake.split(_CHUNK), strict=True):
        distances = _distances(part, real)
        precise.append((distances <= near_real).any(1))
        recalled |= (distances <= radii[:, None]).any(0)
    return {"precision": _mean(torch.cat(precise)), "recall": _mean(recalled)}


def density_coverage(real: Tensor, fake: Tensor, *, k: int = 5) -> dict[str, float]:
    """Density and coverage of features `fake` (M, F) against `real` (N, F): {"density", "coverage"}.

    Density is ≥ 0 and may exceed 1, where fake crowds in the middle of the data; coverage is in [0, 1]. If both sets
    come from one distribution, density is 1 on average, and coverage, whatever the distribution,
    1 − Π_{i=1…k} (N − i)/(N + M − i), about 1 − 2⁻ᵏ for N = M: that, not 1, is the best to hope for. A row that
    occurs more than k times in `real` has an empty ball.
    """
    real, fake = _check_sets(real, fake, k)
    parts = zip(real.split(_CHUNK), _radii(real, k).split(_CHUNK), strict=True)
    counts = torch.cat([(_distances(part, fake) < radii[:, None]).sum(1) for part, radii in parts])  # of fake in a ball
    return {"density": counts.sum().item() / (k * len(fake)), "coverage": _mean(counts > 0)}


def vendi(features: Tensor) -> float:
    """Vendi score of features (N, F), the effective number of different ones: from 1 (all alike) to min(N, F).

    By cosine similarity, so lengths do not count; features ≥ 0, as after a ReLU, have no cosine below 0, and score
    lower than centred ones. It needs no data to compare with, and does not see whether the images are any good.
    """
    check_latents(features, "features")
    x = features.detach().double()
    lengths = x.norm(dim=1, keepdim=True)
    if (lengths == 0).any():
        rows = (lengths.flatten() == 0).nonzero().flatten().tolist()
        raise ValueError(f"features: row(s) {rows[:5]} of {len(x)} are zero and have no cosine with another")
    weights = torch.linalg.svdvals(x / lengths).square() / len(x)  # the eigenvalues of K/n that are not 0
    return torch.special.entr(weights).sum().exp().item()


def _radii(x: Tensor, k: int) -> Tensor:
    """Distance of each row (N, F) to its k-th nearest other row: (N,)."""
    return torch.cat([_distances(part, x).kthvalue(k + 1, dim=1).values for part in x.split(_CHUNK)])  # itself first


def _distances(a: Tensor, b: Tensor) -> Tensor:
    # by matrix products the distance of a row to itself would not be 0
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")


def _mean(flags: Tensor) -> float:
    return flags.double().mean().item()


def _check_sets(real: Tensor, fake: Tensor, k: int) -> tuple[Tensor, Tensor]:
    check_latents(real, "real")
    check_latents(fake, "fake")
    if real.shape[1] != fake.shape[1]:
        raise ValueError(
            f"real and fake: features of one network expected, got {real.shape[1]} and {fake.shape[1]} dimensions"
        )
    if not isinstance(k, Integral) or k < 1:
        raise ValueError(f"k: a whole number ≥ 1 expected, got {k!r}")
    for name, rows in (("real", real), ("fake", fake)):
        if len(rows) <= k:
            raise ValueError(f"{name}: more than k = {k} rows expected, got {len(rows)}")
    return real.detach().double(), fake.detach().to(real.device).double()
