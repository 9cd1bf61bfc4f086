"""Attacks on decoders: a small step in latent space that changes the image most (document 001, Lu and Chen 2023).

Untargeted z' = argmax D(Dec z', Dec z), targeted z' = argmin D(Dec z', x_t), with ‖z' − z‖ ≤ eps. `attack` climbs by
PGD; `spectral_attack` takes one step, z' = z ± eps·v₁, where v₁ is the top right singular vector of the decoder's
Jacobian: to first order ‖Dec z' − Dec z‖² = eps²·σ₁². An attack without gradients is in `queries`.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Unpack

import torch
from torch import Tensor

from vaenb.attacks import pgd as engine
from vaenb.attacks.balls import ball_around, per_row, steepest
from vaenb.attacks.pgd import AttackResult, Draws, LossFn, Search, shared
from vaenb.checks import (
    check_counts,
    check_decoded,
    check_gradients,
    check_images,
    check_latents,
    check_model,
    check_rows,
    evaluating,
    ordinary,
)
from vaenb.contract import LatentModel
from vaenb.distributions import rand_like, randn_like
from vaenb.metrics.blocks import BLOCK

Distance = Callable[[Tensor, Tensor], Tensor]
TARGETS = ("black", "white", "noise", "inverted")
CONTROL: Draws = {"norm": "l2", "restarts": 5}
DEFAULTS: Search = {**CONTROL, "steps": 10}


def mean_squared_error(a: Tensor, b: Tensor) -> Tensor:
    """Mean squared difference over the pixels: (N,). `images.mse` without its checks: it is called every step."""
    return ((a - b) ** 2).flatten(1).mean(1)


def attack(
    model: LatentModel,
    z: Tensor,
    *,
    eps: float | Tensor,
    target: str | Tensor | None = None,
    distance: Distance = mean_squared_error,
    **search: Unpack[Search],
) -> AttackResult:
    """Attack latents z (N, D) within `eps` (in latent units; a number or (N,)) by PGD with random starts.

    Without `target` the decoded image is driven away from Dec(z); a target it is driven towards is black, white,
    noise (uniform), inverted (1 − Dec(z)), or images (C, H, W) or (N, C, H, W). `distance(a, b)` gives (N,), larger
    for images further apart (1 − SSIM, not SSIM); the result's losses are in its unit. By default 10 `steps` and
    5 `restarts` in the L2 ball; `search`: see `pgd`.
    """
    loss_fn = loss(model, z, target=target, distance=distance, **shared(search))
    return engine.pgd(loss_fn, z, eps=eps, targeted=target is not None, **(DEFAULTS | search))


def random_direction(
    model: LatentModel,
    z: Tensor,
    *,
    eps: float | Tensor,
    target: str | Tensor | None = None,
    distance: Distance = mean_squared_error,
    **draws: Unpack[Draws],
) -> AttackResult:
    """Move z by `eps` in random directions: the control beside `attack`, with the same defaults and result."""
    loss_fn = loss(model, z, target=target, distance=distance, **shared(draws))
    return engine.random_direction(loss_fn, z, eps=eps, targeted=target is not None, **(CONTROL | draws))


def spectral_attack(
    model: LatentModel,
    z: Tensor,
    *,
    eps: float | Tensor,
    iterations: int = 10,
    generator: torch.Generator | None = None,
) -> AttackResult:
    """Move z (N, D) by `eps` (L2; a number or (N,)) along ±v₁, the decoder's most sensitive direction at z.

    The sign is the one with the larger squared error; `restart_losses` (2, N) has both. The cost is all that was
    spent: `gradient_calls` = 2·iterations, one jvp and one vjp each, and `forward_calls` = 4, to decode z, to build
    the graph that the iterations share, and to try two signs. So a call here is a backward pass, and one of
    `attack`, which does not count its decoding of z, a forward and a backward pass. Where the Jacobian is 0 the input
    is `stuck`, and a UserWarning gives the share. Errors: see `top_singular`.
    """
    loss_fn = loss(model, z)
    ball = ball_around(z, eps, norm="l2")
    sigma, v = top_singular(model.decode, z, iterations=iterations, generator=generator)
    ends = [ball.project(ball.center + sign * ball.radius * v) for sign in (1, -1)]
    result = engine.keep_best(loss_fn, ends, gradient_calls=2 * int(iterations))
    stuck = (sigma == 0) & (ball.radius.flatten() > 0)
    engine.warn_of_stuck(stuck)
    return replace(result, forward_calls=4, stuck=stuck)


def top_singular(
    function: Callable[[Tensor], Tensor], z: Tensor, *, iterations: int = 10, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Find the largest singular value (N,) and its unit right vector (like z) of a function's Jacobian at each row.

    `function` maps (N, ...) to (N, ...), row by row: `model.decode`, or `lambda x: model.posterior(x).mean`. Power
    iteration on JᵀJ from a random vector: the wrong part of v shrinks by (σ₂/σ₁)² an iteration, and the value, never
    too large, is off by the square of that part. The Jacobian is never built: v ↦ Jv is the derivative of w ↦ Jᵀw,
    so that everything torch can differentiate twice will do. Where J = 0 the value is 0 and v is random. Raises
    ValueError where no gradient reaches z.
    """
    check_gradients()
    check_rows(z, "z")
    check_counts(iterations=iterations)
    z = ordinary(z)
    starts = steepest(randn_like(z, generator), "l2")
    sigmas, vectors = [], []
    for part, start in zip(z.split(BLOCK), starts.split(BLOCK), strict=True):
        sigma, v = _power(function, part, start, iterations)
        sigmas.append(sigma)
        vectors.append(v)
    return torch.cat(sigmas), torch.cat(vectors)


def _power(function: Callable[[Tensor], Tensor], z: Tensor, v: Tensor, iterations: int) -> tuple[Tensor, Tensor]:
    """Power iteration for some rows; the graph of Jᵀw is built once, as J stays the same."""
    with torch.enable_grad():
        z = z.clone().requires_grad_()
        y = function(z)
        if not isinstance(y, Tensor):
            raise TypeError(f"function: a tensor expected, got {type(y).__name__}; of a posterior, take its mean")
        w = torch.zeros_like(y, requires_grad=True)
        back = torch.autograd.grad(y, z, w, create_graph=True, allow_unused=True)[0] if y.requires_grad else None
    if back is None:
        raise ValueError("function: no gradient of its output reaches z; `queries.query_attack` needs none")
    for _ in range(iterations):
        (forward,) = torch.autograd.grad(back, w, v, retain_graph=True)
        u = steepest(forward, "l2")
        (pulled,) = torch.autograd.grad(y, z, u, retain_graph=True)
        sigma = pulled.flatten(1).norm(dim=1)
        if not sigma.isfinite().all():
            bad = (~sigma.isfinite()).nonzero().flatten().tolist()[:5]
            raise ValueError(f"function: NaN or infinite Jacobian for row(s) {bad} of {len(z)}")
        v = torch.where(per_row(sigma, v) > 0, steepest(pulled, "l2"), v)
    return sigma, v


def loss(
    model: LatentModel,
    z: Tensor,
    *,
    target: str | Tensor | None = None,
    distance: Distance = mean_squared_error,
    generator: torch.Generator | None = None,
    chunk: int = 512,
) -> LossFn:
    """Build the loss of an attack on z: the distance of Dec(z') to Dec(z), or to the target.

    Dec(z) is made here, `chunk` at a time.
    """
    check_model(model)
    check_latents(z)
    check_counts(chunk=chunk)
    parts = []
    with torch.no_grad(), evaluating("model"):
        for part in ordinary(z).split(int(chunk)):
            parts.append(model.decode(part))
            check_decoded(parts[-1])
            if len(parts[-1]) != len(part):
                raise ValueError(f"decode: an image for each of {len(part)} latents expected, got {len(parts[-1])}")
    images = torch.cat(parts)
    check_images(images, "model.decode(z)")
    goal = images if target is None else target_images(target, images, generator=generator)
    return lambda z_adv, index: distance(model.decode(z_adv), goal[index])


def target_images(target: str | Tensor, images: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
    """Make the target of each image (N, C, H, W): black, white, noise, inverted, or the given image(s)."""
    if not isinstance(target, str):
        check_images(target[None] if isinstance(target, Tensor) and target.ndim == 3 else target, "target")
        if target.shape not in (images.shape, images.shape[1:]):
            expected = f"{tuple(images.shape[1:])} or {tuple(images.shape)}"
            raise ValueError(f"target: an image of shape {expected} expected, got {tuple(target.shape)}")
        return ordinary(target).to(images).expand_as(images)
    match target:
        case "black":
            return torch.zeros_like(images)
        case "white":
            return torch.ones_like(images)
        case "noise":
            return rand_like(images, generator)
        case "inverted":
            return 1 - images
    raise ValueError(f"target: {', '.join(TARGETS)} or a tensor of images expected, got {target!r}")
