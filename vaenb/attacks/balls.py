"""The balls that attacks stay in: ‖x' − x‖ ≤ eps for each row x, in L2 or L∞, and the box of valid inputs."""

from dataclasses import dataclass

import torch
from torch import Tensor

from vaenb.checks import check_box, check_choice, check_rows, ordinary
from vaenb.distributions import rand_like, randn_like
from vaenb.precision import check_precision

Box = tuple[float, float] | None


@dataclass(frozen=True, eq=False)
class Ball:
    """A ball around each of N rows; `ball_around` checks what it is made of."""

    center: Tensor  # (N, ...), in the box
    radius: Tensor  # (N, 1, ...)
    norm: str  # l2 or linf
    clip: Box = None  # the box, (0, 1) for images

    def __getitem__(self, index: Tensor) -> "Ball":
        return Ball(self.center[index], self.radius[index], self.norm, self.clip)

    def project(self, x: Tensor) -> Tensor:
        """Bring x (N, ...) to the ball, then to the box: the centre is in it, so that this cannot leave the ball."""
        offset = x - self.center
        if self.norm == "linf":
            offset = offset.clamp(-self.radius, self.radius)
        else:
            length = per_row(offset.flatten(1).norm(dim=1), offset)
            if length.isinf().any():  # squares overflow: a step along a steep gradient
                offset = torch.where(length.isinf(), self.radius * steepest(offset, "l2"), offset)
                length = per_row(offset.flatten(1).norm(dim=1), offset)
            share = self.radius / length.clamp_min(torch.finfo(offset.dtype).tiny)
            offset = offset * share.clamp_max(1)
        return self.boxed(self.center + offset)

    def uniform(self, generator: torch.Generator | None) -> Tensor:
        """Draw uniformly from the ball, then go to the box: (N, ...)."""
        if self.norm == "linf":
            offset = self.radius * (2 * rand_like(self.center, generator) - 1)
        else:
            direction = steepest(randn_like(self.center, generator), "l2")
            rows = self.center.flatten(1)
            reach = rand_like(rows[:, 0], generator) ** (1 / rows.shape[1])
            offset = self.radius * per_row(reach, self.center) * direction
        return self.project(self.center + offset)

    def boxed(self, x: Tensor) -> Tensor:
        """Bring x to the box alone."""
        return x if self.clip is None else x.clamp(*self.clip)


def ball_around(x: Tensor, eps: float | Tensor, *, norm: str, clip: Box = None) -> Ball:
    """Build the balls of radius `eps` (a number or (N,)) around x (N, ...). Raises TypeError or ValueError."""
    check_rows(x)
    check_precision("x", x)
    check_choice("norm", norm, ("l2", "linf"))
    check_box("clip", clip, x, of="x")
    return Ball(ordinary(x), row_lengths("eps", eps, x), norm, clip)


def steepest(gradient: Tensor, norm: str) -> Tensor:
    """The direction of each row, of length 1 in its norm, in which a loss with this gradient grows fastest."""
    if norm == "linf":
        return gradient.sign()
    # The largest entry is taken out first, so that the norm of a tiny gradient does not underflow.
    tiny = torch.finfo(gradient.dtype).tiny
    largest = gradient.flatten(1).abs().amax(1).clamp_min(tiny)
    gradient = gradient / per_row(largest, gradient)
    length = gradient.flatten(1).norm(dim=1).clamp_min(tiny)
    return gradient / per_row(length, gradient)


def per_row(values: Tensor, like: Tensor) -> Tensor:
    """Shape one value a row (N,) for broadcasting over `like` (N, ...): (N, 1, ...)."""
    return values.view(-1, *[1] * (like.ndim - 1))


def row_lengths(name: str, value: float | Tensor, x: Tensor) -> Tensor:
    """Give each row of x a length ≥ 0, from a number or (N,): (N, 1, ...). Raises ValueError."""
    expected = f"{name}: a number or a tensor ({len(x)},) expected"
    try:
        lengths = torch.as_tensor(value, dtype=x.dtype, device=x.device).detach()
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"{expected}, got {value!r}") from None
    if lengths.shape not in ((), (len(x),)):
        raise ValueError(f"{expected}, got shape {tuple(lengths.shape)}")
    fine = lengths.isfinite() & (lengths >= 0)
    if not fine.all():
        raise ValueError(f"{name}: finite and ≥ 0 expected, got {lengths[~fine].flatten()[0]:.4g}")
    return per_row(lengths.expand(len(x)), x)
