"""Attacks on decoders: a small step in latent space that changes the image most (document 001, Lu and Chen 2023).

Untargeted z' = argmax D(Dec z', Dec z), targeted z' = argmin D(Dec z', x_t), with ‖z' − z‖ ≤ eps.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from vaenb.attacks import pgd as engine
from vaenb.attacks.pgd import AttackResult, LossFn
from vaenb.models.contract import LatentModel, check_images, check_latents, check_model, rand_like

Distance = Callable[[Tensor, Tensor], Tensor]
TARGETS = ("black", "white", "noise", "inverted")


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
    norm: str = "l2",
    steps: int = 10,
    alpha: float | Tensor | None = None,
    restarts: int = 5,
    generator: torch.Generator | None = None,
    chunk: int = 512,
) -> AttackResult:
    """Attack latents z (N, D) within `eps` (in latent units; a number or (N,)) by PGD with random starts.

    Without `target` the decoded image is driven away from Dec(z); a target it is driven towards is black, white,
    noise (uniform), inverted (1 − Dec(z)), or images (C, H, W) or (N, C, H, W). `distance(a, b)` gives (N,), larger
    for images further apart (1 − SSIM, not SSIM); the result's losses are in its unit. Other arguments: see `pgd`.
    """
    loss_fn = objective(model, z, target=target, distance=distance, generator=generator)
    return engine.pgd(
        loss_fn,
        z,
        eps=eps,
        alpha=alpha,
        steps=steps,
        norm=norm,
        restarts=restarts,
        targeted=target is not None,
        generator=generator,
        chunk=chunk,
    )


def random_direction(
    model: LatentModel,
    z: Tensor,
    *,
    eps: float | Tensor,
    target: str | Tensor | None = None,
    distance: Distance = mean_squared_error,
    norm: str = "l2",
    restarts: int = 5,
    generator: torch.Generator | None = None,
    chunk: int = 512,
) -> AttackResult:
    """Move z by `eps` in random directions: the control beside `attack`, with the same arguments and result."""
    loss_fn = objective(model, z, target=target, distance=distance, generator=generator)
    targeted = target is not None
    return engine.random_direction(
        loss_fn, z, eps=eps, norm=norm, restarts=restarts, targeted=targeted, generator=generator, chunk=chunk
    )


def objective(
    model: LatentModel,
    z: Tensor,
    *,
    target: str | Tensor | None = None,
    distance: Distance = mean_squared_error,
    generator: torch.Generator | None = None,
) -> LossFn:
    """Build the loss of an attack on z: the distance of Dec(z') to Dec(z), or to the target."""
    check_model(model)
    check_latents(z)
    with torch.no_grad():
        images = torch.cat([model.decode(part) for part in z.split(512)])
    check_images(images, "model.decode(z)")
    goal = images if target is None else target_images(target, images, generator=generator)
    return lambda z_adv, index: distance(model.decode(z_adv), goal[index])


def target_images(target: str | Tensor, images: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
    """Make the target of each image (N, C, H, W): black, white, noise, inverted, or the given image(s)."""
    if not isinstance(target, str):
        check_images(target if not isinstance(target, Tensor) or target.ndim == 4 else target[None], "target")
        if target.shape not in (images.shape, images.shape[1:]):
            expected = f"{tuple(images.shape[1:])} or {tuple(images.shape)}"
            raise ValueError(f"target: an image of shape {expected} expected, got {tuple(target.shape)}")
        return target.to(images).expand_as(images)
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
