"""What stronger attackers find, on a quarter of the images at one radius: more PGD, L-BFGS, queries, HMC known."""

from collections.abc import Callable

import torch
from torch import Tensor

from vaenb.attacks import adaptive
from vaenb.attacks.balls import ball_around
from vaenb.attacks.latent import mean_squared_error
from vaenb.attacks.lbfgs import minimize
from vaenb.attacks.queries import query_attack
from vaenb.audit.attacks import RADII, Surface, climb, surface
from vaenb.audit.bench import Bench, tried
from vaenb.audit.budget import MORE_RESTARTS, MORE_STEPS, QUERIES, quarter
from vaenb.audit.measuring import chains_of

AT = {"decoder by spreads": 1.0, "decoder by distance": 0.4, "encoder": 0.1}  # each one of its surface's radii


def attack(bench: Bench) -> None:
    """Set each attacker on each surface, and the one who knows HMC on the repair."""
    count = quarter(len(bench.few))
    for name, radius in AT.items():
        where = surface(bench, name).first(count)
        eps = radius * where.unit
        clean = bench.by_parts(where.images, where.inputs)
        at = RADII[name].index(radius)
        worst = bench.report.curves[name].values["SSIM"][at, :count]
        unit = f"SSIM at {radius:g}, {count} of the images"
        bench.put(f"{name}: standard attack", unit, worst)
        for attacker, found in _attackers(bench, where, eps).items():
            adversarial = tried(found)
            if isinstance(adversarial, str):
                bench.put(f"{name}: {attacker}", unit, adversarial)
                continue
            similar = bench.similar(clean, bench.by_parts(where.images, adversarial))
            worst = torch.minimum(worst, similar)
            bench.put(f"{name}: {attacker}", unit, similar)
        bench.put(f"{name}: worst of all attackers", unit, worst)
    _knowing(bench, count)


def _attackers(bench: Bench, where: Surface, eps: float) -> dict[str, Callable[[], Tensor]]:
    found = {
        f"PGD, {MORE_STEPS} × the steps, {MORE_RESTARTS} × the restarts": lambda: _pgd(bench, where, eps),
        "L-BFGS": lambda: lbfgs(bench, where, eps),
    }
    if where.name != "encoder":
        found[f"{QUERIES} queries"] = lambda: (
            query_attack(
                bench.model, where.inputs, eps=eps, queries=QUERIES, generator=bench.rng(), chunk=bench.chunk
            ).adversarial
        )
    return found


def _pgd(bench: Bench, where: Surface, eps: float) -> Tensor:
    steps, restarts = MORE_STEPS * bench.budget.steps, MORE_RESTARTS * bench.budget.restarts
    loss_fn = where.loss(where.inputs)
    return climb(bench, where, loss_fn, where.inputs, eps, steps, restarts).adversarial


def lbfgs(bench: Bench, where: Surface, eps: float) -> Tensor:
    """Maximise the loss by L-BFGS, of points that are brought into the ball before they are looked at."""
    ball = ball_around(where.inputs, eps, norm=where.norm, clip=where.clip)
    loss_fn = where.loss(where.inputs)

    def loss(candidates: Tensor, index: Tensor) -> Tensor:
        return -loss_fn(ball[index].project(candidates), index)

    found = minimize(loss, ball.uniform(bench.rng()), box=None, steps=4 * bench.budget.steps, chunk=bench.chunk)
    return ball.project(found.x)


def _knowing(bench: Bench, count: int) -> None:
    """An attacker who knows that images are repaired, judged with fresh randomness beside one who does not."""
    x, model = bench.few[:count], bench.model
    unit = f"SSIM to the clean reconstruction, {count} of the images"
    chains = tried(lambda: chains_of(bench, x))
    if isinstance(chains, str):
        bench.put("repair: against an attacker who knows it", unit, chains)
        return
    goal = bench.copies(x)

    def code_loss(z: Tensor, index: Tensor) -> Tensor:
        return mean_squared_error(goal[index], model.decode(z))

    known = adaptive.attack(
        model,
        x,
        code_loss,
        eps=AT["encoder"],
        defence=chains,
        chunk=min(64, bench.chunk),
        generator=bench.rng(),
        transitions=5,
        leapfrog_steps=5,
        draws=4,
        steps=10,
        restarts=1,
    ).adversarial
    blind = bench.report.curves["encoder"].adversarial[-1, :count]
    for name, images in (("one who does not", blind), ("an attacker who knows it", known)):
        moved = chains_of(bench, images).mean
        bench.put(f"repair: against {name}", unit, bench.similar(goal, bench.decoded(moved)))
