"""Projected gradient descent: the engine of attacks within a ball (for those without, see `lbfgs`).

An attack is an objective and a ball: find x' with ‖x' − x‖ ≤ eps that maximises (targeted: minimises) a loss, by
x' ← Π(x' + alpha · direction(∇loss)), where the direction is ∇/‖∇‖₂ in the L2 ball and sign(∇) in the L∞ ball
(Madry et al., 2018), or ∇ itself where asked for. Inputs may be images, latents, or anything with a batch in front.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from vaenb.checks import check_counts, check_gradients
from vaenb.distributions import rand_like, randn_like

LossFn = Callable[[Tensor, Tensor], Tensor]
"""loss_fn(x', index) -> (M,): the loss of M candidates, where index (M,) says which inputs they belong to."""


@dataclass(frozen=True, eq=False)
class AttackResult:
    """What an attack found and what it cost."""

    adversarial: Tensor  # (N, ...), the best restart of each input
    loss: Tensor  # (N,), its loss: the worst case for the model
    restart_losses: Tensor  # (R, N), the final loss of every restart
    gradient_calls: int  # gradients of the loss taken for each input
    forward_calls: int  # further evaluations of the loss for each input, without gradient

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
    clip: tuple[float, float] | None = None,
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
    result does not, unless `loss_fn` itself draws at random. Raises ValueError for arguments out of range, and when the
    loss is not finite or its gradient is NaN.
    """
    check_gradients()
    radius, step = _check(x, eps, alpha, steps, norm, clip, restarts, chunk)
    _check_search(random_start, restarts, direction, alpha)
    x = x.detach()
    starts = [_start(x, radius, norm, clip, random_start, generator) for _ in range(restarts)]
    sign = -1.0 if targeted else 1.0

    def run(x_adv: Tensor, index: Tensor) -> Tensor:
        x0, ball, rate = x[index], radius[index], step[index]
        for _ in range(steps):
            loss, gradient = _loss_and_gradient(loss_fn, x_adv, index)
            if gradient.isnan().any():  # its sign would be 0, and an input that is not attacked would look robust
                bad = gradient.flatten(1).isnan().any(1)
                what = "NaN gradient" if loss[bad].isfinite().all() else "NaN or infinite loss"
                raise ValueError(f"loss_fn: {what} for input(s) {index[bad].unique().tolist()[:5]} of {len(x)}")
            with torch.no_grad():
                move = gradient if direction == "gradient" else _direction(gradient, norm)
                x_adv = _project(x_adv + sign * rate * move, x0, ball, norm, clip)
        return x_adv

    return _keep_best(run, loss_fn, x, starts, targeted, chunk, gradient_calls=restarts * steps)


def random_direction(
    loss_fn: LossFn,
    x: Tensor,
    *,
    eps: float | Tensor,
    norm: str = "l2",
    clip: tuple[float, float] | None = None,
    restarts: int = 1,
    targeted: bool = False,
    generator: torch.Generator | None = None,
    chunk: int = 512,
) -> AttackResult:
    """Go eps in a random direction: the control that an attack must beat, and document 001's noisy channel.

    The arguments and the result are those of `pgd`. In L2 the direction is uniform on the sphere; in L∞ every
    coordinate moves by ±eps. `mean_loss` is what noise does on average, `loss` the worst of the draws.
    """
    radius, _ = _check(x, eps, None, 1, norm, clip, restarts, chunk)
    x = x.detach()
    moves = [radius * _direction(randn_like(x, generator), norm) for _ in range(restarts)]
    starts = [_project(x + move, x, radius, norm, clip) for move in moves]
    return _keep_best(lambda start, index: start, loss_fn, x, starts, targeted, chunk, gradient_calls=0)


def _keep_best(run, loss_fn, x, starts, targeted, chunk, *, gradient_calls) -> AttackResult:
    """Run all restarts of all inputs in chunks, and select the best restart of each input."""
    count, restarts = len(x), len(starts)
    rows = torch.arange(restarts * count, device=x.device)
    starts = torch.cat(starts)
    found, losses = [], []
    for chunk_rows in rows.split(chunk):
        index = chunk_rows % count
        x_adv = run(starts[chunk_rows], index)
        with torch.no_grad():
            losses.append(_loss(loss_fn, x_adv, index))
        found.append(x_adv)
    restart_losses = torch.cat(losses).view(restarts, count)
    if not restart_losses.isfinite().all():
        bad = (~restart_losses.isfinite()).any(0).nonzero().flatten().tolist()
        raise ValueError(f"loss_fn: NaN or infinite loss for input(s) {bad[:5]} of {count}")
    best = restart_losses.argmin(0) if targeted else restart_losses.argmax(0)
    each = torch.arange(count, device=x.device)
    adversarial = torch.cat(found).view(restarts, *x.shape)[best, each]
    return AttackResult(adversarial, restart_losses[best, each], restart_losses, gradient_calls, restarts)


def _loss(loss_fn: LossFn, x_adv: Tensor, index: Tensor) -> Tensor:
    loss = loss_fn(x_adv, index)
    if loss.shape != index.shape:
        raise ValueError(f"loss_fn: one loss for each input, {tuple(index.shape)}, expected, got {tuple(loss.shape)}")
    return loss


def _loss_and_gradient(loss_fn: LossFn, x_adv: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    with torch.enable_grad():  # also where the caller has switched gradients off
        x_adv = x_adv.requires_grad_()
        loss = _loss(loss_fn, x_adv, index)
        gradient = torch.autograd.grad(loss.sum(), x_adv, allow_unused=True)[0] if loss.requires_grad else None
    if gradient is None:
        raise ValueError("loss_fn: its value does not depend on x' differentiably; is there a detach or no_grad in it?")
    return loss.detach(), gradient


def _direction(gradient: Tensor, norm: str) -> Tensor:
    if norm == "linf":
        return gradient.sign()
    # The largest entry is taken out first, so that the norm of a tiny gradient does not underflow.
    tiny = torch.finfo(gradient.dtype).tiny
    gradient = gradient / _rows(gradient.flatten(1).abs().amax(1).clamp_min(tiny), gradient)
    return gradient / _rows(gradient.flatten(1).norm(dim=1).clamp_min(tiny), gradient)


def _project(x_adv: Tensor, x: Tensor, eps: Tensor, norm: str, clip: tuple[float, float] | None) -> Tensor:
    """Go to the ball, then to the box: x is in the box, so the second step cannot leave the ball."""
    offset = x_adv - x
    if norm == "linf":
        offset = offset.clamp(-eps, eps)
    else:
        length = _rows(offset.flatten(1).norm(dim=1), offset)
        offset = offset * (eps / length.clamp_min(torch.finfo(x.dtype).tiny)).clamp_max(1)
    return x + offset if clip is None else (x + offset).clamp(*clip)


def _start(x, radius, norm, clip, random_start: bool | float, generator: torch.Generator | None) -> Tensor:
    if random_start is False:
        return x
    if random_start is True:
        return _project(x + _inside(x, radius, norm, generator), x, radius, norm, clip)
    noisy = x + random_start * randn_like(x, generator)
    return noisy if clip is None else noisy.clamp(*clip)


def _inside(x: Tensor, eps: Tensor, norm: str, generator: torch.Generator | None) -> Tensor:
    """An offset uniform in the ball of radius eps."""
    if norm == "linf":
        return eps * (2 * rand_like(x, generator) - 1)
    direction = _direction(randn_like(x, generator), norm)
    return eps * _rows(rand_like(x.flatten(1)[:, 0], generator) ** (1 / x[0].numel()), x) * direction


def _rows(values: Tensor, like: Tensor) -> Tensor:
    """Shape one value a row for broadcasting over the row."""
    return values.view(-1, *[1] * (like.ndim - 1))


def _check(x, eps, alpha, steps, norm, clip, restarts, chunk) -> tuple[Tensor, Tensor]:
    _check_inputs(x, "x")
    check_counts(steps=steps, restarts=restarts, chunk=chunk)
    if norm not in ("l2", "linf"):
        raise ValueError(f"norm: l2 or linf expected, got {norm!r}")
    if clip is not None and not clip[0] < clip[1]:
        raise ValueError(f"clip: None or (low, high) with low < high expected, got {clip!r}")
    if clip is not None and (x.min() < clip[0] or x.max() > clip[1]):
        raise ValueError(f"x: values in clip={clip} expected, got {x.min():.4g} to {x.max():.4g}")
    radius = _per_row("eps", eps, x)
    return _rows(radius, x), _rows(2.5 * radius / steps if alpha is None else _per_row("alpha", alpha, x), x)


def _check_inputs(x, name: str) -> None:
    if not isinstance(x, Tensor) or not x.is_floating_point() or x.ndim < 2 or x.numel() == 0:
        got = f"{x.dtype} of shape {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(f"{name}: a non-empty float tensor (N, ...) expected, got {got}")
    if not x.isfinite().all():
        raise ValueError(f"{name}: NaN or infinite values; check the inputs before attacking them")


def _check_search(random_start: bool | float, restarts: int, direction: str, alpha: float | Tensor | None) -> None:
    if not isinstance(random_start, (bool, float)) or not 0 <= random_start < float("inf"):
        raise ValueError(f"random_start: True, False or a standard deviation like 0.2 expected, got {random_start!r}")
    if restarts > 1 and not random_start:
        raise ValueError(
            f"restarts: {restarts} runs from the same start are one run; use random_start=True or restarts=1"
        )
    if direction not in ("steepest", "gradient"):
        raise ValueError(f"direction: steepest or gradient expected, got {direction!r}")
    if direction == "gradient" and alpha is None:
        raise ValueError("alpha: a learning rate expected with direction='gradient', whose steps have no natural size")


def _per_row(name: str, value: float | Tensor, x: Tensor) -> Tensor:
    try:
        value = torch.as_tensor(value, dtype=x.dtype, device=x.device)
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"{name}: a number or a tensor ({len(x)},) expected, got {value!r}") from None
    if value.shape not in ((), (len(x),)):
        raise ValueError(f"{name}: a number or a tensor ({len(x)},) expected, got shape {tuple(value.shape)}")
    if not (value.isfinite() & (value >= 0)).all():
        raise ValueError(f"{name}: finite and ≥ 0 expected, got {value.min():.4g}")
    return value.expand(len(x))
