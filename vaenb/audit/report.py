"""Audit a LatentModel: everything that the notebooks measure of a VAE, of any model and images, in one call.

Clean quality stands beside robustness, as a model that reconstructs nothing has nothing to lose, and beside every
attack a random step of its length. Latent radii are multiples of the `spread` of the model's own codes,
√(tr Cov z / D) over z ~ q(z|x), so that stretching the latent space changes nothing (between codes of different length
D it is not the only yardstick: notebook 10). Intervals are 95 % bootstraps over images: they say how much hangs on the
images, nothing of another training.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from vaenb.attacks import encoder, latent
from vaenb.attacks.pgd import AttackResult, Search
from vaenb.checks import check_channels, check_counts, check_images, check_whole, ordinary
from vaenb.contract import LatentModel, NotDefined, check_contract, reconstruct
from vaenb.defences.repair import repair
from vaenb.distributions import seeded
from vaenb.metrics import detection, ood
from vaenb.metrics.diagnosis import posterior_ratio
from vaenb.metrics.distortion import DDCurve, aaddc_abs, dd_curve, measure_distortion, spread
from vaenb.metrics.images import mse, ssim
from vaenb.metrics.likelihood import bits_per_dim, elbo
from vaenb.plots import tables
from vaenb.precision import check_precision, no_autocast
from vaenb.sampling.hmc import Chains
from vaenb.stats import Estimate, bootstrap

MULTIPLES = (0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0)  # latent radii, in spreads of the model's codes
DELTAS = (0.0, 0.025, 0.05, 0.1)  # encoder radii, L∞, of the pixels' range; the last one's images are repaired
METRICS = {"SSIM": ssim, "MSE": mse}
_RESAMPLES = 500
_SHOWN = 6  # images in the report's picture
_ACTIVE = 0.01  # variance of the means that makes a latent active (Burda et al., 2016)
_MIXED = 1.1  # the R-hat up to which a chain counts as mixed
_POINT = "not defined: q(z|x) is a point"
_STUCK = "images whose attack had no gradient, and only look robust"

Found = Estimate | str  # or the reason why there is no estimate
Rng = Callable[[], torch.Generator]


@dataclass(frozen=True, eq=False)
class Report:
    """What `audit` found: `estimates[section][measure]` is an Estimate, or a text that says why there is none."""

    estimates: dict[str, dict[str, Found]]
    curves: dict[str, DDCurve]  # latent, latent random, encoder, encoder random: radii in MULTIPLES and DELTAS
    spreads: Tensor  # (D,), each latent's standard deviation over z ~ q(z|x), sorted downwards
    stddevs: Tensor  # (D,), the mean of q(z|x)'s own, in the same order
    pictures: dict[str, Tensor]  # rows of a few images (n, C, H, W): clean, reconstructed, attacked, repaired
    settings: dict[str, object]

    def __getitem__(self, name: str) -> Found:
        """One measure, as in report["latent attack: AADDC"]. Raises KeyError naming those there are."""
        section, _, measure = name.rpartition(": ")
        if measure not in self.estimates.get(section, {}):
            names = [f"{row['group']}: {row['row']}" for row in self.rows()]
            raise KeyError(f"{name!r}; there are {names}")
        return self.estimates[section][measure]

    def rows(self) -> list[dict]:
        """Give the estimates as rows with named columns, as `plots.save` takes them beside the page."""
        return tables.estimates(self.estimates)

    def table(self) -> str:
        """Lay the report out as a Markdown table."""
        lines = ["| measure | value [95 %] | images |", "| --- | --- | --- |"]
        for section, found in self.estimates.items():
            lines.append(f"| **{section}** | | |")
            for measure, estimate in found.items():
                lines.append(_markdown(measure, _shown(estimate), str(getattr(estimate, "n", ""))))
        return "\n".join(lines)

    def to_json(self) -> dict:
        """Give everything but the pictures as plain numbers and texts; curves as means over their images."""
        estimates: dict[str, dict] = {}
        for section, found in self.estimates.items():
            estimates[section] = {}
            for measure, estimate in found.items():
                estimates[section][measure] = estimate if isinstance(estimate, str) else asdict(estimate)
        curves = {}
        for name, curve in self.curves.items():
            curves[name] = {"radii": curve.radii.tolist()}
            for metric, values in curve.values.items():
                curves[name][metric] = values.mean(1).tolist()
        scale = {"spreads": self.spreads.tolist(), "stddevs": self.stddevs.tolist()}
        return {"estimates": estimates, "curves": curves, **scale, "settings": self.settings}


@torch.inference_mode(False)
@no_autocast
def audit(
    model: LatentModel,
    x: Tensor,
    *,
    outside: Mapping[str, Tensor] | None = None,
    attacked: int = 16,
    multiples: Sequence[float] = MULTIPLES,
    deltas: Sequence[float] = DELTAS,
    steps: int = 20,
    restarts: int = 2,
    seed: int = 0,
    progress: bool = True,
) -> Report:
    """Audit a model on test images x (N, C, H, W) in [0, 1], seen in no training.

    `outside` are out-of-distribution sets by name. The first `attacked` images are attacked by PGD of `steps` and
    `restarts`, at latent radii of `multiples` spreads and encoder radii `deltas`, repaired by HMC at the largest δ
    (300 gradients an image), and ask for a likelihood regret. What is not defined for the model stands in the report
    with the reason. `check_contract` comes first. Raises ValueError or TypeError for a model or images that don't fit,
    as in half precision, which rounds the attacks' small steps away; autocast is off.
    """
    outside = {} if outside is None else outside
    _check_images(x, outside)
    check_counts(steps=steps, restarts=restarts)
    check_whole("attacked", attacked, 2)  # for an interval
    multiples_of, deltas_of = _radii("multiples", multiples).to(x), _radii("deltas", deltas).to(x)
    x = ordinary(x)
    few = x[:attacked]
    check_contract(model, x[:3])
    check_precision("posterior(x)", model.posterior(x[:2]).mean)

    def rng() -> torch.Generator:
        return seeded(seed)  # every part of the audit draws from the seed's beginning

    search: Search = {"steps": steps, "restarts": restarts}
    estimates: dict[str, dict[str, Found]] = {}
    with tqdm(total=4 + len(outside), leave=False, disable=not progress, unit="part", mininterval=1) as bar:

        def done(following: str) -> None:
            bar.update()
            bar.set_postfix_str(following, refresh=False)

        mean, stddev, draws = _codes(model, x, rng())
        unit = _unit(draws)
        estimates["clean quality"] = _quality(model, x, rng())
        estimates["latent scale"] = _scale(mean, stddev, draws)
        done("latent attack")
        curves, stuck = _latent_curves(model, mean[:attacked], multiples_of, unit, search, rng)
        estimates["latent attack"] = _curve_estimates(curves["latent"], curves["latent random"], stuck)
        done("encoder attack")
        divergence = _divergence(model, few)
        found, stuck = _encoder_curves(model, few, deltas_of, divergence, search, rng)
        curves |= found
        estimates["encoder attack"] = _curve_estimates(curves["encoder"], curves["encoder random"], stuck)
        done("HMC")
        bad = curves["encoder"].adversarial[-1]
        repaired, chains = _repaired(model, few, bad, rng())
        estimates[f"HMC repair (δ = {float(deltas[-1]):g})"] = repaired
        done("scores")
        familiar = _scores(model, x, attacked, rng) if outside else {}
        for name, images in outside.items():
            done(f"outside: {name}")
            foreign = _scores(model, ordinary(images), attacked, rng)
            estimates[f"outside: {name}"] = {score: _auroc(familiar[score], foreign[score]) for score in familiar}
    spreads, order = draws.std(0).sort(descending=True)
    settings: dict[str, object] = {
        "images": len(x),
        "attacked": len(few),
        "latent_dim": mean.shape[1],
        "unit": unit.item(),
    }
    settings |= {"multiples": [float(m) for m in multiples], "deltas": [float(d) for d in deltas]}
    settings |= {"divergence": divergence, "steps": int(steps), "restarts": int(restarts), "seed": int(seed)}
    pictures = _pictures(model, few, curves, bad, chains)
    return Report(estimates, curves, spreads, stddev.mean(0)[order], pictures, settings)


@torch.no_grad()
def _codes(model: LatentModel, x: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and standard deviation of q(z|x), and a draw from it, for each image: (N, D) each."""
    means, stddevs, draws = [], [], []
    for part in x.split(512):
        q = model.posterior(part)
        means.append(q.mean)
        stddevs.append(q.stddev)
        draws.append(q.rsample(generator=generator))
    return torch.cat(means), torch.cat(stddevs), torch.cat(draws)


def _unit(draws: Tensor) -> Tensor:
    unit = spread(draws)
    if not unit > 0:
        raise ValueError("posterior: every image has the same code, so that attacks have no yardstick; is it trained?")
    return unit


def _quality(model: LatentModel, x: Tensor, generator: torch.Generator) -> dict[str, Found]:
    copy = reconstruct(model, x)
    bound = _tried(lambda: elbo(model, x, generator=generator))
    bits = bound if isinstance(bound, str) else _tried(lambda: bits_per_dim(bound, x))
    return {
        "ELBO (nats)": _estimate(bound),
        "−ELBO (bits/dim)": _estimate(bits),
        "reconstruction MSE": _estimate(mse(x, copy)),
        "reconstruction SSIM": _estimate(ssim(x, copy)),
    }


def _scale(mean: Tensor, stddev: Tensor, draws: Tensor) -> dict[str, Found]:
    return {
        "spread of the codes": _estimate(draws, lambda z: np.sqrt(z.var(0, ddof=1).mean())),
        "posterior stddev": _estimate(stddev.mean(1)) if stddev.any() else _POINT,
        f"active latents of {mean.shape[1]}": _estimate(mean, lambda z: (z.var(0, ddof=1) > _ACTIVE).sum()),
    }


def _latent_curves(
    model: LatentModel, z: Tensor, multiples: Tensor, unit: Tensor, search: Search, rng: Rng
) -> tuple[dict[str, DDCurve], Tensor]:
    """DD-curves of attack and random direction, their radii in spreads; the latents without a gradient (K·N,)."""
    results = []

    def attack(model: LatentModel, z: Tensor, eps: Tensor) -> AttackResult:
        results.append(latent.attack(model, z, eps=eps, **search | {"generator": rng()}))
        return results[0]

    radii = multiples * unit
    attacked = dd_curve(model, z, radii, attack, METRICS, chunk=512)
    step = latent.random_direction
    moved = dd_curve(model, z, radii, step, METRICS, chunk=512, restarts=1, generator=rng())
    curves = {"latent": replace(attacked, radii=multiples), "latent random": replace(moved, radii=multiples)}
    return curves, results[0].stuck


def _divergence(model: LatentModel, x: Tensor) -> str:
    """What an encoder attack climbs: the symmetric KL, or where there is none the distance of the means."""
    try:
        q = model.posterior(x[:2])
        q.kl(q)
    except (AttributeError, NotDefined):
        return "means"
    return "skl"


def _encoder_curves(
    model: LatentModel, x: Tensor, deltas: Tensor, divergence: str, search: Search, rng: Rng
) -> tuple[dict[str, DDCurve], Tensor]:
    """The same of images, through encoder and decoder; `adversarial` is (K, N, C, H, W)."""

    def copy(images: Tensor) -> Tensor:
        return model.decode(model.posterior(images).mean)

    repeated, eps = x.repeat(len(deltas), 1, 1, 1), deltas.repeat_interleave(len(x))
    attack = encoder.attack(model, repeated, eps=eps, divergence=divergence, **search | {"generator": rng()})
    step = encoder.random_direction(model, repeated, eps=eps, divergence=divergence, restarts=1, generator=rng())
    curves = {}
    for name, result in (("encoder", attack), ("encoder random", step)):
        values = measure_distortion(copy, x, result.adversarial, METRICS, chunk=512)
        curves[name] = DDCurve(deltas, values, result.adversarial.view(len(deltas), *x.shape))
    return curves, attack.stuck


def _curve_estimates(attack: DDCurve, control: DDCurve, stuck: Tensor) -> dict[str, Found]:
    similar, control_similar = attack.values["SSIM"], control.values["SSIM"]
    area = aaddc_abs(attack.radii, similar, better="higher")
    random = aaddc_abs(control.radii, control_similar, better="higher")
    half = len(attack.radii) // 2
    found: dict[str, Found] = {
        "AADDC": _estimate(area),
        "AADDC, random direction": _estimate(random),
        "AADDC, random − attack": _estimate(random - area),
        f"SSIM lost at {attack.radii[-1]:g}": _estimate(similar[0] - similar[-1]),
        f"SSIM, random − attack at {attack.radii[half]:g}": _estimate(control_similar[half] - similar[half]),
    }
    if stuck.any():
        found[_STUCK] = _estimate(stuck.view(similar.shape).any(0).double())
    return found


def _repaired(
    model: LatentModel, x: Tensor, bad: Tensor, generator: torch.Generator
) -> tuple[dict[str, Found], Chains | None]:
    """Repair attacked and clean images as one batch of chains; the chains of the attacked ones."""
    together = _tried(lambda: repair(model, torch.cat([bad, x]), generator=generator))
    if isinstance(together, str):
        return {"repair": together}, None
    chains, clean = together[: len(x)], together[len(x) :]
    goal = reconstruct(model, x)
    with torch.no_grad():
        before = ssim(goal, reconstruct(model, bad))
        after = ssim(goal, model.decode(chains.mean))
        kept = ssim(goal, model.decode(clean.mean))
    ratio_before = posterior_ratio(model, x, clean.start, chains.start).abs()
    ratio_after = posterior_ratio(model, x, clean.start, chains.last).abs()
    healthy = torch.cat([chains.rhat, clean.rhat]) <= _MIXED
    return {
        "SSIM to the clean reconstruction, attacked": _estimate(before),
        "… attacked, repaired": _estimate(after),
        "… gain by the repair": _estimate(after - before),
        "… clean image through HMC": _estimate(kept),
        "median |log posterior ratio| before (nats)": _estimate(ratio_before, np.median),
        "median |log posterior ratio| after (nats)": _estimate(ratio_after, np.median),
        "acceptance rate": _estimate(together.accept_rate),
        "divergent transitions a chain": _estimate(together.divergences.double()),
        f"chains with R-hat ≤ {_MIXED}": _estimate(healthy.double()),
    }, chains


def _scores(model: LatentModel, x: Tensor, few: int, rng: Rng) -> dict[str, Tensor | str]:
    """Scores (N,) of images, larger for what looks less like the training images; of the regret, for `few` of them."""
    error, norm, sigma = detection.likelihood_path(model, x).T
    signals = _tried(lambda: detection.signals(model, x, generator=rng()))
    scores: dict[str, Tensor | str] = {"reconstruction error": error}
    for name, shown in (("reconstruction", "−log p(x|z)"), ("kl", "KL"), ("negative_elbo", "−ELBO")):
        scores[shown] = signals if isinstance(signals, str) else signals[name]
    scores["‖μ‖"] = norm
    scores["‖σ‖"] = sigma if sigma.any() else _POINT
    scores["likelihood regret"] = _tried(lambda: ood.likelihood_regret(model, x[:few], steps=50, generator=rng()))
    scores["file size (no model)"] = ood.compressed_bits(x)
    return scores


def _auroc(inside: Tensor | str, outside: Tensor | str) -> Found:
    """AUROC over equally many images of either side."""
    if isinstance(inside, str):
        return inside
    if isinstance(outside, str):
        return outside
    n = min(len(inside), len(outside))
    pairs = torch.stack([inside[:n], outside[:n]], 1)
    return _estimate(pairs, lambda pairs: detection.auroc(*pairs.T))


@torch.no_grad()
def _pictures(
    model: LatentModel, x: Tensor, curves: dict[str, DDCurve], bad: Tensor, chains: Chains | None
) -> dict[str, Tensor]:
    x, bad = x[:_SHOWN], bad[:_SHOWN]
    rows = {
        "clean": x,
        "reconstruction": reconstruct(model, x),
        "code attacked": model.decode(curves["latent"].adversarial[-1, :_SHOWN]),
        "image attacked": bad,
        "… reconstructed": reconstruct(model, bad),
    }
    if chains is not None:
        rows["… repaired"] = model.decode(chains.mean[:_SHOWN])
    return {name: images.cpu() for name, images in rows.items()}


def _estimate(values: Tensor | str, statistic: Callable = np.mean) -> Found:
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


def _shown(e: Found) -> str:
    if isinstance(e, str):
        return e
    return f"{_digits(e.effect)} [{_digits(e.low)}, {_digits(e.high)}]"


def _markdown(*cells: str) -> str:
    escaped = [cell.replace("|", r"\|") for cell in cells]
    return f"| {' | '.join(escaped)} |"


def _digits(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 999.5 else f"{value:.0f}"


def _radii(name: str, values: Sequence[float]) -> Tensor:
    radii = torch.as_tensor(values, dtype=torch.float32)
    rising = radii.ndim == 1 and len(radii) > 1 and radii[0] == 0 and (radii.diff() > 0).all()
    if not rising or radii[-1].isinf():
        raise ValueError(f"{name}: two radii or more, rising from 0, expected, got {values}")
    return radii


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
