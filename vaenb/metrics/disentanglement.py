"""Disentanglement: does one latent dimension, and only one, tell each generative factor?

    MIG_k = (I(z_j*; v_k) − max_{j ≠ j*} I(z_j; v_k)) / H(v_k),  j* = argmax_j I(z_j; v_k)

The mutual information gap of Chen et al. 2018 (1802.04942), here from histograms: a code is cut into equal-width bins
between its smallest and its largest value, as disentanglement_lib (Locatello et al. 2019) does on posterior means.
Chen et al. integrate over q(z|x) instead, where noise in a code costs information: the two are not comparable.

A plug-in estimate of I is biased upwards, by about (bins − 1)(levels − 1)/(2N) nats for a code that knows nothing
(Miller, 1955): at 20 bins and 32 equally likely levels by 1 % of H(v) for N = 8,500. In a gap most of it cancels.
"""

import numpy as np
import torch
from scipy.stats import entropy
from sklearn.metrics import mutual_info_score
from torch import Tensor

from vaenb.checks import check_latents, check_whole


def mutual_information(codes: Tensor, factors: Tensor, *, bins: int = 20) -> Tensor:
    """Mutual information in nats between each of codes (N, D) and each of discrete factors (N, K): (D, K), double.

    `codes` are posterior means, or draws: say which. Equal values of a factor's column are one level. A constant code
    knows nothing: 0. Raises ValueError for factors with more than N/2 levels (continuous ones), and for codes that fill
    more than N/2 bins, which would tell any factor.
    """
    check_latents(codes, "codes")
    check_whole("bins", bins, least=2)
    levels = _levels(factors, len(codes))
    information = np.empty((codes.shape[1], len(levels)))
    for j, code in enumerate(codes.detach().double().cpu().numpy().T):
        edges = np.histogram_bin_edges(code, bins)
        binned = np.digitize(code, edges[1:-1])
        filled = len(np.unique(binned))
        if filled > max(len(codes) // 2, 1):
            raise ValueError(
                f"codes: many more rows than bins expected, column {j} fills {filled} of {bins} bins with {len(codes)} "
                "rows and would tell any factor; give more images or use fewer bins"
            )
        for k, level in enumerate(levels):
            information[j, k] = mutual_info_score(None, None, contingency=_counts(binned, level))
    return torch.from_numpy(information).clamp(min=0)  # rounding may leave −1e-17


def mig(codes: Tensor, factors: Tensor, *, bins: int = 20) -> Tensor:
    """Mutual information gap of each factor, in [0, 1]: (K,), double; its mean over factors is the model's MIG.

    1: one dimension of codes (N, D) determines the factor and no other knows of it. 0: two dimensions know equally
    much, even all. A factor with levels that look alike, such as a square's rotation, can't reach 1. In a
    one-dimensional latent the gap is I/H. Raises ValueError for a constant factor, whose entropy is 0.
    """
    information = mutual_information(codes, factors, bins=bins)
    entropies = []
    for k, column in enumerate(factors.T):
        counts = column.unique(return_counts=True)[1].cpu()
        if len(counts) == 1:
            raise ValueError(f"factors: column {k} holds one value only, of which nothing can be told")
        entropies.append(entropy(counts))
    nothing = torch.zeros_like(information[:1])
    best, second = torch.cat([information, nothing]).topk(2, dim=0).values
    return (best - second) / torch.tensor(entropies, dtype=torch.float64)


def _levels(factors: Tensor, count: int) -> list[np.ndarray]:
    """Each factor's levels as whole numbers from 0: K of (N,)."""
    if not isinstance(factors, Tensor) or factors.ndim != 2 or len(factors) != count:
        got = tuple(factors.shape) if isinstance(factors, Tensor) else type(factors).__name__
        raise ValueError(f"factors: ({count}, K), a row for each code, expected, got {got}; of labels, labels[:, None]")
    check_latents(factors.double(), "factors")
    columns = []
    for k, column in enumerate(factors.detach().cpu().numpy().T):
        values, levels = np.unique(column, return_inverse=True)
        if len(values) > max(count // 2, 1):
            raise ValueError(
                f"factors: few different values expected, column {k} has {len(values)} in {count} rows; "
                "give more images, or round a continuous factor first"
            )
        columns.append(levels)
    return columns


def _counts(z: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Contingency table of two columns of whole numbers ≥ 0."""
    width = v.max() + 1
    return np.bincount(z * width + v, minlength=(z.max() + 1) * width).reshape(-1, width)
