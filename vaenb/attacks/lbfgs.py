"""Box-constrained L-BFGS, batched over rows: the second engine of the attacks, for losses without a ball.

Each row of x minimises its own loss over the box low ≤ x ≤ high by the two-metric projection (Bertsekas, 1982; Gafni &
Bertsekas, 1984), with L-BFGS as the metric (Schmidt, Kim & Sra, 2012, "Projected Newton-type methods"):

    x ← Π(x + t·d),    d = −H∇ on the free coordinates,    d = −gamma ∇ on the others,

where those not free are at a bound with a gradient that points out of the box, Π clamps to the box, and H is the
two-loop recursion over the last steps s and changes y of the gradient, both taken on the free coordinates alone; a pair
without positive curvature there is passed over, and gamma = s·y/y·y of the newest one that is not. t comes from Armijo
backtracking along the projected arc. Where that does not descend, or lowers the loss by no more than rounding, the row
forgets its pairs and goes on with d = −gamma ∇, and when that gains nothing either, it stops.

This is not L-BFGS-B (Byrd et al., 1995), which picks the free coordinates at a generalised Cauchy point and searches
for t by Wolfe's conditions: on a convex loss the minimum is the same, on others as good, and the way there differs. Of
Bertsekas' method the margin, which counts coordinates close to a bound as at it, is left out: it changed nothing that
we could measure. The code is our own, for scipy, whose L-BFGS-B is the tests' yardstick, takes one row at a time.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from vaenb.attacks.balls import Box
from vaenb.attacks.pgd import LossFn, loss_and_gradient
from vaenb.checks import check_box, check_counts, check_gradients, check_number, check_rows, ordinary
from vaenb.metrics.blocks import joined

_ARMIJO = 1e-4  # the part of the predicted decrease that a step must bring
_TRIALS = 20  # of step lengths in one search
_SHRINK = (0.1, 0.5)  # the next length, as a part of the last
_GROWTH = 10.0  # of steepest descent's step, where a whole one found no curvature: the loss is linear or concave
_ROUNDING = 10  # machine epsilons, by which a loss or a gradient may change and be the same


@dataclass(frozen=True, eq=False)
class Minimum:
    """Where the search of each of N rows ended and what it cost."""

    x: Tensor  # (N, ...), in the box
    loss: Tensor  # (N,), never above the loss at the start
    projected_gradient: Tensor  # (N,), max |Π(x − ∇) − x|, which is 0 at a minimum
    steps: Tensor  # (N,) long: iterations
    gradient_calls: Tensor  # (N,) long: evaluations of the loss and its gradient
    converged: Tensor  # (N,) bool: within the tolerance, or steepest descent gains no more than rounding
    stuck: Tensor  # (N,) bool: the gradient at x0 was within the tolerance: a minimum, or a loss with nothing to follow


def minimize(
    loss_fn: LossFn,
    x0: Tensor,
    *,
    box: Box = (0.0, 1.0),
    steps: int = 100,
    memory: int = 10,
    tolerance: float = 1e-5,
    chunk: int = 512,
) -> Minimum:
    """Minimise the loss of every row from `x0` (N, ...) on, in `box` or without one.

    Rows are independent, and one that has finished is not evaluated again. A row stops when its projected gradient is
    at most `tolerance` (in units of loss per unit of x) in every coordinate, when steepest descent lowers the loss by
    no more than rounding, or after `steps` iterations. The second is what ends float32 and losses with kinks, such as
    a ReLU's, where the projected gradient need not be small. The first step is 1 long. `chunk` rows at a time are
    minimised, with `memory` pairs (s, y) of each in store. Raises ValueError for arguments out of range, and when the
    loss or its gradient is not finite at x0; where they are not finite later, the step is shortened.
    """
    check_gradients()
    check_rows(x0, "x0")
    check_counts(steps=steps, memory=memory, chunk=chunk)
    memory = int(memory)  # of which numpy's unsigned have no negative
    check_number("tolerance", tolerance, "a number ≥ 0", least=0)
    check_box("box", box, x0, of="x0")
    x0 = ordinary(x0)
    walls = (-torch.inf, torch.inf) if box is None else box
    parts = []
    with torch.no_grad():
        for index in torch.arange(len(x0), device=x0.device).split(int(chunk)):
            evaluate = _evaluation(loss_fn, x0, index)
            start = evaluate(x0[index].flatten(1), torch.arange(len(index), device=x0.device))
            _check_start(start, index)
            parts.append(_minimize(evaluate, start, walls, steps, memory, tolerance))
    found: Minimum = joined(parts)
    return replace(found, x=found.x.view_as(x0))


@dataclass(frozen=True, eq=False)
class _Points:
    """Where M rows are, and what the loss is like there."""

    x: Tensor  # (M, D)
    loss: Tensor  # (M,)
    gradient: Tensor  # (M, D)

    def __getitem__(self, rows: Tensor) -> "_Points":
        return _Points(self.x[rows], self.loss[rows], self.gradient[rows])

    def put(self, rows: Tensor, new: "_Points") -> None:
        """Move some of the rows, in place."""
        self.x[rows], self.loss[rows], self.gradient[rows] = new.x, new.loss, new.gradient


_Evaluate = Callable[[Tensor, Tensor], _Points]  # evaluate(x, rows), with candidates x (M, D)
_Pair = tuple[Tensor, Tensor]  # a step s (M, D) and the change y (M, D) of the gradient along it


def _evaluation(loss_fn: LossFn, x0: Tensor, index: Tensor) -> _Evaluate:
    def evaluate(x: Tensor, rows: Tensor) -> _Points:
        loss, gradient = loss_and_gradient(loss_fn, x.view(-1, *x0.shape[1:]), index[rows])
        # Copies, for they are written to: a gradient may be one number expanded, and a loss may be a view of x.
        gradient = gradient.flatten(1).clone(memory_format=torch.contiguous_format)
        return _Points(x, loss.to(x.dtype, copy=True), gradient)

    return evaluate


def _minimize(
    evaluate: _Evaluate, here: _Points, box: tuple[float, float], steps: int, memory: int, tolerance: float
) -> Minimum:
    """Minimise from `here` (N rows) on, in place; `rows` still search, and `pairs` and `gamma` are theirs alone."""
    residual = _residual(here, box)
    flat = here.gradient.abs().amax(1) <= tolerance
    converged = residual <= tolerance
    rows = (~converged).nonzero().flatten()
    taken = torch.zeros_like(residual, dtype=torch.long)
    calls = taken + 1
    rounding = _ROUNDING * torch.finfo(residual.dtype).eps
    pairs: list[_Pair] = []
    gamma = 1 / here.gradient[rows].norm(dim=1).clamp_min(torch.finfo(residual.dtype).tiny)  # the first step is 1 long
    for _ in range(steps):
        if not len(rows):
            break
        old = here[rows]
        direction, gamma, newton = _direction(old, pairs, gamma, box)
        new, length, trials = _line_search(evaluate, rows, old, direction, box)
        here.put(rows, new)
        taken[rows] += 1
        calls[rows] += trials
        s, y = new.x - old.x, new.gradient - old.gradient
        y[y.norm(dim=1) <= rounding * old.gradient.norm(dim=1)] = 0
        pairs = [*pairs, (s, y)][-memory:]
        uncurved = (length == 1) & (_dot(s, y) <= 0)
        gamma = torch.where(newton, gamma, gamma * torch.where(uncurved, _GROWTH, length))
        stalled = old.loss - new.loss <= rounding * new.loss.abs()
        for step, _ in pairs:
            step[stalled] = 0  # the pair is forgotten: what comes next is steepest descent
        residual[rows] = _residual(new, box)
        reached, stuck = residual[rows] <= tolerance, stalled & ~newton
        converged[rows] = reached | (stuck & (length > 0))
        go = ~(reached | stuck)
        if not go.all():
            rows, gamma = rows[go], gamma[go]
            pairs = [(s[go], y[go]) for s, y in pairs]
    return Minimum(here.x, here.loss, residual, taken, calls, converged, flat)


def _direction(
    at: _Points, pairs: list[_Pair], gamma: Tensor, box: tuple[float, float]
) -> tuple[Tensor, Tensor, Tensor]:
    """Return each row's direction, its gamma, and whether the direction is more than steepest descent."""
    at_low = (at.x <= box[0]) & (at.gradient > 0)
    at_high = (at.x >= box[1]) & (at.gradient < 0)
    free = ~(at_low | at_high)
    quasi_newton, gamma, used = _two_loop(at.gradient * free, free, pairs, gamma)
    steepest = -gamma[:, None] * at.gradient
    direction = torch.where(free, quasi_newton, steepest)
    move = (at.x + direction).clamp(*box) - at.x
    newton = used & (_dot(at.gradient, move) < 0)
    return torch.where(newton[:, None], direction, steepest), gamma, newton


def _two_loop(gradient: Tensor, free: Tensor, pairs: list[_Pair], gamma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """−H∇ on the free coordinates, gamma, and whether a row has any pair to use."""
    tiny = torch.finfo(gradient.dtype).eps ** 0.5
    used = torch.zeros_like(gamma, dtype=torch.bool)
    weights, q = [], gradient
    for s, y in reversed(pairs):
        y = y * free
        curvature, size = _dot(s, y), y.norm(dim=1)
        fine = curvature > tiny * size * (s * free).norm(dim=1)
        gamma = torch.where(fine & ~used, curvature / size**2, gamma)
        used = used | fine
        rho = torch.where(fine, 1 / curvature, 0)
        alpha = rho * _dot(s, q)
        weights.append((rho, alpha))
        q = q - alpha[:, None] * y
    r = gamma[:, None] * q
    for (s, y), (rho, alpha) in zip(pairs, reversed(weights), strict=True):
        r = r + (alpha - rho * _dot(y, r))[:, None] * s * free
    return -r, gamma, used


def _line_search(
    evaluate: _Evaluate, rows: Tensor, start: _Points, direction: Tensor, box: tuple[float, float]
) -> tuple[_Points, Tensor, Tensor]:
    """Shorten t from 1 on until Π(x + t·d) brings a part of the decrease that ∇ predicts; where none does, t = 0."""
    end = _Points(start.x.clone(), start.loss.clone(), start.gradient.clone())
    length, trials = torch.ones_like(start.loss), torch.zeros_like(rows)
    waiting = torch.arange(len(rows), device=rows.device)
    for _ in range(_TRIALS):
        at = start[waiting]
        trial = evaluate((at.x + length[waiting, None] * direction[waiting]).clamp(*box), rows[waiting])
        trials[waiting] += 1
        predicted = _dot(at.gradient, trial.x - at.x)
        finite = trial.loss.isfinite() & trial.gradient.isfinite().all(1)
        fine = finite & (predicted <= 0) & (trial.loss <= at.loss + _ARMIJO * predicted)
        end.put(waiting[fine], trial[fine])
        # The minimum of the parabola through the loss and the slope at the start and the loss at the trial.
        part = -predicted / (2 * (trial.loss - at.loss - predicted))
        shrink = part.nan_to_num(_SHRINK[0]).clamp(*_SHRINK)
        length[waiting] *= torch.where(fine, 1, shrink)
        waiting = waiting[~fine]
        if not len(waiting):
            break
    length[waiting] = 0
    return end, length, trials


def _residual(at: _Points, box: tuple[float, float]) -> Tensor:
    return (-at.gradient).clamp(box[0] - at.x, box[1] - at.x).abs().amax(1)  # a tiny gradient would be lost beside x


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(1)


def _check_start(start: _Points, index: Tensor) -> None:
    for name, fine in (("loss", start.loss.isfinite()), ("gradient", start.gradient.isfinite().all(1))):
        if not fine.all():
            raise ValueError(f"loss_fn: NaN or infinite {name} at x0 for row(s) {index[~fine][:5].tolist()}")
