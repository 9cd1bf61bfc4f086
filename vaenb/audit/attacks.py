"""The attacks of an audit on three surfaces, and whether they were strong enough.

The decoder is attacked through its codes by two yardsticks, which may rank models differently: `spreads`, the standard
deviation s = √(tr Cov z / D) of the model's codes z ~ q(z|x), and `distance`, the √D·s that such a code typically lies
from their centre. One spread asks what one unusual coordinate does, one distance what the whole code does; at D = 9
three spreads are one distance. The encoder is attacked through the image, L∞, in pixels of 0…1.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from vaenb.attacks import encoder, latent, pgd
from vaenb.attacks.balls import Box
from vaenb.attacks.pgd import AttackResult, LossFn
from vaenb.audit.bench import Bench
from vaenb.audit.budget import quarter
from vaenb.audit.report import Climb
from vaenb.checks import NotDefined
from vaenb.metrics.distortion import DDCurve, aaddc_abs, measure_distortion
from vaenb.metrics.images import mse, ssim

RADII = {
    "decoder by spreads": (0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0),
    "decoder by distance": (0.0, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0),
    "encoder": (0.0, 0.025, 0.05, 0.1),
}
UNITS = {
    "decoder by spreads": "spreads of the codes",
    "decoder by distance": "distances of a code from the centre, √D spreads",
    "encoder": "L∞, pixels in 0…1",
}
METRICS = {"SSIM": ssim, "MSE": mse}
CONVERGED = 0.025  # the most by which an AADDC may fall at the doubled budget: half the margin of document 001's claims


@dataclass(frozen=True, eq=False)
class Surface:
    """Where a model is attacked."""

    name: str
    radii: Tensor  # (K,), in the surface's unit
    unit: float  # of that unit, in that of the inputs
    inputs: Tensor  # (A, …): codes or images
    loss: Callable[[Tensor], LossFn]
    images: Callable[[Tensor], Tensor]  # what is seen of inputs
    norm: str
    clip: Box = None

    def first(self, count: int) -> "Surface":
        """The same for some of the inputs."""
        return replace(self, inputs=self.inputs[:count])


def surface(bench: Bench, name: str) -> Surface:
    """Give one of the three surfaces; codes and their unit must be in the report."""
    radii = torch.tensor(RADII[name]).to(bench.x)
    model, chunk = bench.model, bench.chunk
    if name == "encoder":
        divergence = divergence_of(bench)

        def unlike(x: Tensor) -> LossFn:
            return encoder.loss(model, x, divergence=divergence, chunk=chunk)

        def copy(x: Tensor) -> Tensor:
            return model.decode(model.posterior(x).mean)

        return Surface(name, radii, 1.0, bench.few, unlike, copy, "linf", (0.0, 1.0))
    codes, unit = bench.report.codes["clean"], bench.report.settings["spread"]
    assert isinstance(unit, float)
    if name == "decoder by distance":
        unit *= codes.shape[1] ** 0.5

    def distance(z: Tensor) -> LossFn:
        return latent.loss(model, z, chunk=chunk)

    return Surface(name, radii, unit, codes, distance, model.decode, "l2")


def divergence_of(bench: Bench) -> str:
    """What an encoder attack climbs: the symmetric KL, or where there is none the distance of the means."""
    try:
        q = bench.model.posterior(bench.few[:2])
        q.kl(q)
    except (AttributeError, NotDefined):
        return "means"
    return "skl"


def attack(bench: Bench, name: str) -> None:
    """Attack a surface at all radii, beside a random step of the same length."""
    where = surface(bench, name)
    budget = bench.budget
    curve, stuck = climbed(bench, where, budget.steps, budget.restarts, name)
    control = stepped(bench, where)
    bench.report.curves |= {name: curve, f"{name}, random": control}
    _put_curves(bench, name, curve, control)
    if stuck.any():
        shares = stuck.view(len(where.radii) - 1, -1).any(0).double()
        bench.put(f"{name}: images without a gradient", "share; they only look robust", shares)


def climbed(bench: Bench, where: Surface, steps: int, restarts: int, name: str) -> tuple[DDCurve, Tensor]:
    """PGD at all radii above 0 as one batch: its curve, and which of the ((K − 1)·A,) inputs had no gradient.

    The report gets its losses by `name`: of the images that a doubled attack sees, too, over all radii.
    """
    repeated, eps = _repeated(where)
    loss_fn = where.loss(repeated)
    checked = torch.arange(len(repeated), device=repeated.device) % len(where.inputs) < quarter(len(bench.few))
    path, calls = torch.zeros(steps + 1), 0

    def traced(candidates: Tensor, index: Tensor) -> Tensor:
        nonlocal calls
        loss = loss_fn(candidates, index)
        path[calls % (steps + 1)] += loss.detach()[checked[index]].sum().cpu()  # each step of a block, and its end
        calls += 1
        return loss

    found = climb(bench, where, traced, repeated, eps, steps, restarts)
    best = found.loss[checked].mean().item()
    bench.report.climbs[name] = Climb(path / (restarts * checked.sum().item()), best)
    return _curve(bench, where, found.adversarial), found.stuck


def climb(
    bench: Bench, where: Surface, loss_fn: LossFn, inputs: Tensor, eps: float | Tensor, steps: int, restarts: int
) -> AttackResult:
    """PGD in a surface's norm and box, from the seed's beginning."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*had no gradient to follow")  # the report says it
        return pgd.pgd(loss_fn, inputs, eps=eps, steps=steps, restarts=restarts, **_within(bench, where))


def _within(bench: Bench, where: Surface) -> dict[str, Any]:
    return {"norm": where.norm, "clip": where.clip, "generator": bench.rng(), "chunk": bench.chunk}


def stepped(bench: Bench, where: Surface) -> DDCurve:
    """The control: one random step of each length."""
    repeated, eps = _repeated(where)
    found = pgd.random_direction(where.loss(repeated), repeated, eps=eps, **_within(bench, where))
    return _curve(bench, where, found.adversarial)


def _repeated(where: Surface) -> tuple[Tensor, Tensor]:
    """All inputs at the first radius above 0, then at the second, …, and their radii in the inputs' own unit."""
    copies = [len(where.radii) - 1] + [1] * (where.inputs.ndim - 1)
    eps = (where.radii[1:] * where.unit).repeat_interleave(len(where.inputs))
    return where.inputs.repeat(copies), eps


def _curve(bench: Bench, where: Surface, adversarial: Tensor) -> DDCurve:
    adversarial = torch.cat([where.inputs, adversarial])
    values = measure_distortion(where.images, where.inputs, adversarial, METRICS, chunk=bench.chunk)
    return DDCurve(where.radii, values, adversarial.view(len(where.radii), *where.inputs.shape))


def _put_curves(bench: Bench, name: str, curve: DDCurve, control: DDCurve) -> None:
    similar = curve.values["SSIM"]
    area = aaddc_abs(curve.radii, similar, better="higher")
    random = aaddc_abs(control.radii, control.values["SSIM"], better="higher")
    unit = "area under SSIM over the radii, 0…1"
    bench.put(f"{name}: AADDC", unit, area)
    bench.put(f"{name}: AADDC of a random step", unit, random)
    bench.put(f"{name}: AADDC, random step − attack", unit, random - area)
    for radius, values in zip(RADII[name][1:], similar[1:], strict=True):
        bench.put(f"{name}: SSIM at {radius:g}", f"SSIM; radius in {UNITS[name]}", values)


def check_strength(bench: Bench) -> None:
    """Attack a quarter of the images with doubled steps and restarts: by how much does that lower each area?"""
    budget = bench.budget
    count = quarter(len(bench.few))
    for name in RADII:
        where = surface(bench, name).first(count)
        doubled, _ = climbed(bench, where, 2 * budget.steps, 2 * budget.restarts, f"{name}, doubled")
        single = bench.report.curves[name].values["SSIM"][:, :count]
        before = aaddc_abs(where.radii, single, better="higher")
        after = aaddc_abs(where.radii, doubled.values["SSIM"], better="higher")
        bench.put(f"{name}: AADDC lost to a doubled attack", f"area, on {count} of the images", before - after)
