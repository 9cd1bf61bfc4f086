"""Audit a LatentModel: everything that the notebooks measure of a VAE, of any model and images, in one call.

Clean quality stands beside robustness, as a model that reconstructs nothing has nothing to lose, and beside every
attack a random step of its length. Latent radii are multiples of the `spread` of the model's own codes,
√(tr Cov z / D) over z ~ q(z|x), so that stretching the latent space changes nothing (between codes of different length
D it is not the only yardstick: notebook 10). Intervals are 95 % bootstraps over images: they say how much hangs on the
images, nothing of another training.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from vaenb.attacks import encoder, latent
from vaenb.checks import check_counts, check_images
from vaenb.contract import LatentModel, NotDefined, check_contract, reconstruct
from vaenb.defences.repair import repair
from vaenb.metrics import detection, ood
from vaenb.metrics.diagnosis import posterior_ratio
from vaenb.metrics.distortion import DDCurve, _check_radii, _measure, aaddc_abs, dd_curve, spread
from vaenb.metrics.images import mse, ssim
from vaenb.metrics.likelihood import bits_per_dim, elbo
from vaenb.sampling import hmc
from vaenb.stats import Estimate, bootstrap

MULTIPLES = (0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0)  # latent radii, in spreads of the model's codes
DELTAS = (0.0, 0.025, 0.05, 0.1)  # encoder radii, L∞, of the pixels' range; the last one's images are repaired
METRICS = {"SSIM": ssim, "MSE": mse}
_RESAMPLES = 500
_SHOWN = 6  # images in the report's picture
_ACTIVE = 0.01  # variance of the means that makes a latent active (Burda et al., 2016)
_MIXED = 1.1  # the R-hat up to which a chain counts as mixed


@dataclass(frozen=True, eq=False)
class Report:
    """What `audit` found: `estimates[section][measure]` is an Estimate, or a text that says why there is none."""

    estimates: dict[str, dict[str, Estimate | str]]
    curves: dict[str, DDCurve]  # latent, latent random, encoder, encoder random: radii in MULTIPLES and DELTAS
    spreads: Tensor  # (D,), each latent's standard deviation over z ~ q(z|x), sorted downwards
    stddevs: Tensor  # (D,), the mean of q(z|x)'s own, in the same order
    pictures: dict[str, Tensor]  # rows of a few images (n, C, H, W): clean, reconstructed, attacked, repaired
    settings: dict[str, object]

    def __getitem__(self, name: str) -> Estimate | str:
        """One measure, as in report["latent attack: AADDC"]. Raises KeyError naming those there are."""
        section, _, measure = name.rpartition(": ")
        if measure not in self.estimates.get(section, {}):
            raise KeyError(f"{name!r}; there are {[f'{s}: {m}' for s, found in self.estimates.items() for m in found]}")
        return self.estimates[section][measure]

    def table(self) -> str:
        """Lay the report out as a Markdown table."""
        lines = ["| measure | value [95 %] | images |", "| --- | --- | --- |"]
        for section, found in self.estimates.items():
            lines.append(f"| **{section}** | | |")
            rows = [(measure, _shown(e), str(getattr(e, "n", ""))) for measure, e in found.items()]
            lines += [f"| {' | '.join(text.replace('|', chr(92) + '|') for text in row)} |" for row in rows]
        return "\n".join(lines)

    def to_json(self) -> dict:
        """Give everything but the pictures as plain numbers and texts; curves as means over their images."""
        plain = {
            s: {m: e if isinstance(e, str) else asdict(e) for m, e in f.items()} for s, f in self.estimates.items()
        }
        curves = {
            name: {"radii": c.radii.tolist()} | {metric: v.mean(1).tolist() for metric, v in c.values.items()}
            for name, c in self.curves.items()
        }
        scale = {"spreads": self.spreads.tolist(), "stddevs": self.stddevs.tolist()}
        return {"estimates": plain, "curves": curves, **scale, "settings": self.settings}


def audit(
    model: LatentModel,
    x: Tensor,
    *,
    outside: Mapping[str, Tensor] | None = None,
    attacked: int = 16,
    multiples: tuple[float, ...] = MULTIPLES,
    deltas: tuple[float, ...] = DELTAS,
    steps: int = 20,
    restarts: int = 2,
    seed: int = 0,
    progress: bool = True,
) -> Report:
    """Audit a model on test images x (N, C, H, W) in [0, 1], seen in no training.

    `outside` are sets of foreign images by name. The first `attacked` images are attacked by PGD of `steps` and
    `restarts`, at latent radii of `multiples` spreads and encoder radii `deltas`, repaired by HMC at the largest δ
    (300 gradients an image), and ask for a likelihood regret. What is not defined for the model stands in the report
    with the reason. `check_contract` comes first. Raises ValueError or TypeError for a model or images that don't fit.
    """
    _check(x, outside or {}, attacked, multiples, deltas, steps, restarts)
    check_contract(model, x[:3])
    x, few, rng = x.detach(), x[:attacked].detach(), lambda: torch.Generator().manual_seed(seed)
    search = {"steps": steps, "restarts": restarts}
    estimates: dict[str, dict[str, Estimate | str]] = {}
    with _steps(4 + len(outside or {}), progress) as done:
        mean, stddev, draws = _codes(model, x, rng())
        unit = _unit(draws)
        estimates["clean quality"] = _quality(model, x, rng())
        estimates["latent scale"] = _scale(mean, stddev, draws)
        done("latent attack")
        curves = _latent_curves(model, mean[:attacked], torch.tensor(multiples).to(x), unit, search, rng)
        estimates["latent attack"] = _curve_estimates(curves["latent"], curves["latent random"])
        done("encoder attack")
        objective = _objective(model, few)
        curves |= _encoder_curves(model, few, torch.tensor(deltas).to(x), objective, search, rng)
        estimates["encoder attack"] = _curve_estimates(curves["encoder"], curves["encoder random"])
        done("HMC")
        bad = curves["encoder"].adversarial[-1]
        repaired, chains = _repaired(model, few, bad, rng())
        estimates[f"HMC repair (δ = {deltas[-1]:g})"] = repaired
        done("scores")
        familiar = _scores(model, x, attacked, rng) if outside else {}
        for name, images in (outside or {}).items():
            done(f"outside: {name}")
            foreign = _scores(model, images.detach(), attacked, rng)
            estimates[f"outside: {name}"] = {score: _auroc(familiar[score], foreign[score]) for score in familiar}
    order = draws.std(0).argsort(descending=True)
    sizes = {"images": len(x), "attacked": len(few), "latent_dim": mean.shape[1], "unit": unit.item()}
    settings = sizes | {"multiples": list(multiples), "deltas": list(deltas), **search, "seed": seed}
    settings["objective"] = objective
    pictures = _pictures(model, few, curves, bad, chains)
    return Report(estimates, curves, draws.std(0)[order], stddev.mean(0)[order], pictures, settings)


@torch.no_grad()
def _codes(model: LatentModel, x: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and standard deviation of q(z|x), and a draw from it, for each image: (N, D) each."""
    parts = [(q.mean, q.stddev, q.rsample(generator=generator)) for q in map(model.posterior, x.split(512))]
    return tuple(torch.cat(part) for part in zip(*parts, strict=True))


def _unit(draws: Tensor) -> Tensor:
    unit = spread(draws)
    if not unit > 0:
        raise ValueError("posterior: every image has the same code, so that attacks have no yardstick; is it trained?")
    return unit


def _quality(model: LatentModel, x: Tensor, generator: torch.Generator) -> dict[str, Estimate | str]:
    copy = reconstruct(model, x)
    bound = _tried(lambda: elbo(model, x, generator=generator))
    return {
        "ELBO (nats)": _estimate(bound),
        "−ELBO (bits/dim)": _estimate(bound if isinstance(bound, str) else bits_per_dim(bound, x)),
        "reconstruction MSE": _estimate(mse(x, copy)),
        "reconstruction SSIM": _estimate(ssim(x, copy)),
    }


def _scale(mean: Tensor, stddev: Tensor, draws: Tensor) -> dict[str, Estimate | str]:
    return {
        "spread of the codes": _estimate(draws, lambda z: np.sqrt(z.var(0, ddof=1).mean())),
        "posterior stddev": _estimate(stddev.mean(1)) if stddev.any() else "not defined: q(z|x) is a point",
        f"active latents of {mean.shape[1]}": _estimate(mean, lambda z: (z.var(0, ddof=1) > _ACTIVE).sum()),
    }


def _latent_curves(model, z: Tensor, multiples: Tensor, unit: Tensor, search: dict, rng) -> dict[str, DDCurve]:
    """DD-curves of attack and random direction; their radii are given in spreads."""
    ways = {"latent": partial(latent.attack, **search), "latent random": partial(latent.random_direction, restarts=1)}
    curves = {}
    for name, way in ways.items():
        move = lambda z, eps, way=way: way(model, z, eps=eps, generator=rng()).adversarial  # noqa: E731
        curves[name] = replace(dd_curve(model, z, multiples * unit, move, METRICS, chunk=512), radii=multiples)
    return curves


def _objective(model: LatentModel, x: Tensor) -> str:
    """What an encoder attack climbs: the symmetric KL, or where there is none the distance of the means."""
    try:
        q = model.posterior(x[:2])
        q.kl(q)
    except (AttributeError, NotDefined):
        return "means"
    return "skl"


def _encoder_curves(model, x: Tensor, deltas: Tensor, objective: str, search: dict, rng) -> dict[str, DDCurve]:
    """The same of images, through encoder and decoder; `adversarial` is (K, N, C, H, W)."""
    copy = lambda images: model.decode(model.posterior(images).mean)  # noqa: E731
    repeated, eps = x.repeat(len(deltas), 1, 1, 1), deltas.repeat_interleave(len(x))
    common = {"eps": eps, "objective": objective}
    found = {
        "encoder": encoder.attack(model, repeated, **common, **search, generator=rng()),
        "encoder random": encoder.random_direction(model, repeated, **common, restarts=1, generator=rng()),
    }
    shape, curves = (len(deltas), len(x)), {}
    for name, result in found.items():
        values = _measure(copy, x, result.adversarial, METRICS, 512)
        adversarial = result.adversarial.view(*shape, *x.shape[1:])
        curves[name] = DDCurve(deltas, {metric: v.view(shape) for metric, v in values.items()}, adversarial)
    return curves


def _curve_estimates(attack: DDCurve, control: DDCurve) -> dict[str, Estimate | str]:
    areas, random = (aaddc_abs(c.radii, c.values["SSIM"], better="higher") for c in (attack, control))
    half = len(attack.radii) // 2
    gap = control.values["SSIM"] - attack.values["SSIM"]
    return {
        "AADDC": _estimate(areas),
        "AADDC, random direction": _estimate(random),
        "AADDC, random − attack": _estimate(random - areas),
        f"SSIM lost at {attack.radii[-1]:g}": _estimate(attack.values["SSIM"][0] - attack.values["SSIM"][-1]),
        f"SSIM, random − attack at {attack.radii[half]:g}": _estimate(gap[half]),
    }


def _repaired(model, x: Tensor, bad: Tensor, generator) -> tuple[dict[str, Estimate | str], hmc.Chains | None]:
    """Repair attacked and clean images as one batch of chains; the chains of the attacked ones."""
    together = _tried(lambda: repair(model, torch.cat([bad, x]), generator=generator))
    if isinstance(together, str):
        return {"repair": together}, None
    chains, clean = together[: len(x)], together[len(x) :]
    goal, before = reconstruct(model, x), ssim(reconstruct(model, x), reconstruct(model, bad))
    with torch.no_grad():
        after, kept = (ssim(goal, model.decode(c.mean)) for c in (chains, clean))
    ratios = [posterior_ratio(model, x, clean.start, z).abs() for z in (chains.start, chains.last)]
    healthy = torch.cat([chains.rhat, clean.rhat]) <= _MIXED
    return {
        "SSIM to the clean reconstruction, attacked": _estimate(before),
        "… attacked, repaired": _estimate(after),
        "… gain by the repair": _estimate(after - before),
        "… clean image through HMC": _estimate(kept),
        "median |log posterior ratio| before (nats)": _estimate(ratios[0], np.median),
        "median |log posterior ratio| after (nats)": _estimate(ratios[1], np.median),
        "acceptance rate": _estimate(together.accept_rate),
        "divergent transitions a chain": _estimate(together.divergences.double()),
        f"chains with R-hat ≤ {_MIXED}": _estimate(healthy.double()),
    }, chains


def _scores(model: LatentModel, x: Tensor, few: int, rng) -> dict[str, Tensor | str]:
    """Scores (N,) of images, larger for the more foreign one; of the regret, which takes long, for `few` of them."""
    error, norm, sigma = detection.likelihood_path(model, x).T
    signals = _tried(lambda: detection.signals(model, x, generator=rng()))
    names = {"reconstruction": "−log p(x|z)", "kl": "KL", "negative_elbo": "−ELBO"}
    return {
        "reconstruction error": error,
        **{shown: signals if isinstance(signals, str) else signals[name] for name, shown in names.items()},
        "‖μ‖": norm,
        "‖σ‖": sigma if sigma.any() else "not defined: q(z|x) is a point",
        "likelihood regret": _tried(lambda: ood.likelihood_regret(model, x[:few], steps=50, generator=rng())),
        "file size (no model)": ood.compressed_bits(x),
    }


def _auroc(inside: Tensor | str, outside: Tensor | str) -> Estimate | str:
    """AUROC over equally many images of either side."""
    for side in (inside, outside):
        if isinstance(side, str):
            return side
    n = min(len(inside), len(outside))
    pairs = torch.stack([inside[:n], outside[:n]], 1)
    return _estimate(pairs, lambda pairs: detection.auroc(*pairs.T))


@torch.no_grad()
def _pictures(
    model, x: Tensor, curves: dict[str, DDCurve], bad: Tensor, chains: hmc.Chains | None
) -> dict[str, Tensor]:
    some = slice(0, _SHOWN)
    rows = {"clean": x[some], "reconstruction": reconstruct(model, x[some])}
    rows["code attacked"] = model.decode(curves["latent"].adversarial[-1, some])
    rows |= {"image attacked": bad[some], "… reconstructed": reconstruct(model, bad[some])}
    if chains is not None:
        rows["… repaired"] = model.decode(chains.mean[some])
    return {name: images.cpu() for name, images in rows.items()}


def _estimate(values: Tensor | str, statistic: Callable = np.mean) -> Estimate | str:
    """A statistic with its interval over images; a reason stays one."""
    if isinstance(values, str):
        return values
    return _tried(lambda: bootstrap(values, statistic=statistic, resamples=_RESAMPLES))


def _tried(measure: Callable):
    """What `measure` gives, or a text with the reason where the model has no such thing or its numbers fail."""
    try:
        return measure()
    except NotDefined as reason:
        return f"not defined: {reason}"
    except ValueError as reason:
        return f"not measured: {reason}"


@contextmanager
def _steps(total: int, progress: bool) -> Iterator[Callable[[str], None]]:
    with tqdm(total=total, leave=False, disable=not progress, unit="part", mininterval=1) as bar:

        def done(following: str) -> None:
            bar.update()
            bar.set_postfix_str(following, refresh=False)

        yield done


def _shown(e: Estimate | str) -> str:
    if isinstance(e, str):
        return e
    low, effect, high = (f"{v:.3g}" if abs(v) < 999.5 else f"{v:.0f}" for v in (e.low, e.effect, e.high))
    return f"{effect} [{low}, {high}]"


def _check(x, outside: Mapping[str, Tensor], attacked: int, multiples, deltas, steps: int, restarts: int) -> None:
    check_images(x)
    if not isinstance(outside, Mapping):
        raise TypeError(f"outside: a dict of image sets by name expected, got {type(outside).__name__}")
    if len(x) < 2 or x.shape[1] not in (1, 3) or min(x.shape[2:]) < 6:
        raise ValueError(
            "x: two images or more of one or three channels and at least six pixels a side (for SSIM) expected, got "
            f"shape {tuple(x.shape)}"
        )
    for name, images in outside.items():
        check_images(images, f"outside[{name!r}]")
        if (images.dtype, images.device) != (x.dtype, x.device):
            got = f"{images.dtype} on {images.device}"
            raise ValueError(f"outside[{name!r}]: {x.dtype} on {x.device}, as x, expected, got {got}; use .to(x)")
        if images.shape[1:] != x.shape[1:] or len(images) < 2:
            raise ValueError(
                f"outside[{name!r}]: two images or more of x's shape {tuple(x.shape[1:])} expected, got "
                f"{tuple(images.shape)}; vaenb.data.load(…, size={x.shape[-1]}) scales them"
            )
    check_counts(attacked=attacked, steps=steps, restarts=restarts)
    if attacked < 2:
        raise ValueError(f"attacked: two images or more expected, for an interval, got {attacked}")
    for name, radii in {"multiples": multiples, "deltas": deltas}.items():
        if not isinstance(radii, (tuple, list)) or len(radii) < 2 or radii[0] != 0 or sorted(set(radii)) != list(radii):
            raise ValueError(f"{name}: two radii or more, rising from 0, expected, got {radii}")
        _check_radii(torch.tensor(radii), at_least=2)
