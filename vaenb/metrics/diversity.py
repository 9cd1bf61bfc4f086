"""Fidelity and diversity of generated images apart, on features of a network (N, F).

With B_k(x) the ball around x whose radius is the distance to its k-th nearest neighbour in x's own set:

    precision = mean over fake of [it lies in some B_k(real)]     recall   = the same with the sets exchanged
    density   = mean over fake of #{B_k(real) it lies in} / k     coverage = mean over real of [B_k holds some fake]
    Vendi     = exp(−Σ λ log λ),  λ the eigenvalues of K/n,  K the cosines between the n features

Precision and recall: Kynkäänniemi et al. 2019 (1904.06991), with closed balls. Density and coverage: Naeem et al. 2020
(2002.09797), with open balls. Vendi: Friedman & Dieng 2023 (2210.02410). Compare only at equal features, k and sizes.
"""

import torch
from torch import Tensor

from vaenb.checks import check_features, check_whole
from vaenb.metrics.blocks import in_blocks

_CHUNK = 1024  # rows of distances at a time


def precision_recall(real: Tensor, fake: Tensor, *, k: int = 3) -> dict[str, float]:
    """Precision and recall of features `fake` (M, F) against `real` (N, F): {"precision", "recall"} in [0, 1].

    Precision falls with images that look like none of the data, recall with data that no image looks like. An outlier
    has a large ball, and everything in it counts: density and coverage are less easily fooled.
    """
    real, fake = _prepared(real, fake, k)
    near_real, near_fake = _radii(real, k), _radii(fake, k)
    precise = in_blocks(lambda part: (_distances(part, real) <= near_real).any(1), fake, size=_CHUNK)
    recalled = in_blocks(lambda part: (_distances(part, fake) <= near_fake).any(1), real, size=_CHUNK)
    return {"precision": _mean(precise), "recall": _mean(recalled)}


def density_coverage(real: Tensor, fake: Tensor, *, k: int = 5) -> dict[str, float]:
    """Density and coverage of features `fake` (M, F) against `real` (N, F): {"density", "coverage"}.

    Density is ≥ 0 and may exceed 1, where fake crowds in the middle of the data; coverage is in [0, 1]. If both sets
    come from one distribution, density is 1 on average and coverage 1 − Π_{i=1…k} (N − i)/(N + M − i), about 1 − 2⁻ᵏ
    for N = M: that, not 1, is the best to hope for.
    """
    real, fake = _prepared(real, fake, k)

    def held(part: Tensor, radii: Tensor) -> Tensor:
        return (_distances(part, fake) < radii[:, None]).sum(1)

    radii = _radii(real, k)
    copies = (radii == 0).nonzero().flatten().tolist()
    if copies:
        raise ValueError(
            f"real: row(s) {copies[:5]} of {len(real)} have {k} copies or more, so that nothing lies in their open "
            "balls; leave copies out, or take a larger k"
        )
    counts = in_blocks(held, real, radii, size=_CHUNK)  # of fake in each ball
    density = counts.sum().item() / (int(k) * len(fake))
    return {"density": density, "coverage": _mean(counts > 0)}


def vendi(features: Tensor) -> float:
    """Vendi score of features (N, F), the effective number of different ones: from 1 (all alike) to min(N, F).

    Lengths do not count; features ≥ 0, as after a ReLU, score lower than centred ones.
    """
    check_features(features=features)
    x = features.detach().double()
    lengths = x.norm(dim=1, keepdim=True)
    empty = (lengths.flatten() == 0).nonzero().flatten().tolist()
    if empty:
        raise ValueError(f"features: row(s) {empty[:5]} of {len(x)} are zero and have no cosine with another")
    weights = torch.linalg.svdvals(x / lengths).square() / len(x)  # the eigenvalues of K/n that are not 0
    return torch.special.entr(weights).sum().exp().item()


def _prepared(real: Tensor, fake: Tensor, k: int) -> tuple[Tensor, Tensor]:
    check_whole("k", k)
    check_features(int(k) + 1, real=real, fake=fake)
    return real.detach().double(), fake.detach().to(real.device).double()


def _radii(x: Tensor, k: int) -> Tensor:
    """Distance of each row (N, F) to its k-th nearest other row: (N,)."""
    nearest = int(k) + 1  # the first is itself
    return in_blocks(lambda part: _distances(part, x).kthvalue(nearest, dim=1).values, x, size=_CHUNK)


def _distances(a: Tensor, b: Tensor) -> Tensor:
    # by matrix products the distance of a row to itself would not be 0
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")


def _mean(flags: Tensor) -> float:
    return flags.double().mean().item()
