"""Projected gradient descent: the engine of attacks within a ball (for those without, see `lbfgs`).

An attack is a loss and a ball: find x' with ‖x' − x‖ ≤ eps that maximises (targeted: minimises) a loss, by
x' ← Π(x' + alpha · direction(∇loss)), where the direction is ∇/‖∇‖₂ in the L2 ball and sign(∇) in the L∞ ball
(Madry et al., 2018), or ∇ itself where asked for. Inputs may be images, latents, or anything with a batch in front.
"""

import math
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypedDict

import numpy as np
import torch
from torch import Tensor

from vaenb.attacks.balls import Ball, Box, ball_around, row_lengths, steepest
from vaenb.checks import check_choice, check_counts, check_gradients, first_of
from vaenb.distributions import randn_like

LossFn = Callable[[Tensor, Tensor], Tensor]
"""loss_fn(x', index) -> (M,): the loss of M candidates, where index (M,) says which inputs they belong to."""


class Shared(TypedDict, total=False):
    """What a search and the making of its loss have in common."""

    generator: torch.Generator | None
    chunk: int


class Draws(Shared, total=False):
    """What `random_direction` takes beside a loss, inputs and a radius."""

    norm: str
    restarts: int


class Search(Draws, total=False):
    """What every attack within a ball hands on to `pgd`, which says what it means."""

    steps: int
    alpha: float | Tensor | None
    random_start: bool | float
    direction: str


@dataclass(frozen=True, eq=False)
class AttackResult:
    """What an attack found and what it cost."""

    adversarial: Tensor  # (N, ...), the best restart of each input
    loss: Tensor  # (N,), its loss: the worst case for the model
    restart_losses: Tensor  # (R, N), the final loss of every restart
    gradient_calls: int  # gradients of the loss taken for each input
    forward_calls: int  # further evaluations of the loss for each input, without gradient
    stuck: Tensor  # (N,) bool: the gradient was exactly zero at every step of every restart, which only looks robust

    @property
    def mean_loss(self) -> Tensor:
        """The mean over the restarts (N,), which published numbers often are; report it beside the worst case."""
        return self.restart_losses.mean(0)


def pgd(
    loss_fn: LossFn,
    x: Tensor,
    *,
    eps: float | Tensor,
    alpha: float | Tensor | None = None,
    steps: int = 10,
    norm: str = "l2",
    clip: Box = None,
    random_start: bool | float = True,
    restarts: int = 1,
    direction: str = "steepest",
    targeted: bool = False,
    generator: torch.Generator | None = None,
    chunk: int = 512,
) -> AttackResult:
    """Attack every row of `x` (N, ...) and keep the best of `restarts` runs per row.

    `eps` and `alpha` are numbers or tensors (N,), so that many radii are one batch; `alpha` defaults to
    2.5·eps/steps. `norm` is l2 or linf; `clip` is the box of valid inputs, (0, 1) for images. `random_start` begins
    uniformly in the ball: at x itself the gradient of a distance to x is exactly zero. As a float it is a standard
    deviation: begin at x + N(0, random_start²), in the box, but in the ball only from the first step on.
    `direction="gradient"` steps along ∇loss itself instead of its direction, as plain gradient ascent does: `alpha` is
    then a learning rate, which has no default. At most `chunk` candidates are evaluated at a time; memory changes, the
    result does not, unless `loss_fn` itself draws at random. Inputs that never had a gradient, as where a softmax
    saturates, are `stuck` in the result, and a UserWarning gives their share. Raises ValueError for arguments out of
    range, and when the loss is not finite or its gradient has no direction: NaN, or infinite in L2. Raises TypeError
    for half precision.
    """
    check_gradients()
    check_counts(steps=steps, restarts=restarts, chunk=chunk)
    steps, restarts = int(steps), int(restarts)
    _check_search(random_start, restarts, direction, alpha)
    ball = ball_around(x, eps, norm=norm, clip=clip)
    rate = 2.5 * ball.radius / steps if alpha is None else row_lengths("alpha", alpha, x)
    starts = [_start(ball, random_start, generator) for _ in range(restarts)]
    sign = -1.0 if targeted else 1.0
    by_sign = norm == "linf" and direction == "steepest"  # which infinite slopes have, too
    moved = torch.zeros(len(x), dtype=torch.bool, device=x.device)  # by a gradient, at any step of any restart

    def climb(x_adv: Tensor, index: Tensor) -> Tensor:
        around, stride = ball[index], sign * rate[index]
        for _ in range(steps):
            loss, gradient = loss_and_gradient(loss_fn, x_adv, index)
            broken = gradient.isnan() if by_sign else ~gradient.isfinite()
            if broken.any():  # a NaN's sign would be 0, and an input that is not attacked would look robust
                bad = broken.flatten(1).any(1)
                what = "NaN or infinite gradient" if loss[bad].isfinite().all() else "NaN or infinite loss"
                raise ValueError(f"loss_fn: {what} for input(s) {index[bad].unique().tolist()[:5]} of {len(x)}")
            moved[index[gradient.flatten(1).any(1)]] = True
            with torch.no_grad():
                move = gradient if direction == "gradient" else steepest(gradient, norm)
                x_adv = around.project(x_adv + stride * move)
        return x_adv

    result = keep_best(loss_fn, starts, climb, targeted=targeted, chunk=chunk, gradient_calls=restarts * steps)
    stuck = ~moved & (ball.radius.flatten() > 0)
    warn_of_stuck(stuck)
    return replace(result, stuck=stuck)


def random_direction(
    loss_fn: LossFn,
    x: Tensor,
    *,
    eps: float | Tensor,
    norm: str = "l2",
    clip: Box = None,
    restarts: int = 1,
    targeted: bool = False,
    generator: torch.Generator | None = None,
    chunk: int = 512,
) -> AttackResult:
    """Go eps in a random direction: the control that an attack must beat, and document 001's noisy channel.

    The arguments and the result are those of `pgd`. In L2 the direction is uniform on the sphere; in L∞ every
    coordinate moves by ±eps. `mean_loss` is what noise does on average, `loss` the worst of the draws.
    """
    check_counts(restarts=restarts, chunk=chunk)
    ball = ball_around(x, eps, norm=norm, clip=clip)
    moves = [ball.radius * steepest(randn_like(x, generator), norm) for _ in range(restarts)]
    draws = [ball.project(ball.center + move) for move in moves]
    return keep_best(loss_fn, draws, targeted=targeted, chunk=chunk)


def keep_best(
    loss_fn: LossFn,
    starts: list[Tensor],
    search: Callable[[Tensor, Tensor], Tensor] | None = None,
    *,
    targeted: bool = False,
    chunk: int = 512,
    gradient_calls: int = 0,
) -> AttackResult:
    """Run `search(start, index)` from every start (N, ...), if any, `chunk` rows at a time: each input's best end."""
    restarts, count = len(starts), len(starts[0])
    start = torch.cat(starts)
    ends, losses = [], []
    for rows in torch.arange(restarts * count, device=start.device).split(int(chunk)):
        index = rows % count
        end = search(start[rows], index) if search else start[rows]
        with torch.no_grad():
            losses.append(evaluate(loss_fn, end, index))
        ends.append(end)
    restart_losses = torch.cat(losses).view(restarts, count)
    if bad := first_of(~restart_losses.isfinite().all(0)):
        raise ValueError(f"loss_fn: NaN or infinite loss for input(s) {bad}")
    best = restart_losses.argmin(0) if targeted else restart_losses.argmax(0)
    each = torch.arange(count, device=best.device)
    adversarial = torch.cat(ends).view(restarts, *starts[0].shape)[best, each]
    nowhere = torch.zeros_like(best, dtype=torch.bool)
    return AttackResult(adversarial, restart_losses[best, each], restart_losses, gradient_calls, restarts, nowhere)


def warn_of_stuck(stuck: Tensor) -> None:
    """Warn with the share of the inputs (N,) that an attack could not move, if there are any."""
    count = int(stuck.sum())
    if count:
        share = f"{count} of {len(stuck)} inputs ({count / len(stuck):.0%})"
        warnings.warn(
            f"{share} had no gradient to follow: they only look robust (`stuck` in the result). What helps: a random "
            "start, a larger eps, float64, or a loss that does not saturate; for decoders `queries.query_attack`, "
            "which needs no gradient",
            stacklevel=_frames_within(),
        )


def _frames_within() -> int:
    """How many calls lie between a warning and the user's line: those within this package."""
    frame, count = sys._getframe(1), 1
    while frame.f_back and frame.f_globals.get("__name__", "").startswith("vaenb."):
        frame, count = frame.f_back, count + 1
    return count


def shared(search: Draws) -> Shared:
    """What the making of a loss takes of a search: its generator and its chunk."""
    return {"generator": search.get("generator"), "chunk": search.get("chunk", 512)}


def evaluate(loss_fn: LossFn, x_adv: Tensor, index: Tensor) -> Tensor:
    """The losses (M,) of candidates x'. Raises ValueError for any other shape."""
    loss = loss_fn(x_adv, index)
    if loss.shape != index.shape:
        raise ValueError(f"loss_fn: one loss for each input, {tuple(index.shape)}, expected, got {tuple(loss.shape)}")
    return loss


def loss_and_gradient(loss_fn: LossFn, x_adv: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    """The losses (M,) of candidates x' and their gradients, also where the caller has switched gradients off."""
    with torch.enable_grad():
        x_adv = x_adv.requires_grad_()
        loss = evaluate(loss_fn, x_adv, index)
        gradient = torch.autograd.grad(loss.sum(), x_adv, allow_unused=True)[0] if loss.requires_grad else None
    if gradient is None:
        raise ValueError("loss_fn: its value does not depend on x' differentiably; is there a detach or no_grad in it?")
    return loss.detach(), gradient


def _start(ball: Ball, random_start: bool | float, generator: torch.Generator | None) -> Tensor:
    if isinstance(random_start, (bool, np.bool_)):
        return ball.uniform(generator) if random_start else ball.center
    return ball.boxed(ball.center + float(random_start) * randn_like(ball.center, generator))


def _check_search(random_start: bool | float, restarts: int, direction: str, alpha: float | Tensor | None) -> None:
    if not isinstance(random_start, (bool, float, np.bool_, np.floating)) or not 0 <= random_start < math.inf:
        raise ValueError(f"random_start: True, False or a standard deviation like 0.2 expected, got {random_start!r}")
    if restarts > 1 and not random_start:
        raise ValueError(f"restarts: {restarts} runs from one start are one run; use random_start=True or restarts=1")
    check_choice("direction", direction, ("steepest", "gradient"))
    if direction == "gradient" and alpha is None:
        raise ValueError("alpha: a learning rate expected with direction='gradient', whose steps have no natural size")
