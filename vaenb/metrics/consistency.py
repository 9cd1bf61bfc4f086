"""Does a classifier agree with itself on an image and on a VAE's reconstructions of it?

Document 000 takes a VAE as a probe for a classifier f. With z_s ~ q(z|x), s = 1…S, x̂_s = Dec(z_s) and the mean
f̄ = 1/S Σ_s softmax f(x̂_s), `consistency` gives scores that are larger for more suspicious images:

    n(x) = #{argmax f(x̂_1), …, argmax f(x̂_S)},   H[f̄],   KL[softmax f(x) ‖ f̄]
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from vaenb.checks import check_classifier, check_model_and_images
from vaenb.contract import LatentModel
from vaenb.metrics.blocks import BLOCK, in_blocks
from vaenb.models.classifier import logits
from vaenb.precision import no_autocast


@dataclass(frozen=True, eq=False)
class Consistency:
    """What a classifier says of N images and of S reconstructions of each; the properties are scores, (N,).

    Probabilities are kept as logarithms, in float64, so that none becomes 0 and no score infinite.
    """

    labels: Tensor  # (N, S), of the reconstructions
    log_own: Tensor  # (N, K), log softmax f(x)
    log_mean: Tensor  # (N, K), log f̄(x)

    @property
    def own(self) -> Tensor:
        """The classifier's probabilities of each image: (N, K)."""
        return self.log_own.exp()

    @property
    def mean(self) -> Tensor:
        """Its probabilities averaged over each image's reconstructions, f̄: (N, K)."""
        return self.log_mean.exp()

    @property
    def distinct(self) -> Tensor:
        """Document 000's n(x), the number of different labels, 1 … min(S, K)."""
        return self.labels.sort(1).values.diff(dim=1).ne(0).sum(1) + 1

    @property
    def entropy(self) -> Tensor:
        """Entropy of f̄ in nats, 0 … log K: large where the reconstructions, or each by itself, are undecided."""
        return (-self.mean * self.log_mean).sum(1).clamp_min(0)

    @property
    def kl(self) -> Tensor:
        """KL[softmax f(x) ‖ f̄] in nats: large where the classifier is sure and the reconstructions say otherwise."""
        return (self.own * (self.log_own - self.log_mean)).sum(1).clamp_min(0)


@no_autocast
@torch.no_grad()
def consistency(
    classifier: Callable[[Tensor], Tensor],
    model: LatentModel,
    x: Tensor,
    *,
    samples: int = 10,
    generator: torch.Generator | None = None,
) -> Consistency:
    """Ask a classifier, images to logits (N, K), for images x (N, C, H, W) and `samples` reconstructions of each.

    A reconstruction is the mean image of a draw z ~ q(z|x).
    """
    check_classifier(classifier)
    check_model_and_images(model, x, samples=samples)

    def log_softmax(images: Tensor) -> Tensor:
        return logits(classifier, images).double().log_softmax(1)

    own = in_blocks(log_softmax, x)
    labels, means = [], []
    for part in x.split(BLOCK):
        q = model.posterior(part)
        draws = [q.rsample(generator=generator) for _ in range(samples)]
        copies = in_blocks(lambda z: log_softmax(model.decode(z)), torch.cat(draws))  # (S·n, K)
        each = copies.unflatten(0, (samples, -1))
        labels.append(each.argmax(2).T)
        means.append(each.logsumexp(0) - math.log(samples))
    return Consistency(torch.cat(labels), own, torch.cat(means))
