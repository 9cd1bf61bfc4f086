"""The parts of an audit that are no attacks: quality, codes, what HMC repairs, a probe of labels, OOD scores."""

from functools import partial

import numpy as np
import torch
from torch import Tensor

from vaenb.audit.attacks import RADII
from vaenb.audit.bench import POINT, Bench, tried
from vaenb.audit.budget import DRAWS, REGRET_STEPS
from vaenb.checks import first_of
from vaenb.defences.repair import repair
from vaenb.metrics import detection, ood
from vaenb.metrics.blocks import joined
from vaenb.metrics.diagnosis import posterior_ratio
from vaenb.metrics.distortion import spread
from vaenb.metrics.images import mse
from vaenb.metrics.likelihood import bits_per_dim, elbo
from vaenb.models.classifier import linear_probe
from vaenb.sampling.hmc import Chains

ACTIVE = 0.01  # variance of the means that makes a latent active (Burda et al., 2016)
MIXED = 1.1  # the R-hat up to which a chain counts as mixed
PROBED = 50  # images or more, to fit a probe on
SCORES = ("reconstruction error", "−log p(x|z)", "KL", "−ELBO", "‖μ‖", "‖σ‖", "likelihood regret", "file size")
_SHOWN = 6  # images in the report's pictures


def quality(bench: Bench) -> None:
    """ELBO and reconstructions of clean images."""
    x, model = bench.x, bench.model
    copy, generator = bench.copies(x), bench.rng()

    def elbos(part: Tensor) -> Tensor:
        return elbo(model, part, samples=DRAWS, generator=generator)

    bound = tried(lambda: bench.by_parts(elbos, x))
    bench.report.settings["likelihood fits others better"] = tried(lambda: _fits_others_better(bench)) is True
    bits = bound if isinstance(bound, str) else tried(lambda: bits_per_dim(bound, x))
    bench.put("clean: reconstruction SSIM", "SSIM to the image", bench.similar(x, copy))
    bench.put("clean: reconstruction MSE", "squared pixels in 0…1", mse(x, copy))
    bench.put("clean: ELBO", "nats an image", bound)
    bench.put("clean: −ELBO", "bits a pixel and channel", bits)
    shown = min(_SHOWN, len(bench.few))
    bench.report.pictures |= {"clean": x[:shown].cpu(), "reconstruction": copy[:shown].cpu()}


def _fits_others_better(bench: Bench) -> bool:
    """Whether images are less likely under their own codes than under their neighbours', by three standard errors."""
    own = bench.means(bench.x)
    likely = partial(bench.by_parts, bench.model.log_likelihood, bench.x)
    gap = likely(own) - likely(own.roll(1, 0))
    return bool(gap.mean() < -3 * gap.std() / len(gap) ** 0.5)


def codes(bench: Bench) -> None:
    """How widely the model's codes spread, which is the unit of the attacks on them."""
    means, stddevs, draws = [], [], []
    generator = bench.rng()
    with torch.no_grad():
        for part in bench.x.split(bench.chunk):
            q = bench.model.posterior(part)
            means.append(q.mean)
            stddevs.append(q.stddev)
            draws.append(q.rsample(generator=generator))
    mean, stddev, drawn = torch.cat(means), torch.cat(stddevs), torch.cat(draws)
    _check_finite("posterior", drawn)
    _check_finite("decode", bench.decoded(mean))
    unit = spread(drawn)
    if not unit > 0:
        raise ValueError("posterior: every image has the same code, so that attacks have no yardstick; is it trained?")
    report = bench.report
    report.settings |= {"latents": mean.shape[1], "spread": unit.item(), "smallest stddev": stddev.min().item()}
    report.codes["clean"] = mean[: len(bench.few)]
    report.spreads, order = drawn.std(0).sort(descending=True)
    report.stddevs = stddev.mean(0)[order]
    own = stddev.mean(1) if stddev.any() else POINT
    bench.put("codes: spread", "latent units", drawn, _spread)
    bench.put("codes: standard deviation of q(z|x)", "latent units", own)
    bench.put("codes: active latents", f"of {mean.shape[1]}", mean, _active)


def _check_finite(method: str, values: Tensor) -> None:
    if bad := first_of(~values.flatten(1).isfinite().all(1)):
        raise ValueError(f"{method}: NaN or infinite numbers for image(s) {bad}, counted from 0")


def _spread(z: np.ndarray) -> float:
    return np.sqrt(z.var(0, ddof=1).mean())


def _active(z: np.ndarray) -> int:
    return (z.var(0, ddof=1) > ACTIVE).sum()


def repaired(bench: Bench) -> None:
    """What HMC makes of the most attacked images and of clean ones; `repair` of document 002a, 301 gradients."""
    few, curve = bench.few, bench.report.curves["encoder"]
    bad, goal = curve.adversarial[-1], bench.copies(bench.few)
    report = bench.report
    report.codes["attacked"] = bench.means(bad)
    seen = bench.decoded(report.codes["attacked"])
    report.pictures |= _pictures(bench, bad, seen)
    found = tried(lambda: chains_of(bench, torch.cat([bad, few])))
    if isinstance(found, str):
        bench.put("repair: gain", "SSIM", found)
        return
    chains, clean = found[: len(few)], found[len(few) :]
    report.codes |= {"attacked, repaired": chains.mean, "clean, repaired": clean.mean}
    images = bench.decoded(chains.mean)
    report.pictures["… repaired"] = images[:_SHOWN].cpu()
    before, after = bench.similar(goal, seen), bench.similar(goal, images)
    kept = bench.similar(goal, bench.decoded(clean.mean))
    unit = "SSIM to the clean reconstruction"
    bench.put("repair: attacked image", unit, before)
    bench.put("repair: attacked image, repaired", unit, after)
    bench.put("repair: gain", "SSIM, repaired − attacked", after - before)
    bench.put("repair: clean image through HMC", unit, kept)
    _put_chains(bench, chains, clean)


def chains_of(bench: Bench, x: Tensor) -> Chains:
    """Repair images, as many at a time as fit."""
    generator = bench.rng()
    parts = []
    for part in x.split(bench.chunk):
        parts.append(repair(bench.model, part, generator=generator, chunk=min(64, bench.chunk)))
    return joined(parts)


def _put_chains(bench: Bench, chains: Chains, clean: Chains) -> None:
    ratio = partial(posterior_ratio, bench.model)
    before = bench.by_parts(ratio, bench.few, clean.start, chains.start).abs()
    after = bench.by_parts(ratio, bench.few, clean.start, chains.last).abs()
    healthy = torch.cat([chains.rhat, clean.rhat]) <= MIXED
    nats = "nats, median"
    bench.put("repair: |log posterior ratio| before", nats, before, np.median)
    bench.put("repair: |log posterior ratio| after", nats, after, np.median)
    bench.put("repair: acceptance", "rate", torch.cat([chains.accept_rate, clean.accept_rate]))
    bench.put(f"repair: chains with R-hat ≤ {MIXED}", "share", healthy.double())
    bench.put("repair: divergences", "a chain", torch.cat([chains.divergences, clean.divergences]).double())


def _pictures(bench: Bench, bad: Tensor, seen: Tensor) -> dict[str, Tensor]:
    rows = {}
    for name, words in (("decoder by spreads", "3 spreads"), ("decoder by distance", "1 distance")):
        codes = bench.report.curves[name].adversarial[-1, :_SHOWN]
        rows[f"code attacked, {words}"] = bench.decoded(codes).cpu()
    rows[f"image attacked, δ = {RADII['encoder'][-1]:g}"] = bad[:_SHOWN].cpu()
    rows["… reconstructed"] = seen[:_SHOWN].cpu()
    return rows


def probe(bench: Bench) -> None:
    """With labels: a linear probe of codes, fitted on images that are not attacked, judged on those that are."""
    count = len(bench.few)
    if bench.labels is None:
        return
    kinds, labels = bench.labels.unique(return_inverse=True)  # from 0 on: the probe has an output for each
    unit = "share of right labels, linear probe of codes"
    if len(bench.x) - count < PROBED:
        bench.put("labels: clean", unit, f"not measured: {PROBED} images or more beside the attacked ones expected")
        return
    if len(kinds) > (len(labels) - count) / 2:
        many = f"{len(kinds)} different labels"
        bench.put(
            "labels: clean", unit, f"not measured: two images or more a label expected, got {many}; are they classes?"
        )
        return
    rest = bench.means(bench.x[count:])
    fitted = tried(lambda: linear_probe(rest, labels[count:]))
    if isinstance(fitted, str):
        bench.put("labels: clean", unit, fitted)
        return
    truth = labels[:count]
    noisy = bench.report.curves["encoder, random"].adversarial[-1]
    tested = bench.report.codes | {"random step": bench.means(noisy)}
    for name, z in tested.items():
        right = fitted(z).argmax(1) == truth
        bench.put(f"labels: {name}", unit, right.double())


def scores(bench: Bench) -> None:
    """AUROC of each score for each set of other images; equally many images of either side."""
    if not bench.outside:
        return
    familiar = _scores(bench, bench.x)
    for name, images in bench.outside.items():
        foreign = _scores(bench, images)
        for score in SCORES:
            pairs = _paired(familiar[score], foreign[score])
            bench.put(f"{name}: AUROC of {score}", "AUROC, ½ is guessing", pairs, _auroc)


def _auroc(pairs: np.ndarray) -> float:
    inside, outside = pairs.T
    return detection.auroc(inside, outside)


def _paired(inside: Tensor | str, outside: Tensor | str) -> Tensor | str:
    if isinstance(inside, str):
        return inside
    if isinstance(outside, str):
        return outside
    n = min(len(inside), len(outside))
    return torch.stack([inside[:n], outside[:n]], 1)


def _scores(bench: Bench, x: Tensor) -> dict[str, Tensor | str]:
    """Scores (N,) of images, larger for what looks less like the model's own; of the regret, for those attacked."""
    model, generator = bench.model, bench.rng()

    def path(part: Tensor) -> Tensor:
        return detection.likelihood_path(model, part)

    def nats(part: Tensor) -> Tensor:
        found = detection.signals(model, part, samples=DRAWS, generator=generator)
        return torch.stack([found["reconstruction"], found["kl"], found["negative_elbo"]], 1)

    def regret() -> Tensor:
        few = x[: len(bench.few)]
        return ood.likelihood_regret(model, few, steps=REGRET_STEPS, generator=bench.rng(), chunk=bench.chunk)

    error, norm, sigma = bench.by_parts(path, x).T
    told = tried(lambda: bench.by_parts(nats, x))
    if isinstance(told, str):
        likelihood = divergence = negative_elbo = told
    else:
        likelihood, divergence, negative_elbo = told.T
    return {
        "reconstruction error": error,
        "−log p(x|z)": likelihood,
        "KL": divergence,
        "−ELBO": negative_elbo,
        "‖μ‖": norm,
        "‖σ‖": sigma if sigma.any() else POINT,
        "likelihood regret": tried(regret),
        "file size": ood.compressed_bits(x),
    }
