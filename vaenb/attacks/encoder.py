"""Attacks on encoders: a small change of the image that moves its posterior most (document 002a, Kuzina et al. 2022).

Unsupervised: x^a = argmax Δ[q(z|x'), q(z|x)]; supervised: x^a = argmin Δ[q(z|x'), q(z|x_t)] for a target image x_t;
both with ‖x' − x‖ ≤ eps and x' in [0, 1]. Δ is one of `OBJECTIVES`; with p = q(z|x') and q the reference, q(z|x) or
q(z|x_t), these are

    skl         ½KL[p ‖ q] + ½KL[q ‖ p], in nats; the default
    kl_forward  KL[q ‖ p] (forward and reverse as in the authors' code)
    kl_reverse  KL[p ‖ q]
    w2          ‖Δμ‖² + ‖Δσ‖², for diagonal Gaussians the squared 2-Wasserstein distance, in squared latent units
    means       ‖Δμ‖², in squared latent units
    classifier  the cross-entropy, in nats, of a latent classifier at p's mean against its own label of q's mean

and, for a target only (document 003, with the sign that rewards success),

    output      −E_p[log p(x_t|z)] + KL[p ‖ p(z)] in nats: minus the ELBO of x_t, when q(z|x') stands in for q(z|x_t)

A hierarchy's KL and mean go along its mean path; `of_layers` takes some of its layers. An attack that pays for ‖x' − x‖
instead of keeping to a ball is in `penalized`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from vaenb.attacks import pgd as engine
from vaenb.attacks.latent import target_images
from vaenb.attacks.pgd import AttackResult, LossFn
from vaenb.checks import check_classifier, check_images, check_model
from vaenb.contract import LatentModel, Posterior
from vaenb.distributions import randn_like

Objective = Callable[[Posterior, Posterior], Tensor]
"""objective(p, q) -> (M,): how far p, the posteriors of M candidates x', are from q, those of their references."""

Classifier = Callable[[Tensor], Tensor]
"""classifier(z) -> (M, K): logits of latents (M, D), such as `linear_probe`."""


def symmetric_kl(p: Posterior, q: Posterior) -> Tensor:
    """½KL[p ‖ q] + ½KL[q ‖ p] in nats: (N,)."""
    return (p.kl(q) + q.kl(p)) / 2


_DISTANCES: dict[str, Objective] = {
    "skl": symmetric_kl,
    "kl_forward": lambda p, q: q.kl(p),
    "kl_reverse": lambda p, q: p.kl(q),
    "w2": lambda p, q: ((p.mean - q.mean) ** 2 + (p.stddev - q.stddev) ** 2).sum(1),
    "means": lambda p, q: ((p.mean - q.mean) ** 2).sum(1),
}
OBJECTIVES = (*_DISTANCES, "classifier")
_DRAWS = 4  # of z, always the same ones, in the expectation of "output"

PUBLISHED = {"steps": 50, "alpha": 1.0, "direction": "gradient", "random_start": 0.2, "restarts": 10}
"""The authors' optimiser, from their public code: `attack(model, x, eps=0.1, **PUBLISHED)`, without a target.

Gradient ascent with learning rate 1 from x + N(0, 0.2²), which before the first step lies outside the ball. The
learning rate is not scale-free: where the loss is flat, or steep, it finds less than steps of a fixed size. Left out
is its schedule (halve after 20 steps without progress), which added 2 % on a small model; the authors' attack on a
target takes 500 steps and lives by it, so it is not this.

The document averages over the restarts: the result's `mean_loss`. Where each restart's image is needed, as for the
accuracy under attack, repeat the images:
`attack(model, x.repeat(10, 1, 1, 1), eps=0.1, **PUBLISHED | {"restarts": 1})`.
"""


def attack(
    model: LatentModel,
    x: Tensor,
    *,
    eps: float | Tensor,
    target: str | Tensor | None = None,
    objective: str | Objective = "skl",
    classifier: Classifier | None = None,
    norm: str = "linf",
    steps: int = 100,
    alpha: float | Tensor | None = None,
    random_start: bool | float = True,
    restarts: int = 10,
    direction: str = "steepest",
    generator: torch.Generator | None = None,
    chunk: int = 512,
) -> AttackResult:
    """Attack the posterior of images x (N, C, H, W) within `eps` per pixel (a number or (N,)) and in [0, 1].

    Without `target` the posterior is driven away from that of x; a target it is driven towards is images (C, H, W) or
    (N, C, H, W), or a name as in `latent.target_images`. `objective` is one of OBJECTIVES or a callable (p, q) → (M,)
    of the posteriors of x' and of the reference, larger for posteriors further apart, such as `of_layers`; with a
    target also "output". The result's losses are in its unit. `classifier` belongs to objective="classifier". A larger
    `alpha` than the default, such as eps/4, may find more. Other arguments: see `pgd`.
    """
    loss_fn = loss(model, x, target=target, objective=objective, classifier=classifier, generator=generator)
    return engine.pgd(
        loss_fn,
        x,
        eps=eps,
        alpha=alpha,
        steps=steps,
        norm=norm,
        clip=(0.0, 1.0),
        random_start=random_start,
        restarts=restarts,
        direction=direction,
        targeted=target is not None,
        generator=generator,
        chunk=chunk,
    )


def random_direction(
    model: LatentModel,
    x: Tensor,
    *,
    eps: float | Tensor,
    target: str | Tensor | None = None,
    objective: str | Objective = "skl",
    classifier: Classifier | None = None,
    norm: str = "linf",
    restarts: int = 10,
    generator: torch.Generator | None = None,
    chunk: int = 512,
) -> AttackResult:
    """Add noise of the same size, in L∞ ±eps at every pixel: the control beside `attack`, with the same result."""
    return engine.random_direction(
        loss(model, x, target=target, objective=objective, classifier=classifier, generator=generator),
        x,
        eps=eps,
        norm=norm,
        clip=(0.0, 1.0),
        restarts=restarts,
        targeted=target is not None,
        generator=generator,
        chunk=chunk,
    )


def loss(
    model: LatentModel,
    x: Tensor,
    *,
    target: str | Tensor | None = None,
    objective: str | Objective = "skl",
    classifier: Classifier | None = None,
    generator: torch.Generator | None = None,
) -> LossFn:
    """Build the loss of an attack on x: the distance of the posterior of x' to that of x, or of the target."""
    check_model(model)
    check_images(x)
    goal = x if target is None else target_images(target, x, generator=generator)
    distance = _distance(objective, classifier)
    if distance is _output:
        if target is None:
            raise ValueError("target: objective='output' asks how well z explains a target image; give one")
        return _output(model, goal, generator)
    with torch.no_grad():
        reference = model.posterior(goal)
    return lambda x_adv, index: distance(model.posterior(x_adv), reference[index])


def _output(model: LatentModel, goal: Tensor, generator: torch.Generator | None) -> LossFn:
    with torch.no_grad():
        codes = model.posterior(goal).mean
    noise = randn_like(codes.new_empty(len(codes), _DRAWS, codes.shape[1]), generator)

    def loss_fn(x_adv: Tensor, index: Tensor) -> Tensor:
        p, x_t = model.posterior(x_adv), goal[index]
        draws = (p.rsample(noise=fixed) for fixed in noise[index].unbind(1))
        terms = [p.log_prob(z) - model.log_prior(z) - model.log_likelihood(x_t, z) for z in draws]
        return torch.stack(terms).mean(0)

    return loss_fn


def of_layers(objective: str, layers: Sequence[int]) -> Objective:
    """Make an objective (skl, kl_forward, kl_reverse, w2 or means) of some layers of a hierarchical model alone.

    `layers` are numbered from 1 in the order of the posterior's `layer_slices`: a Seatbelt's z¹, z², …, a
    `hierarchical_vae`'s top group first. All layers together are the objective itself. The KL of a layer takes both
    posteriors along the mean path of its first argument, w2 and means each along its own: a small KL of z² alone says
    that x' and the target would go on alike from the same z¹, not that they have the same z².
    """
    if not isinstance(objective, str) or objective not in _DISTANCES:
        raise ValueError(f"objective: one of {', '.join(_DISTANCES)} expected, got {objective!r}")
    if not isinstance(layers, Sequence) or not layers or len(set(layers)) != len(layers):
        raise ValueError(f"layers: a list of one layer or more, each once, expected, got {layers!r}")
    return lambda p, q: _DISTANCES[objective](_Layers(p, layers), _Layers(q, layers))


@dataclass(frozen=True, eq=False)
class _Layers:
    """Some layers of a hierarchical posterior."""

    whole: Posterior
    layers: Sequence[int]

    def __post_init__(self) -> None:
        slices = getattr(self.whole, "layer_slices", None)
        if slices is None:
            raise ValueError(f"layers: a model with layers expected, got a {type(self.whole).__name__}")
        if not all(isinstance(i, int) and 1 <= i <= len(slices) for i in self.layers):
            raise ValueError(f"layers: numbers from 1 to {len(slices)} expected, got {self.layers!r}")

    @property
    def mean(self) -> Tensor:
        return self._columns(self.whole.mean)

    @property
    def stddev(self) -> Tensor:
        return self._columns(self.whole.stddev)

    def kl(self, other: "_Layers") -> Tensor:
        return self.whole.kl_layers(other.whole)[:, [i - 1 for i in self.layers]].sum(1)

    def _columns(self, values: Tensor) -> Tensor:
        return torch.cat([values[:, self.whole.layer_slices[i - 1]] for i in self.layers], 1)


def _distance(objective: str | Objective, classifier: Classifier | None) -> Objective:
    if objective == "classifier":
        _check_probe(classifier)
        return lambda p, q: F.cross_entropy(classifier(p.mean), classifier(q.mean).argmax(1), reduction="none")
    if classifier is not None:
        raise ValueError(f"classifier: it is used by objective='classifier' only, got objective={objective!r}")
    if callable(objective):
        return objective
    if objective == "output":
        return _output
    if objective not in _DISTANCES:
        names = ", ".join((*OBJECTIVES, "output"))
        raise ValueError(f"objective: {names} or a callable (p, q) expected, got {objective!r}")
    return _DISTANCES[objective]


def _check_probe(classifier: Classifier | None) -> None:
    if not callable(classifier):
        raise ValueError(
            "classifier: objective='classifier' needs a callable from latents (M, D) to logits (M, K), "
            f"such as models.classifier.linear_probe(z, labels), got {classifier!r}"
        )
    check_classifier(classifier)
