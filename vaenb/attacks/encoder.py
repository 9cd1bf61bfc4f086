"""Attacks on encoders: a small change of the image that moves its posterior most (document 002a, Kuzina et al. 2022).

Unsupervised: x^a = argmax Δ[q(z|x'), q(z|x)] with ‖x' − x‖ ≤ eps and x' in [0, 1], where Δ is the symmetric KL
divergence ½KL[q(z|x') ‖ q(z|x)] + ½KL[q(z|x) ‖ q(z|x')].
"""

import torch
from torch import Tensor

from vaenb.attacks import pgd as engine
from vaenb.attacks.pgd import AttackResult, LossFn
from vaenb.models.contract import LatentModel, Posterior, check_images, check_model


def symmetric_kl(p: Posterior, q: Posterior) -> Tensor:
    """½KL[p ‖ q] + ½KL[q ‖ p] in nats: (N,)."""
    return (p.kl(q) + q.kl(p)) / 2


def attack(
    model: LatentModel,
    x: Tensor,
    *,
    eps: float | Tensor,
    norm: str = "linf",
    steps: int = 100,
    alpha: float | Tensor | None = None,
    restarts: int = 10,
    generator: torch.Generator | None = None,
    chunk: int = 512,
) -> AttackResult:
    """Drive the posterior of images x (N, C, H, W) away, within `eps` per pixel (a number or (N,)) and in [0, 1].

    The result's losses are symmetric KL divergences in nats. Other arguments: see `pgd`.
    """
    loss_fn = objective(model, x)
    return engine.pgd(
        loss_fn,
        x,
        eps=eps,
        alpha=alpha,
        steps=steps,
        norm=norm,
        clip=(0.0, 1.0),
        restarts=restarts,
        generator=generator,
        chunk=chunk,
    )


def random_direction(
    model: LatentModel,
    x: Tensor,
    *,
    eps: float | Tensor,
    norm: str = "linf",
    restarts: int = 10,
    generator: torch.Generator | None = None,
    chunk: int = 512,
) -> AttackResult:
    """Add noise of the same size, in L∞ ±eps at every pixel: the control beside `attack`, with the same result."""
    loss_fn, box = objective(model, x), (0.0, 1.0)
    return engine.random_direction(
        loss_fn, x, eps=eps, norm=norm, clip=box, restarts=restarts, generator=generator, chunk=chunk
    )


def objective(model: LatentModel, x: Tensor) -> LossFn:
    """Build the loss of an unsupervised attack on x: the symmetric KL between the posteriors of x' and of x."""
    check_model(model)
    check_images(x)
    with torch.no_grad():
        clean = model.posterior(x)
    return lambda x_adv, index: symmetric_kl(model.posterior(x_adv), clean[index])
