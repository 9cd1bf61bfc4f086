"""An attack on a decoder by its outputs alone, which is all that document 001's threat model grants; no gradients.

Random search along orthonormal directions, one query a step: go z' ← Π(z' + s·u) if that is better, else try −u next
(SimBA, Guo et al., 2019). The directions are random and not pixels, and the step shrinks from s = eps to eps/10 as in
the Square Attack (Andriushchenko et al., 2020). At 10 and 30 dimensions this beat PGD with NES gradients
(Ilyas et al., 2018), which pays for several queries before it moves, and at up to 100 queries evolution strategies.
"""

from dataclasses import replace

import torch
from torch import Tensor

from vaenb.attacks.balls import Ball, ball_around
from vaenb.attacks.latent import Distance, loss, mean_squared_error
from vaenb.attacks.pgd import AttackResult, LossFn, evaluate, keep_best
from vaenb.checks import check_counts
from vaenb.contract import LatentModel
from vaenb.distributions import randn_like
from vaenb.precision import check_precision


@torch.no_grad()
def query_attack(
    model: LatentModel,
    z: Tensor,
    *,
    eps: float | Tensor,
    target: str | Tensor | None = None,
    distance: Distance = mean_squared_error,
    queries: int = 300,
    restarts: int = 2,
    generator: torch.Generator | None = None,
    chunk: int = 512,
) -> AttackResult:
    """Attack latents z (N, D) within `eps` (L2) by at most `queries` images decoded for each.

    `target` and `distance` are as in `latent.attack`.
    The queries are shared out among the restarts, and `forward_calls` says how many were made: one for Dec(z), then
    for each restart those of its search and one to look at what it found; `gradient_calls` is 0. The best point seen
    is returned. All rows and restarts try the same directions, from starts of their own.
    """
    check_counts(queries=queries, restarts=restarts, chunk=chunk)
    check_precision("z", z)
    queries, restarts = int(queries), int(restarts)
    tries = (queries - 1) // restarts - 2  # of one restart, beside its start and its end
    if tries < 0:
        raise ValueError(f"queries: at least {1 + 2 * restarts} expected for {restarts} restart(s), got {queries}")
    loss_fn = loss(model, z, target=target, distance=distance, generator=generator, chunk=chunk)
    ball = ball_around(z, eps, norm="l2")
    directions = _directions(z, tries, generator)
    starts = [ball.uniform(generator) for _ in range(restarts)]
    sign = 1.0 if target is None else -1.0

    def search(start: Tensor, index: Tensor) -> Tensor:
        return _climb(loss_fn, start, index, ball[index], directions, sign)

    result = keep_best(loss_fn, starts, search, targeted=target is not None, chunk=chunk)
    return replace(result, forward_calls=1 + restarts * (tries + 2))


def _climb(loss_fn: LossFn, x: Tensor, index: Tensor, ball: Ball, directions: Tensor, sign: float) -> Tensor:
    """Climb sign·loss from x (M, D) along `directions` (T, D), one query a step and row."""
    value = sign * evaluate(loss_fn, x, index)
    move = torch.zeros_like(x)
    retry = torch.zeros_like(ball.radius, dtype=torch.bool)  # rows that try −u next, in place of a new direction
    for step, u in enumerate(directions):
        move = torch.where(retry, -move, u)
        stride = 0.1 ** (step / len(directions)) * ball.radius
        x_new = ball.project(x + stride * move)
        value_new = sign * evaluate(loss_fn, x_new, index)
        better = value_new > value
        x, value = torch.where(better[:, None], x_new, x), torch.where(better, value_new, value)
        retry = ~better[:, None] & ~retry
    return x


def _directions(z: Tensor, count: int, generator: torch.Generator | None) -> Tensor:
    """Random unit vectors (count, D) in z's space, each D of them orthonormal."""
    dimensions = z.shape[1]
    bases = randn_like(z.new_empty(-(-count // dimensions), dimensions, dimensions), generator)
    q, r = torch.linalg.qr(bases)
    signs = r.diagonal(dim1=1, dim2=2).sign()  # LAPACK's q has them fixed: without them no direction is uniform
    return (q * signs[:, None]).mT.flatten(0, 1)[:count]
