"""How diverse images are, on features of a network (N, F).

    Vendi = exp(−Σ λ log λ),  λ the eigenvalues of K/n,  K the cosines between the n features

Friedman & Dieng 2023 (2210.02410). Compare only at equal features and sizes.
"""

import torch
from torch import Tensor

from vaenb.checks import check_features, first_of


def vendi(features: Tensor) -> float:
    """Vendi score of features (N, F), the effective number of different ones: from 1 (all alike) to min(N, F).

    Lengths do not count; features ≥ 0, as after a ReLU, score lower than centred ones.
    """
    check_features(features=features)
    x = features.detach().double()
    lengths = x.norm(dim=1, keepdim=True)
    if empty := first_of(lengths.flatten() == 0):
        raise ValueError(f"features: row(s) {empty} are zero and have no cosine with another")
    weights = torch.linalg.svdvals(x / lengths).square() / len(x)  # the eigenvalues of K/n that are not 0
    return torch.special.entr(weights).sum().exp().item()
