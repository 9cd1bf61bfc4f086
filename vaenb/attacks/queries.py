"""An attack on a decoder by its outputs alone, which is all that document 001's threat model grants; no gradients.

Random search along orthonormal directions, one query a step: go z' ← Π(z' + s·u) if that is better, else try −u next
(SimBA, Guo et al., 2019). The directions are random and not pixels, and the step shrinks from s = eps to eps/10 as in
the Square Attack (Andriushchenko et al., 2020). At 10 and 30 dimensions this beat PGD with NES gradients
(Ilyas et al., 2018), which pays for several queries before it moves, and at up to 100 queries evolution strategies.
"""

from dataclasses import replace

import torch
from torch import Tensor

from vaenb.attacks.latent import Distance, mean_squared_error, objective
from vaenb.attacks.pgd import AttackResult, LossFn, _check, _keep_best, _loss, _project, _start
from vaenb.checks import check_counts
from vaenb.contract import LatentModel
from vaenb.distributions import randn_like


@torch.no_grad()
def query_attack(
    model: LatentModel,
    z: Tensor,
    *,
    eps: float | Tensor,
    target: str | Tensor | None = None,
    distance: Distance = mean_squared_error,
    norm: str = "l2",
    queries: int = 300,
    restarts: int = 2,
    generator: torch.Generator | None = None,
    chunk: int = 512,
) -> AttackResult:
    """Attack latents z (N, D) within `eps` by at most `queries` images decoded for each, with `latent.attack`'s rest.

    The queries are shared out among the restarts, and `forward_calls` says how many were made: one for Dec(z), then
    for each restart those of its search and one to look at what it found; `gradient_calls` is 0. The best point seen
    is returned. All rows and restarts try the same directions, from starts of their own.
    """
    check_counts(queries=queries)
    loss_fn = objective(model, z, target=target, distance=distance, generator=generator)
    radius, _ = _check(z, eps, None, 1, norm, None, restarts, chunk)
    tries = (queries - 1) // restarts - 2  # of one restart, beside its start and its end
    if tries < 0:
        raise ValueError(f"queries: at least {1 + 2 * restarts} expected for {restarts} restart(s), got {queries}")
    z = z.detach()
    directions = _directions(z, tries, generator)
    starts = [_start(z, radius, norm, None, True, generator) for _ in range(restarts)]
    sign = 1.0 if target is None else -1.0

    def run(start: Tensor, index: Tensor) -> Tensor:
        return _search(loss_fn, start, index, z[index], radius[index], norm, directions, sign)

    result = _keep_best(run, loss_fn, z, starts, target is not None, chunk, gradient_calls=0)
    return replace(result, forward_calls=1 + restarts * (tries + 2))


def _search(
    loss_fn: LossFn, x: Tensor, index: Tensor, x0: Tensor, eps: Tensor, norm: str, directions: Tensor, sign: float
) -> Tensor:
    """Climb sign·loss from x (M, D) along `directions` (T, D), one query a step and row."""
    value = sign * _loss(loss_fn, x, index)
    reach = eps if norm == "l2" else eps * x.shape[1] ** 0.5  # a unit step of u moves a coordinate by 1/√D
    move, mirrored = torch.zeros_like(x), torch.zeros_like(eps, dtype=torch.bool)
    for step, u in enumerate(directions):
        move = torch.where(mirrored, -move, u)
        x_new = _project(x + 0.1 ** (step / len(directions)) * reach * move, x0, eps, norm, None)
        value_new = sign * _loss(loss_fn, x_new, index)
        better = value_new > value
        x, value = torch.where(better[:, None], x_new, x), torch.where(better, value_new, value)
        mirrored = ~(better[:, None] | mirrored)
    return x


def _directions(z: Tensor, count: int, generator: torch.Generator | None) -> Tensor:
    """Random unit vectors (count, D) in z's space, each D of them orthonormal."""
    dimensions = z.shape[1]
    bases = randn_like(z.new_empty(-(-count // dimensions), dimensions, dimensions), generator)
    return torch.linalg.qr(bases).Q.mT.flatten(0, 1)[:count]
