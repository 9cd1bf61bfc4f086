"""Audit a LatentModel: everything that the notebooks measure of a VAE, of any model and images, in one call.

Clean quality stands beside robustness, as a model that reconstructs nothing has nothing to lose, and beside every
attack a random step of its length. Intervals are 95 % bootstraps over images: they say how much hangs on the images,
nothing of another training run.
"""

import sys
from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor
from tqdm.auto import tqdm

from vaenb.audit import attacks, measuring, stronger
from vaenb.audit.adapters import Wrapped
from vaenb.audit.bench import Bench, reason
from vaenb.audit.budget import Budget, Watched, expected, named
from vaenb.audit.report import AuditFailed, AuditInterrupted, Report
from vaenb.checks import check_channels, check_images, check_labels, ordinary
from vaenb.contract import LatentModel, NotDefined, check_contract, raised_at
from vaenb.distributions import seeded
from vaenb.precision import check_precision, no_autocast

PARTS: dict[str, Callable[[Bench], None]] = {
    "codes": measuring.codes,
    "clean images": measuring.quality,
    **{f"attack, {name}": partial(attacks.attack, name=name) for name in attacks.RADII},
    "HMC repair": measuring.repaired,
    "labels": measuring.probe,
    "scores": measuring.scores,
    "doubled attack": attacks.check_strength,
}
_LATENT, _ENCODER = len(attacks.RADII["decoder by spreads"]) - 1, len(attacks.RADII["encoder"]) - 1  # above 0


@torch.inference_mode(False)
@no_autocast
def audit(
    model: LatentModel,
    x: Tensor,
    *,
    outside: Mapping[str, Tensor] | None = None,
    labels: Tensor | None = None,
    budget: str | Budget = "standard",
    data: str = "",
    seed: int = 0,
    progress: bool = True,
) -> Report:
    """Audit a model on test images x (N, C, H, W) in [0, 1], seen in no training.

    `outside` are out-of-distribution sets by name; `labels` (N,) of x ask what attacks do to a linear probe. `budget`
    is quick, standard or thorough (see `BUDGETS`); `data` names the set that x is of, mnist or fashion_mnist, beside
    whose reference models the report is to stand. What is not defined for the model stands in the report with the
    reason. Raises ValueError or TypeError for a model or images that don't fit, half precision among them, and
    AuditInterrupted after Ctrl-C and AuditFailed where the model raises later, which carry the report so far.
    """
    seeded(seed)  # refuses what is no seed
    budget, outside = named(budget), {} if outside is None else outside
    _check_images(x, outside)
    given, x = x, ordinary(x[: budget.images])
    if labels is not None:
        check_labels(labels, len(given))
        labels = labels[: len(x)].to(x.device)
    check_contract(model, x[:3])
    check_precision("posterior(x)", model.posterior(x[:2]).mean)
    sets = {name: ordinary(images[: len(x)]) for name, images in outside.items()}
    cost = expected(
        model,
        x,
        budget,
        sets=len(sets) + 1 if sets else 0,
        densities=_has_densities(model, x[:2]),
        radii=(_LATENT, _ENCODER),
    )
    if progress:
        print(_announced(cost.seconds, len(x), cost.at_once), file=sys.stderr)
    with tqdm(total=cost.rows, leave=False, disable=not progress, unit="row", unit_scale=True, mininterval=1) as bar:
        bench = Bench(Watched(model, bar), x, sets, labels, budget, cost.at_once, int(seed))
        _settle(bench, data, model)
        return _measured(bench, bar)


def _measured(bench: Bench, bar: tqdm) -> Report:
    parts = dict(PARTS)
    if bench.budget.thorough:
        parts["stronger attacks"] = stronger.attack
    report = bench.report
    for name, part in parts.items():
        bar.set_postfix_str(name, refresh=False)
        try:
            part(bench)
        except KeyboardInterrupt:
            report.stopped = "by Ctrl-C"
            raise AuditInterrupted(report) from None
        except Exception as error:  # whatever somebody's model raises
            if not report.measures:
                raise
            report.stopped = f"in its part '{name}' by {type(error).__name__}: {reason(error)}{raised_at(error)}"
            raise AuditFailed(report) from error
    return report


def _settle(bench: Bench, data: str, model: LatentModel) -> None:
    budget = bench.budget
    bench.report.settings |= {
        "model": type(model).__name__,
        "assumed": getattr(model, "assumed", ""),
        "data": data,
        "images": len(bench.x),
        "shape": list(bench.x.shape[1:]),
        "attacked": len(bench.few),
        "steps": budget.steps,
        "restarts": budget.restarts,
        "thorough": budget.thorough,
        "divergence": attacks.divergence_of(bench),
        "rows at once": bench.chunk,
        "seed": bench.seed,
    }
    if isinstance(model, Wrapped):
        bench.report.settings["cut off"] = model.cut_off(bench.few)


def _has_densities(model: LatentModel, x: Tensor) -> bool:
    try:
        z = model.posterior(x).mean
        model.log_prior(z), model.log_likelihood(x, z), model.posterior(x).log_prob(z)
    except NotDefined:
        return False
    return True


def _announced(seconds: float, images: int, at_once: int) -> str:
    about = f"{seconds:.0f} seconds" if seconds < 100 else f"{seconds / 60:.0f} minutes"
    return f"{images} images, up to {at_once} at once; it takes about {about}. Ctrl-C keeps what there is by then."


def _check_images(x: Tensor, outside: Mapping[str, Tensor]) -> None:
    if not isinstance(outside, Mapping):
        raise TypeError(f"outside: a dict of image sets by name expected, got {type(outside).__name__}")
    check_images(x)
    check_precision("x", x)
    check_channels(x)
    if len(x) < 2 or min(x.shape[2:]) < 6:
        got = f"shape {tuple(x.shape)}"
        raise ValueError(f"x: two images or more of at least six pixels a side (for SSIM) expected, got {got}")
    if (x == x[0]).all():
        raise ValueError(f"x: images that differ expected, got {len(x)} copies of one")
    for name, images in outside.items():
        where = f"outside[{name!r}]"
        check_images(images, where)
        if (images.dtype, images.device) != (x.dtype, x.device):
            got = f"{images.dtype} on {images.device}"
            raise ValueError(f"{where}: {x.dtype} on {x.device}, as x, expected, got {got}; use .to(x)")
        if images.shape[1:] != x.shape[1:] or len(images) < 2:
            raise ValueError(
                f"{where}: two images or more of x's shape {tuple(x.shape[1:])} expected, got {tuple(images.shape)}; "
                f"vaenb.data.load(…, size={x.shape[-1]}) scales them"
            )
