"""Classifiers that probe a latent space.

`linear_probe` is document 002a's (Kuzina et al., 2022): softmax(Wz + b) on the encoder's mean. Its label under attack,
compared with its label of the clean image, says whether a posterior has moved to where it means something else.
"""

import warnings

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from vaenb.models.contract import check_latents

_ABSENT = -1e4  # the logit of a label never seen: its probability is exactly 0, and sums of logits stay finite


def linear_probe(z: Tensor, labels: Tensor, *, c: float = 1.0, max_iter: int = 1000) -> nn.Linear:
    """Fit a linear classifier on latents z (N, D) and labels (N,) by scikit-learn's logistic regression.

    Output k of the layer (D → largest label + 1) is the logit of label k; a label that does not occur is never
    predicted. `c` is the inverse weight of the penalty ½‖W‖² on standardised latents; the standardisation is folded
    into the layer. The layer has z's dtype and device, no gradient, and is in evaluation mode. Raises ValueError for
    fewer than two different labels.
    """
    _check(z, labels, c)
    features, targets = z.detach().double().cpu().numpy(), labels.cpu().numpy()
    scaler = StandardScaler().fit(features)
    regression = LogisticRegression(C=c, max_iter=max_iter)
    with warnings.catch_warnings():
        # The problem is convex, and what is left of the loss after so many iterations does not show in the labels.
        warnings.simplefilter("ignore", ConvergenceWarning)
        regression.fit(scaler.transform(features), targets)
    weight, bias = regression.coef_, regression.intercept_
    if len(regression.classes_) == 2:  # scikit-learn gives the log-odds of the second class alone
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    weight = weight / scaler.scale_
    return _layer(z, regression.classes_, weight, bias - weight @ scaler.mean_)


def _layer(z: Tensor, classes: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> nn.Linear:
    """Put each class's weights into the row of its label."""
    outputs = int(classes[-1]) + 1
    layer = nn.utils.skip_init(nn.Linear, z.shape[1], outputs, dtype=z.dtype, device=z.device)  # no global random draw
    layer.eval().requires_grad_(False)
    rows = torch.as_tensor(classes, device=z.device)
    layer.weight.zero_()[rows] = torch.as_tensor(weight).to(layer.weight)
    layer.bias.fill_(_ABSENT)[rows] = torch.as_tensor(bias).to(layer.bias)
    return layer


def _check(z: Tensor, labels: Tensor, c: float) -> None:
    check_latents(z)
    if not isinstance(labels, Tensor) or labels.is_floating_point() or labels.dtype == torch.bool:
        got = labels.dtype if isinstance(labels, Tensor) else type(labels).__name__
        raise TypeError(f"labels: a tensor of integers expected, got {got}")
    if labels.shape != z.shape[:1]:
        raise ValueError(f"labels: one for each latent, ({len(z)},), expected, got shape {tuple(labels.shape)}")
    if labels.min() < 0:
        raise ValueError(f"labels: ≥ 0 expected, got {labels.min()}; a set without labels can't be probed")
    if (labels == labels[0]).all():
        raise ValueError(f"labels: at least two different ones expected, got only {labels[0]}")
    if not 0 < c < float("inf"):
        raise ValueError(f"c: a positive number expected, got {c!r}")
