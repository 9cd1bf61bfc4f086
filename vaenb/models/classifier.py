"""Classifiers: two of images, to be attacked and to measure by, and one that probes a latent space.

`cnn_classifier` is document 000's net and `mlp_classifier` one without convolutions, trained with cross-entropy by
`training.trained`; where only their function matters, any callable from images to logits serves as well. `linear_probe`
is document 002a's (Kuzina et al., 2022): softmax(Wz + b) on the encoder's mean. Its label under attack, compared with
its label of the clean image, says whether a posterior has moved to where it means something else.
"""

import math
import warnings
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from vaenb.checks import (
    check_image_shape,
    check_input,
    check_labels,
    check_latents,
    check_logits,
    check_whole,
    evaluating,
)
from vaenb.models.nets import Shape

_ABSENT = -1e4  # the logit of a label never seen: its probability is exactly 0, and sums of logits stay finite


class Classifier(nn.Module):
    """`body`, from images (N, *image_shape) to `width` features, and a linear layer to logits (N, classes)."""

    def __init__(self, body: nn.Module, width: int, *, image_shape: Shape, classes: int) -> None:
        super().__init__()
        self.image_shape: Shape = (image_shape[0], image_shape[1], image_shape[2])
        self.classes = classes
        self.body, self.head = body, nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))

    def features(self, x: Tensor) -> Tensor:
        """The activations before the last layer, ≥ 0: (N, width), for a Fréchet distance or a diversity."""
        check_input(self, x, "x", self.image_shape)
        return self.body(x)

    def losses(self, x: Tensor, labels: Tensor, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Mean cross-entropy in nats (`loss`) and the fraction of right labels (`accuracy`) of one batch.

        `generator` is training's and not used. Raises ValueError for a label outside 0 … classes − 1, as in a set
        without labels.
        """
        check_labels(labels, len(x), self.classes)
        logits = self(x)
        accuracy = (logits.detach().argmax(1) == labels).to(logits.dtype).mean()
        return {"loss": F.cross_entropy(logits, labels.long()), "accuracy": accuracy}


def cnn_classifier(*, image_shape: Shape, classes: int) -> Classifier:
    """Build document 000's classifier: 32 5×5 convolutions – ReLU – 2×2 max pool – 128 – ReLU – classes.

    From plain values, for `training.trained`; images are (C, H, W) ≥ 2 pixels. Borders are padded by 2, so that a
    stroke at the edge is seen too (our choice; the document does not say).
    """
    check_image_shape(image_shape, least=2)
    check_whole("classes", classes, least=2)
    channels, height, width = image_shape
    body = nn.Sequential(
        nn.Conv2d(channels, 32, 5, padding=2),  # (N, 32, H, W)
        nn.ReLU(),
        nn.MaxPool2d(2),  # (N, 32, H/2, W/2)
        nn.Flatten(),
        nn.Linear(32 * (height // 2) * (width // 2), 128),
        nn.ReLU(),
    )
    return Classifier(body, 128, image_shape=image_shape, classes=classes)


def mlp_classifier(*, image_shape: Shape, classes: int) -> Classifier:
    """Build a classifier without convolutions, 256 – ReLU – 256 – ReLU – classes, from plain values."""
    check_image_shape(image_shape, least=2)
    check_whole("classes", classes, least=2)
    body = nn.Sequential(
        nn.Flatten(),
        nn.Linear(math.prod(image_shape), 256),
        nn.ReLU(),
        nn.Linear(256, 256),
        nn.ReLU(),
    )
    return Classifier(body, 256, image_shape=image_shape, classes=classes)


def logits(classifier: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Call a classifier of images and check what it gives: finite logits (N, K), K ≥ 2, that are not probabilities.

    Raises ValueError with what came instead.
    """
    with evaluating("classifier"):
        values = classifier(x)
    check_logits(values, len(x))
    return values


def linear_probe(z: Tensor, labels: Tensor) -> nn.Linear:
    """Fit a linear classifier on latents z (N, D) and labels (N,) by scikit-learn's logistic regression.

    Output k of the layer (D → largest label + 1) is the logit of label k; a label that does not occur is never
    predicted. The penalty is ½‖W‖² on standardised latents; the standardisation is folded into the layer, which has
    z's dtype and device, no gradient, and is in evaluation mode. Raises ValueError for fewer than two different labels.
    """
    check_latents(z)
    check_labels(labels, len(z))
    if (labels == labels[0]).all():
        raise ValueError(f"labels: at least two different ones expected, got only {labels[0]}")
    features = z.detach().double().cpu().numpy()
    targets = labels.cpu().numpy()
    scaler = StandardScaler().fit(features)
    regression = LogisticRegression(max_iter=1000)
    with warnings.catch_warnings():
        # The problem is convex, and what is left of the loss after so many iterations does not show in the labels.
        warnings.simplefilter("ignore", ConvergenceWarning)
        regression.fit(scaler.transform(features), targets)
    weight, bias = regression.coef_, regression.intercept_
    if len(regression.classes_) == 2:  # scikit-learn gives the log-odds of the second class alone
        weight = np.concatenate([-weight, weight]) / 2
        bias = np.concatenate([-bias, bias]) / 2
    weight = weight / scaler.scale_
    return _layer(z, regression.classes_, weight, bias - weight @ scaler.mean_)


def _layer(z: Tensor, classes: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> nn.Linear:
    """Put each class's weights into the row of its label."""
    outputs = int(classes[-1]) + 1
    layer = nn.utils.skip_init(nn.Linear, z.shape[1], outputs, dtype=z.dtype, device=z.device)  # no global random draw
    layer.eval().requires_grad_(False)
    rows = torch.as_tensor(classes, device=z.device).long()  # a uint8 index would be a mask
    layer.weight.zero_()[rows] = torch.as_tensor(weight).to(layer.weight)
    layer.bias.fill_(_ABSENT)[rows] = torch.as_tensor(bias).to(layer.bias)
    return layer
