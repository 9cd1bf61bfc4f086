"""Attacks on classifiers: a small change of an image that changes its label (document 000).

With logits f(x) and cross-entropy CE, FGSM is one step, x' = x + eps·sign(∇CE(f(x), y)) (Goodfellow et al., 2015), and
`attack` is many (PGD: Madry et al., 2018). `lbfgs` looks for the smallest change instead of staying in a ball: the
least ‖d‖₂ with label t among the minima of c‖d‖² + CE(f(x + d), t), x + d in [0, 1], over c (Szegedy et al., 2014).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Unpack

import torch
import torch.nn.functional as F
from torch import Tensor

from vaenb.attacks import pgd as engine
from vaenb.attacks.balls import per_row
from vaenb.attacks.lbfgs import minimize
from vaenb.attacks.pgd import AttackResult, Draws, LossFn, Search, warn_of_stuck
from vaenb.checks import check_classifier, check_counts, check_images, check_labels, check_number, check_whole, ordinary
from vaenb.models.classifier import logits

ImageClassifier = Callable[[Tensor], Tensor]  # logits (N, K) of images (N, C, H, W) in [0, 1]

CONTROL: Draws = {"norm": "linf"}
DEFAULTS: Search = {**CONTROL, "steps": 40}


def fgsm(classifier: ImageClassifier, x: Tensor, labels: Tensor, *, eps: float | Tensor) -> AttackResult:
    """Change every pixel of x (N, C, H, W) by `eps` (a number or (N,)) along the sign of the gradient, in [0, 1].

    `labels` (N,) are the true ones; the losses are cross-entropies in nats.
    """
    return attack(classifier, x, labels, eps=eps, steps=1, alpha=eps, random_start=False)


def attack(
    classifier: ImageClassifier,
    x: Tensor,
    labels: Tensor,
    *,
    eps: float | Tensor,
    targeted: bool = False,
    **search: Unpack[Search],
) -> AttackResult:
    """Attack the label of images x (N, C, H, W) by PGD within `eps` (per pixel in L∞; a number or (N,)), in [0, 1].

    `labels` (N,) are the true ones, or with `targeted` those to be reached; the losses are cross-entropies in nats.
    `classifier` may hide a defence, as `purify.defended` does. Large logits saturate the softmax: then the gradient is
    exactly zero, and the image, `stuck` in the result, only looks robust. By default 40 `steps` in the L∞ ball from one
    random start; `search`: see `pgd`.
    """
    loss_fn = loss(classifier, x, labels)
    return engine.pgd(loss_fn, x, eps=eps, clip=(0.0, 1.0), targeted=targeted, **(DEFAULTS | search))


def random_direction(
    classifier: ImageClassifier, x: Tensor, labels: Tensor, *, eps: float | Tensor, **draws: Unpack[Draws]
) -> AttackResult:
    """Add noise of the same size, in L∞ ±eps at every pixel: the control beside an attack, with the same result."""
    loss_fn = loss(classifier, x, labels)
    return engine.random_direction(loss_fn, x, eps=eps, clip=(0.0, 1.0), **(CONTROL | draws))


@dataclass(frozen=True, eq=False)
class SmallestChange:
    """What `lbfgs` found for each of N images, and what it cost."""

    adversarial: Tensor  # (N, C, H, W), the closest success; where there is none, the last thing tried
    success: Tensor  # (N,) bool: the label is the wanted one
    distance: Tensor  # (N,), ‖x' − x‖₂
    gradient_calls: Tensor  # (N,), gradients of the weighted loss
    stuck: Tensor  # (N,) bool: a failure whose cross-entropy has no gradient at x, so that no search set out


def lbfgs(
    classifier: ImageClassifier,
    x: Tensor,
    target: Tensor,
    *,
    c: float = 1e-2,
    searches: int = 5,
    steps: int = 50,
) -> SmallestChange:
    """Find the smallest change of images x (N, C, H, W) that a classifier gives label `target` (N,).

    Each of `searches` minimisations (L-BFGS, at most `steps` iterations, from x) has a weight of its own for each
    image, from `c` on: ten times larger after a success and smaller after a failure, until the two bracket it, then
    their geometric mean. See `random_targets` for the document's targets. A UserWarning gives the share of `stuck`.
    """
    check_counts(searches=searches, steps=steps)
    check_number("c", c, "a positive weight of the norm", above=0)
    cross_entropy = loss(classifier, x, target)
    x, target = ordinary(x), target.to(x.device)
    best, success = x, predict(classifier, x) == target  # those need no change at all
    distance = torch.where(success, 0.0, torch.inf)
    weight = torch.full_like(distance, float(c))
    low, high = torch.zeros_like(weight), torch.full_like(weight, torch.inf)  # the last to succeed, the last to fail
    cost = torch.zeros(len(x), dtype=torch.long, device=x.device)

    def weighted(x_adv: Tensor, index: Tensor) -> Tensor:
        change = (x_adv - x[index]).flatten(1).square().sum(1)
        return weight[index] * change + cross_entropy(x_adv, index)

    for _ in range(searches):
        found = minimize(weighted, x, steps=steps)
        fooled = predict(classifier, found.x) == target
        far = (found.x - x).flatten(1).norm(dim=1)
        better = torch.where(fooled, far < distance, ~success)
        best = torch.where(per_row(better, x), found.x, best)
        distance, success = torch.where(fooled & better, far, distance), success | fooled
        low, high = torch.where(fooled, weight, low), torch.where(fooled, high, weight)
        weight = _next_weight(low, high)
        cost = cost + found.gradient_calls
    stuck = found.stuck & ~success  # the same in every search, as all begin at x, where ‖d‖² has no slope
    warn_of_stuck(stuck)
    return SmallestChange(best, success, (best - x).flatten(1).norm(dim=1), cost, stuck)


def _next_weight(low: Tensor, high: Tensor) -> Tensor:
    """The weight to try next between the last to succeed (0: none has) and the last to fail (∞: none has)."""
    raised, lowered, bracketed = low * 10, high / 10, (low * high).sqrt()
    none_has_failed, none_has_succeeded = high.isinf(), low == 0
    return torch.where(none_has_succeeded, lowered, torch.where(none_has_failed, raised, bracketed))


def random_targets(labels: Tensor, classes: int, *, generator: torch.Generator | None = None) -> Tensor:
    """Draw for each label (N,) another one of the `classes`, all equally likely: the targets of document 000."""
    check_whole("classes", classes, least=2)
    check_labels(labels, len(labels), classes)
    device = generator.device if generator else labels.device
    shift = torch.randint(1, classes, labels.shape, generator=generator, device=device)
    return (labels + shift.to(labels.device)) % classes


@torch.no_grad()
def predict(classifier: ImageClassifier, x: Tensor, *, chunk: int = 512) -> Tensor:
    """The label of the largest logit for images x (N, C, H, W), `chunk` of them at a time: (N,)."""
    check_classifier(classifier)
    check_images(x)
    check_counts(chunk=chunk)
    return torch.cat([logits(classifier, part).argmax(1) for part in x.split(int(chunk))])


def loss(classifier: ImageClassifier, x: Tensor, labels: Tensor) -> LossFn:
    """Build the loss of an attack on x: the cross-entropy of f(x') with each image's label, in nats."""
    check_classifier(classifier)
    check_images(x)
    with torch.no_grad():
        classes = logits(classifier, x[:1]).shape[1]
    check_labels(labels, len(x), classes)
    labels = ordinary(labels).to(x.device).long()
    return lambda x_adv, index: F.cross_entropy(classifier(x_adv), labels[index], reduction="none")
