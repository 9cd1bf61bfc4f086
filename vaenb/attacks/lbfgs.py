"""Box-constrained L-BFGS, batched over rows: the second engine of the attacks, for objectives without a ball.

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
we could measure. The code is our own because scipy, whose L-BFGS-B is the tests' yardstick, takes one row at a time,
and we know of no library that batches a box-constrained quasi-Newton method.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from vaenb.attacks.pgd import LossFn, _check_inputs, _loss_and_gradient
from vaenb.checks import check_counts, check_gradients

_ARMIJO = 1e-4  # the part of the predicted decrease that a step must bring
_TRIALS = 20  # of step lengths in one search
_SHRINK = (0.1, 0.5)  # the next length, as a part of the last
_GROWTH = 10.0  # of steepest descent's step, where a whole one found no curvature: the loss is linear or concave
_ROUNDING = 10  # machine epsilons, by which a loss or a gradient may change and be the same

_Evaluate = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""evaluate(x, rows) -> (loss (M,), gradient (M, D)) of candidates x (M, D)."""


@dataclass(frozen=True, eq=False)
class Minimum:
    """Where the search of each of N rows ended and what it cost."""

    x: Tensor  # (N, ...), in the box
    loss: Tensor  # (N,), never above the loss at the start
    projected_gradient: Tensor  # (N,), max |Π(x − ∇) − x|, which is 0 at a minimum
    steps: Tensor  # (N,) long: iterations
    gradient_calls: Tensor  # (N,) long: evaluations of the loss and its gradient
    converged: Tensor  # (N,) bool: within the tolerance, or steepest descent gains no more than rounding


def minimize(
    loss_fn: LossFn,
    x0: Tensor,
    *,
    box: tuple[float, float] | None = (0.0, 1.0),
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
    box = _check(x0, box, steps, memory, tolerance, chunk)
    x0 = x0.detach()
    with torch.no_grad():
        parts = [
            _minimize(_evaluation(loss_fn, x0, index), x0[index].flatten(1), index, box, steps, memory, tolerance)
            for index in torch.arange(len(x0), device=x0.device).split(chunk)
        ]
    found = {field.name: torch.cat([getattr(part, field.name) for part in parts]) for field in fields(Minimum)}
    return Minimum(**found | {"x": found["x"].view_as(x0)})


def _evaluation(loss_fn: LossFn, x0: Tensor, index: Tensor) -> _Evaluate:
    def evaluate(x: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        loss, gradient = _loss_and_gradient(loss_fn, x.view(-1, *x0.shape[1:]), index[rows])
        # Copies, for they are written to: a gradient may be one number expanded, and a loss may be a view of x.
        return loss.to(x.dtype, copy=True), gradient.flatten(1).clone(memory_format=torch.contiguous_format)

    return evaluate


def _minimize(evaluate: _Evaluate, x: Tensor, index: Tensor, box, steps, memory, tolerance) -> Minimum:
    """Minimise from x (N, D) on, in place; `rows` still search, and `pairs` and `gamma` are theirs alone."""
    loss, gradient = evaluate(x, torch.arange(len(x), device=x.device))
    _check_start(loss, gradient, index)
    residual = _residual(x, gradient, box)
    converged = residual <= tolerance
    taken, calls = torch.zeros_like(index), torch.ones_like(index)
    rows, pairs, rounding = (~converged).nonzero().flatten(), [], _ROUNDING * torch.finfo(x.dtype).eps
    gamma = 1 / gradient[rows].norm(dim=1).clamp_min(torch.finfo(x.dtype).tiny)  # the first step is 1 long
    for _ in range(steps):
        if not len(rows):
            break
        start = x[rows], loss[rows], gradient[rows]
        direction, gamma, newton = _direction(*start, pairs, gamma, box)
        x[rows], loss[rows], gradient[rows], length, trials = _line_search(evaluate, rows, *start, direction, box)
        taken[rows] += 1
        calls[rows] += trials
        s, y = x[rows] - start[0], gradient[rows] - start[2]
        y[y.norm(dim=1) <= rounding * start[2].norm(dim=1)] = 0
        pairs = [*pairs, (s, y)][-memory:]
        gamma = torch.where(newton, gamma, gamma * torch.where((length == 1) & (_dot(s, y) <= 0), _GROWTH, length))
        stalled = start[1] - loss[rows] <= rounding * loss[rows].abs()
        for old, _ in pairs:
            old[stalled] = 0  # the pair is forgotten: what comes next is steepest descent
        residual[rows] = _residual(x[rows], gradient[rows], box)
        reached, stuck = residual[rows] <= tolerance, stalled & ~newton
        converged[rows] = reached | (stuck & (length > 0))
        go = ~(reached | stuck)
        if not go.all():
            rows, gamma, pairs = rows[go], gamma[go], [(s[go], y[go]) for s, y in pairs]
    return Minimum(x, loss, residual, taken, calls, converged)


def _direction(x, loss, gradient, pairs, gamma, box) -> tuple[Tensor, Tensor, Tensor]:
    """Return each row's direction, its gamma, and whether the direction is more than steepest descent."""
    free = ~(((x <= box[0]) & (gradient > 0)) | ((x >= box[1]) & (gradient < 0)))
    quasi_newton, gamma, used = _two_loop(gradient * free, free, pairs, gamma)
    steepest = -gamma[:, None] * gradient
    direction = torch.where(free, quasi_newton, steepest)
    newton = used & (_dot(gradient, (x + direction).clamp(*box) - x) < 0)
    return torch.where(newton[:, None], direction, steepest), gamma, newton


def _two_loop(gradient, free, pairs, gamma) -> tuple[Tensor, Tensor, Tensor]:
    """−H∇ on the free coordinates, gamma, and whether a row has any pair to use."""
    tiny = torch.finfo(gradient.dtype).eps ** 0.5
    used, weights, q = torch.zeros_like(gamma, dtype=torch.bool), [], gradient
    for s, y in reversed(pairs):
        y = y * free
        curvature, size = _dot(s, y), y.norm(dim=1)
        fine = curvature > tiny * size * (s * free).norm(dim=1)
        gamma = torch.where(fine & ~used, curvature / size**2, gamma)
        used = used | fine
        rho = torch.where(fine, 1 / curvature, 0)
        weights.append((rho, rho * _dot(s, q)))
        q = q - weights[-1][1][:, None] * y
    r = gamma[:, None] * q
    for (s, y), (rho, alpha) in zip(pairs, reversed(weights), strict=True):
        r = r + (alpha - rho * _dot(y, r))[:, None] * s * free
    return -r, gamma, used


def _line_search(evaluate, rows, x, loss, gradient, direction, box) -> tuple[Tensor, ...]:
    """Shorten t from 1 on until Π(x + t·d) brings a part of the decrease that ∇ predicts; where none does, t = 0."""
    x_new, loss_new, gradient_new = x.clone(), loss.clone(), gradient.clone()
    length, trials = torch.ones_like(loss), torch.zeros_like(rows)
    waiting = torch.arange(len(rows), device=x.device)
    for _ in range(_TRIALS):
        trial = (x[waiting] + length[waiting, None] * direction[waiting]).clamp(*box)
        predicted = _dot(gradient[waiting], trial - x[waiting])
        value, slope = evaluate(trial, rows[waiting])
        trials[waiting] += 1
        finite = value.isfinite() & slope.isfinite().all(1)
        fine = finite & (predicted <= 0) & (value <= loss[waiting] + _ARMIJO * predicted)
        done = waiting[fine]
        x_new[done], loss_new[done], gradient_new[done] = trial[fine], value[fine], slope[fine]
        # The minimum of the parabola through the loss and the slope at the start and the loss at the trial.
        part = -predicted / (2 * (value - loss[waiting] - predicted))
        length[waiting] *= torch.where(fine, 1, part.nan_to_num(_SHRINK[0]).clamp(*_SHRINK))
        waiting = waiting[~fine]
        if not len(waiting):
            break
    length[waiting] = 0
    return x_new, loss_new, gradient_new, length, trials


def _residual(x: Tensor, gradient: Tensor, box: tuple[float, float]) -> Tensor:
    return (-gradient).clamp(box[0] - x, box[1] - x).abs().amax(1)  # as a tiny gradient would be lost beside x


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(1)


def _check_start(loss: Tensor, gradient: Tensor, index: Tensor) -> None:
    for name, fine in (("loss", loss.isfinite()), ("gradient", gradient.isfinite().all(1))):
        if not fine.all():
            raise ValueError(f"loss_fn: NaN or infinite {name} at x0 for row(s) {index[~fine][:5].tolist()}")


def _check(x0, box, steps, memory, tolerance, chunk) -> tuple[float, float]:
    _check_inputs(x0, "x0")
    check_counts(steps=steps, memory=memory, chunk=chunk)
    if not 0 <= tolerance < float("inf"):
        raise ValueError(f"tolerance: a number ≥ 0 expected, got {tolerance!r}")
    if box is None:
        return -torch.inf, torch.inf
    if not isinstance(box, (tuple, list)) or len(box) != 2 or not box[0] < box[1]:
        raise ValueError(f"box: None or (low, high) with low < high expected, got {box!r}")
    if x0.min() < box[0] or x0.max() > box[1]:
        raise ValueError(f"x0: values in box={box} expected, got {x0.min():.4g} to {x0.max():.4g}")
    return box
