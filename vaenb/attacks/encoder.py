"""Attacks on encoders: a small change of the image that moves its posterior most (document 002a, Kuzina et al. 2022).

Unsupervised: x^a = argmax Δ[q(z|x'), q(z|x)]; supervised: x^a = argmin Δ[q(z|x'), q(z|x_t)] for a target image x_t;
both with ‖x' − x‖ ≤ eps and x' in [0, 1]. Δ is one of `DIVERGENCES`; with p = q(z|x') and q the reference, q(z|x) or
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
from numbers import Integral
from typing import Any, Unpack

import torch
import torch.nn.functional as F
from torch import Tensor

from vaenb.attacks import pgd as engine
from vaenb.attacks.latent import target_images
from vaenb.attacks.pgd import AttackResult, Draws, LossFn, Search, shared
from vaenb.checks import check_choice, check_classifier, check_each, check_model_and_images, evaluating, ordinary
from vaenb.contract import LatentModel, Posterior
from vaenb.distributions import randn_like

Divergence = Callable[[Posterior, Posterior], Tensor]
"""divergence(p, q) -> (M,): how far p, the posteriors of M candidates x', are from q, those of their references."""

Classifier = Callable[[Tensor], Tensor]  # logits (M, K) of latents (M, D), such as `linear_probe`


def symmetric_kl(p: Posterior, q: Posterior) -> Tensor:
    """½KL[p ‖ q] + ½KL[q ‖ p] in nats: (N,)."""
    return (p.kl(q) + q.kl(p)) / 2


_DIVERGENCES: dict[str, Callable[..., Tensor]] = {
    "skl": symmetric_kl,
    "kl_forward": lambda p, q: q.kl(p),
    "kl_reverse": lambda p, q: p.kl(q),
    "w2": lambda p, q: ((p.mean - q.mean) ** 2 + (p.stddev - q.stddev) ** 2).sum(1),
    "means": lambda p, q: ((p.mean - q.mean) ** 2).sum(1),
}
DIVERGENCES = (*_DIVERGENCES, "classifier")
_DRAWS = 4  # of z, always the same ones, in the expectation of "output"

CONTROL: Draws = {"norm": "linf", "restarts": 10}
DEFAULTS: Search = {**CONTROL, "steps": 100}
PUBLISHED: Search = {"steps": 50, "alpha": 1.0, "direction": "gradient", "random_start": 0.2, "restarts": 10}
"""The authors' optimiser, from their public code: `attack(model, x, eps=0.1, **PUBLISHED)`, without a target.

Gradient ascent with learning rate 1 from x + N(0, 0.2²), which before the first step lies outside the ball. The
learning rate is not scale-free: where the loss is flat, or steep, it finds less than steps of a fixed size. Left out
is its schedule (halve after 20 steps without progress), which added 2 % on a small model; the authors' attack on a
target takes 500 steps and lives by it, so it is not this. The document averages over the restarts: the result's
`mean_loss`; for each restart's image: `attack(model, x.repeat(10, 1, 1, 1), …, **PUBLISHED | {"restarts": 1})`.
"""


def attack(
    model: LatentModel,
    x: Tensor,
    *,
    eps: float | Tensor,
    target: str | Tensor | None = None,
    divergence: str | Divergence = "skl",
    classifier: Classifier | None = None,
    **search: Unpack[Search],
) -> AttackResult:
    """Attack the posterior of images x (N, C, H, W) within `eps` per pixel (a number or (N,)) and in [0, 1].

    Without `target` the posterior is driven away from that of x; a target it is driven towards is images (C, H, W) or
    (N, C, H, W), or a name as in `latent.target_images`. `divergence` is one of DIVERGENCES or a callable (p, q) → (M,)
    of the posteriors of x' and of the reference, larger for posteriors further apart, such as `of_layers`; with a
    target also "output". The result's losses are in its unit. `classifier` belongs to divergence="classifier". By
    default 100 `steps` and 10 `restarts` in the L∞ ball; a larger `alpha` than the default, such as eps/4, may find
    more. `search`: see `pgd`.
    """
    loss_fn = loss(model, x, target=target, divergence=divergence, classifier=classifier, **shared(search))
    return engine.pgd(loss_fn, x, eps=eps, clip=(0.0, 1.0), targeted=target is not None, **(DEFAULTS | search))


def random_direction(
    model: LatentModel,
    x: Tensor,
    *,
    eps: float | Tensor,
    target: str | Tensor | None = None,
    divergence: str | Divergence = "skl",
    classifier: Classifier | None = None,
    **draws: Unpack[Draws],
) -> AttackResult:
    """Add noise of the same size, in L∞ ±eps at every pixel: the control beside `attack`, with the same result."""
    loss_fn = loss(model, x, target=target, divergence=divergence, classifier=classifier, **shared(draws))
    draws = CONTROL | draws
    return engine.random_direction(loss_fn, x, eps=eps, clip=(0.0, 1.0), targeted=target is not None, **draws)


def loss(
    model: LatentModel,
    x: Tensor,
    *,
    target: str | Tensor | None = None,
    divergence: str | Divergence = "skl",
    classifier: Classifier | None = None,
    generator: torch.Generator | None = None,
    chunk: int = 512,
) -> LossFn:
    """Build the loss of an attack on x: the divergence of the posterior of x' from that of x, or of the target.

    The references are encoded here, `chunk` at a time.
    """
    check_model_and_images(model, x, chunk=chunk)
    x = ordinary(x)
    if classifier is not None and divergence != "classifier":
        raise ValueError(f"classifier: it is used by divergence='classifier' only, got divergence={divergence!r}")
    goal = x if target is None else target_images(target, x, generator=generator)
    if divergence == "output":
        if target is None:
            raise ValueError("target: divergence='output' asks how well z explains a target image; give one")
        return _output(model, goal, generator)
    chunk = int(chunk)
    name = "posterior.kl" if divergence in ("skl", "kl_forward", "kl_reverse") else "divergence"
    between = _label_lost(classifier) if divergence == "classifier" else _divergence(divergence)
    with torch.no_grad():
        references = [model.posterior(part) for part in goal.split(chunk)]
    return lambda x_adv, index: _compared(between, model.posterior(x_adv), references, index, chunk, name)


def _compared(
    between: Divergence, p: Posterior, references: list[Posterior], index: Tensor, chunk: int, name: str
) -> Tensor:
    """Compare each row of p with its reference, which is in one of the parts of `chunk` rows: (M,)."""
    if len(references) == 1:
        delta = between(p, references[0][index])
        check_each(delta, name, len(index))
        return delta
    rows, found = [], []
    for part, reference in enumerate(references):
        here = (index // chunk == part).nonzero().flatten()
        if len(here):
            delta = between(p[here], reference[index[here] - part * chunk])
            check_each(delta, name, len(here))
            rows.append(here)
            found.append(delta)
    back = torch.cat(rows).argsort()  # to the order of p's rows
    return torch.cat(found)[back]


def _divergence(divergence: str | Divergence) -> Divergence:
    if callable(divergence):
        return divergence
    if divergence not in _DIVERGENCES:
        names = ", ".join((*DIVERGENCES, "output"))
        raise ValueError(f"divergence: {names} or a callable (p, q) expected, got {divergence!r}")
    return _DIVERGENCES[divergence]


def _label_lost(classifier) -> Divergence:
    check_classifier(classifier)

    def cross_entropy(p: Posterior, q: Posterior) -> Tensor:
        with evaluating("classifier"):
            label = classifier(q.mean).argmax(1)
        return F.cross_entropy(classifier(p.mean), label, reduction="none")

    return cross_entropy


def _output(model: LatentModel, goal: Tensor, generator: torch.Generator | None) -> LossFn:
    with torch.no_grad():
        one = model.posterior(goal[:1]).mean
    noise = randn_like(one.new_empty(len(goal), _DRAWS, one.shape[1]), generator)

    def negative_elbo(x_adv: Tensor, index: Tensor) -> Tensor:
        p, x_t = model.posterior(x_adv), goal[index]
        draws = (p.rsample(noise=fixed) for fixed in noise[index].unbind(1))
        terms = [p.log_prob(z) - model.log_prior(z) - model.log_likelihood(x_t, z) for z in draws]
        return torch.stack(terms).mean(0)

    return negative_elbo


def of_layers(divergence: str, layers: Sequence[int]) -> Divergence:
    """Make a divergence (skl, kl_forward, kl_reverse, w2 or means) of some layers of a hierarchical model alone.

    `layers` are numbered from 1 in the order of the posterior's `layer_slices`: a Seatbelt's z¹, z², …, a
    `hierarchical_vae`'s top group first. All layers together are the divergence itself. The KL of a layer takes both
    posteriors along the mean path of its first argument, w2 and means each along its own: a small KL of z² alone says
    that x' and the target would go on alike from the same z¹, not that they have the same z².
    """
    check_choice("divergence", divergence, _DIVERGENCES)
    if not isinstance(layers, Sequence) or not layers or len(set(layers)) != len(layers):
        raise ValueError(f"layers: a list of one layer or more, each once, expected, got {layers!r}")
    return lambda p, q: _DIVERGENCES[divergence](_Layers(p, layers), _Layers(q, layers))


@dataclass(frozen=True, eq=False)
class _Layers:
    """Some layers of a hierarchical posterior."""

    whole: Any  # with layer_slices and kl_layers
    layers: Sequence[int]

    def __post_init__(self) -> None:
        slices = getattr(self.whole, "layer_slices", None)
        if slices is None:
            raise ValueError(f"layers: a model with layers expected, got a {type(self.whole).__name__}")
        if not all(isinstance(i, Integral) and 1 <= i <= len(slices) for i in self.layers):
            raise ValueError(f"layers: numbers from 1 to {len(slices)} expected, got {self.layers!r}")

    @property
    def mean(self) -> Tensor:
        return self._columns(self.whole.mean)

    @property
    def stddev(self) -> Tensor:
        return self._columns(self.whole.stddev)

    def kl(self, other: "_Layers") -> Tensor:
        return self.whole.kl_layers(other.whole)[:, [int(i) - 1 for i in self.layers]].sum(1)

    def _columns(self, values: Tensor) -> Tensor:
        slices = self.whole.layer_slices
        return torch.cat([values[:, slices[i - 1]] for i in self.layers], 1)
