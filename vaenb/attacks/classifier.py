"""Attacks on classifiers: a small change of an image that changes its label (document 000).

With logits f(x) and cross-entropy CE, FGSM is one step, x' = x + eps·sign(∇CE(f(x), y)) (Goodfellow et al., 2015), and
`attack` is many (PGD: Madry et al., 2018). `lbfgs` looks for the smallest change instead of staying in a ball: the
least ‖d‖₂ with label t among the minima of c‖d‖² + CE(f(x + d), t), x + d in [0, 1], over c (Szegedy et al., 2014).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from vaenb.attacks import pgd as engine
from vaenb.attacks.lbfgs import minimize
from vaenb.attacks.pgd import AttackResult, LossFn
from vaenb.checks import check_classifier, check_counts, check_images, check_labels
from vaenb.models.classifier import logits

ImageClassifier = Callable[[Tensor], Tensor]
"""classifier(x) -> (N, K): logits of images (N, C, H, W) in [0, 1]."""


def fgsm(
    classifier: ImageClassifier,
    x: Tensor,
    labels: Tensor,
    *,
    eps: float | Tensor,
    targeted: bool = False,
    chunk: int = 512,
) -> AttackResult:
    """Change every pixel of x (N, C, H, W) by `eps` (a number or (N,)) along the sign of the gradient, in [0, 1].

    `labels` (N,) are the true ones, or with `targeted` those to be reached; the losses are cross-entropies in nats.
    """
    loss_fn = loss(classifier, x, labels)
    once = {"alpha": eps, "steps": 1, "random_start": False, "targeted": targeted, "chunk": chunk}
    return engine.pgd(loss_fn, x, eps=eps, norm="linf", clip=(0.0, 1.0), **once)


def attack(
    classifier: ImageClassifier,
    x: Tensor,
    labels: Tensor,
    *,
    eps: float | Tensor,
    targeted: bool = False,
    norm: str = "linf",
    steps: int = 40,
    alpha: float | Tensor | None = None,
    random_start: bool | float = True,
    restarts: int = 1,
    generator: torch.Generator | None = None,
    chunk: int = 512,
) -> AttackResult:
    """Attack the label of images x (N, C, H, W) by PGD within `eps` (per pixel in L∞; a number or (N,)), in [0, 1].

    `labels` (N,) are the true ones, or with `targeted` those to be reached; the losses are cross-entropies in nats.
    `classifier` may hide a defence, as `purify.defended` does. Other arguments: see `pgd`.
    """
    return engine.pgd(
        loss(classifier, x, labels),
        x,
        eps=eps,
        alpha=alpha,
        steps=steps,
        norm=norm,
        clip=(0.0, 1.0),
        random_start=random_start,
        restarts=restarts,
        targeted=targeted,
        generator=generator,
        chunk=chunk,
    )


def random_direction(
    classifier: ImageClassifier,
    x: Tensor,
    labels: Tensor,
    *,
    eps: float | Tensor,
    norm: str = "linf",
    restarts: int = 1,
    generator: torch.Generator | None = None,
    chunk: int = 512,
) -> AttackResult:
    """Add noise of the same size, in L∞ ±eps at every pixel: the control beside an attack, with the same result."""
    given = {"norm": norm, "clip": (0.0, 1.0), "restarts": restarts, "generator": generator, "chunk": chunk}
    return engine.random_direction(loss(classifier, x, labels), x, eps=eps, **given)


@dataclass(frozen=True, eq=False)
class SmallestChange:
    """What `lbfgs` found for each of N images, and what it cost."""

    adversarial: Tensor  # (N, C, H, W), the closest success; where there is none, the last thing tried
    success: Tensor  # (N,) bool: the label is the wanted one
    distance: Tensor  # (N,), ‖x' − x‖₂
    gradient_calls: Tensor  # (N,), gradients of the objective


def lbfgs(
    classifier: ImageClassifier,
    x: Tensor,
    target: Tensor,
    *,
    c: float = 1e-2,
    searches: int = 5,
    steps: int = 50,
    chunk: int = 512,
) -> SmallestChange:
    """Find the smallest change of images x (N, C, H, W) that a classifier gives label `target` (N,).

    Each of `searches` minimisations (L-BFGS, at most `steps` iterations, from x) has a weight of its own for each
    image, from `c` on: ten times larger after a success and smaller after a failure, until the two bracket it, then
    their geometric mean. See `random_targets` for the document's targets.
    """
    check_counts(searches=searches)
    if not 0 < c < torch.inf:
        raise ValueError(f"c: a positive weight of the norm expected, got {c!r}")
    cross_entropy = loss(classifier, x, target)
    x, weight = x.detach(), torch.full((len(x),), float(c), device=x.device)
    low, high = torch.zeros_like(weight), torch.full_like(weight, torch.inf)
    best, target, cost = x, target.to(x.device), 0
    success = predict(classifier, x, chunk=chunk) == target  # those need no change at all
    distance = torch.where(success, 0.0, torch.inf).to(weight)
    for _ in range(searches):

        def objective(x_adv: Tensor, index: Tensor, weight=weight) -> Tensor:
            return weight[index] * (x_adv - x[index]).flatten(1).square().sum(1) + cross_entropy(x_adv, index)

        found = minimize(objective, x, steps=steps, chunk=chunk)
        fooled, far = predict(classifier, found.x, chunk=chunk) == target, (found.x - x).flatten(1).norm(dim=1)
        better = torch.where(fooled, far < distance, ~success)
        best = torch.where(better.view(-1, 1, 1, 1), found.x, best)
        distance, success = torch.where(fooled & better, far, distance), success | fooled
        low, high = torch.where(fooled, weight, low), torch.where(fooled, high, weight)
        weight = torch.where(low == 0, high / 10, torch.where(high.isinf(), low * 10, (low * high).sqrt()))
        cost = cost + found.gradient_calls
    return SmallestChange(best, success, (best - x).flatten(1).norm(dim=1), cost)


def random_targets(labels: Tensor, classes: int, *, generator: torch.Generator | None = None) -> Tensor:
    """Draw for each label (N,) another one of the `classes`, all equally likely: the targets of document 000."""
    check_labels(labels, len(labels), classes)
    device = generator.device if generator else labels.device
    shift = torch.randint(1, classes, labels.shape, generator=generator, device=device)
    return (labels + shift.to(labels.device)) % classes


@torch.no_grad()
def predict(classifier: ImageClassifier, x: Tensor, *, chunk: int = 512) -> Tensor:
    """The label of the largest logit for images x (N, C, H, W), `chunk` of them at a time: (N,)."""
    check_classifier(classifier)
    check_images(x)
    return torch.cat([logits(classifier, part).argmax(1) for part in x.split(chunk)])


def loss(classifier: ImageClassifier, x: Tensor, labels: Tensor) -> LossFn:
    """Build the loss of an attack on x: the cross-entropy of f(x') with each image's label, in nats."""
    check_classifier(classifier)
    check_images(x)
    with torch.no_grad():
        classes = logits(classifier, x[:1]).shape[1]
    check_labels(labels, len(x), classes)
    labels = labels.to(x.device).long()
    return lambda x_adv, index: F.cross_entropy(classifier(x_adv), labels[index], reduction="none")
