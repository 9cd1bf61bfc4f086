"""What a report means in words, by stated rules over its intervals; docs/your-model.md lists them."""

from typing import Any

from vaenb.audit.attacks import CONVERGED, RADII
from vaenb.audit.budget import BUDGETS
from vaenb.audit.measuring import SCORES
from vaenb.audit.reference import REFERENCE_SIZE, Band, larger
from vaenb.audit.report import Report, shown
from vaenb.stats import Estimate

HALF = 0.5  # SSIM below which a picture counts as broken
USABLE, WEAK = 0.9, 0.7  # AUROC of a score
ENOUGH = 16  # images of either side, to call a score the best
CUT = 0.2  # share of pixels outside of their range
GOOD = 0.5  # SSIM of a reconstruction below which robustness says little
_STANDARD = BUDGETS["standard"]
_MARKS = {"decoder by spreads": "spreads", "decoder by distance": "distances", "encoder": ""}


def verdicts(report: Report, band: Band) -> dict[str, str]:
    """Give a line for each surface: decoder, encoder, repair, and −ELBO against each set of other images."""
    lines = {}
    for name in RADII:
        area = report.measures.get(f"{name}: AADDC")
        if area is None:
            continue  # stopped before
        if isinstance(area.found, str):
            lines[name] = area.found
            continue
        line = f"{_breaking(report, name)}; {_rank(report, name, area.found, band)}"
        lines[name] = f"(little to lose, see above) {line}" if _says_little(report) else line
    if "repair: gain" in report.measures:
        lines["repair"] = _repair(report)
    sets = []
    for name in report.measures:
        if name.endswith(f": AUROC of {SCORES[-1]}"):
            sets.append(name.partition(": AUROC of ")[0])
    for name in sets:
        lines[f"−ELBO against {name}"] = _alarm(report, name)
    return lines


def _breaking(report: Report, name: str) -> str:
    """The smallest radius at which the whole interval of SSIM lies below one half."""
    for radius in RADII[name][1:]:
        found = report.estimate(f"{name}: SSIM at {radius:g}")
        if found and found.high < HALF:
            return f"breaks within {_radius(name, radius)} (SSIM {found.effect:.2f})"
    last = RADII[name][-1]
    found = report.estimate(f"{name}: SSIM at {last:g}")
    if found and found.low > HALF:
        return f"holds to {_radius(name, last)} (SSIM {found.effect:.2f})"
    return f"undecided at {_radius(name, last)}, the interval of SSIM holds {HALF:g}"


def _radius(name: str, radius: float) -> str:
    if name == "encoder":
        return f"δ = {radius:g}"
    unit = _MARKS[name]
    return f"{radius:g} {unit.removesuffix('s') if radius == 1 else unit}"


def _rank(report: Report, name: str, mine: Estimate, band: Band) -> str:
    if not band.models:
        return "no reference models to stand beside"
    better, worse, alike = band.rank(f"{name}: AADDC", mine)
    if not _standard(report):
        if better and _weaker_attack(report):  # which makes a model look stronger
            return f"weaker than {better} or more of {better + worse + alike} {band.words}"
        return "no rank (another attack)"
    parts = []
    for count, words in ((better, "weaker than"), (worse, "stronger than"), (alike, "not told apart from")):
        if count:
            parts.append(f"{words} {count}")
    return f"{', '.join(parts)} of {better + worse + alike} {band.words}"


def _repair(report: Report) -> str:
    gain = report.estimate("repair: gain")
    if gain is None:
        return str(report["repair: gain"])
    if gain.low > 0:
        line = f"HMC brings attacked images nearer to the clean reconstruction (SSIM +{gain.effect:.2f})"
    elif gain.high < 0:
        line = f"HMC takes attacked images further away (SSIM −{-gain.effect:.2f})"
    else:
        line = "HMC changes nothing that the interval could tell"
    kept = report.estimate("repair: clean image through HMC")
    if kept and kept.effect < 0.9:
        line += f", and costs clean images (SSIM {kept.effect:.2f})"
    mixed = report.estimate("repair: chains with R-hat ≤ 1.1")
    if mixed and mixed.effect < HALF:
        line += "; most chains have not mixed"
    return line


def _alarm(report: Report, name: str) -> str:
    """Whether −ELBO tells other images, and whether another score does so better: its interval must say so."""
    found = report.measures[f"{name}: AUROC of −ELBO"].found
    best, value = _best(report, name)
    if value is None:
        return found if isinstance(found, str) else f"{_usable(found)} (AUROC {shown(found)})"
    if isinstance(found, str):
        return f"{found}; the best score is {best} (AUROC {shown(value)})"
    line = f"{_usable(found)} (AUROC {shown(found)})"
    if larger(value, found):
        return f"{line}; {best} does better (AUROC {shown(value)})"
    return line


def _usable(found: Estimate) -> str:
    if found.high < HALF:
        return "reversed: it takes them for the model's own"
    if found.effect >= USABLE:
        return "usable"
    return "weak" if found.effect >= WEAK else "unusable"


def _best(report: Report, name: str) -> tuple[str, Estimate | None]:
    """The score with the largest AUROC, of those measured on enough images."""
    best, value = "", None
    for score in SCORES:
        found = report.estimate(f"{name}: AUROC of {score}")
        if found and (found.n or ENOUGH) >= ENOUGH and (value is None or found.effect > value.effect):
            best, value = score, found
    return best, value


def _standard(report: Report) -> bool:
    """Whether the attacks were those of the reference models."""
    return (report.settings.get("steps"), report.settings.get("restarts")) == (_STANDARD.steps, _STANDARD.restarts)


def _weaker_attack(report: Report) -> bool:
    settings: dict[str, Any] = report.settings
    return settings.get("steps", 0) <= _STANDARD.steps and settings.get("restarts", 0) <= _STANDARD.restarts


def _says_little(report: Report) -> bool:
    """Whether what an attack could change is hardly there: blurred pictures, or silent codes."""
    copy, active = report.estimate("clean: reconstruction SSIM"), report.estimate("codes: active latents")
    return bool((copy and copy.effect < GOOD) or (active and active.effect == 0))


def warnings(report: Report, band: Band) -> list[str]:
    """What a reader must know before the rest, for the top of the page."""
    found = []
    if report.stopped:
        found.append(f"The audit was stopped before its end, {report.stopped}: what is missing was not measured.")
    for name in RADII:
        found += _attack_warnings(report, name)
    copy = report.estimate("clean: reconstruction SSIM")
    if copy and copy.effect < GOOD:
        found.append(
            f"Clean images are badly reconstructed (SSIM {copy.effect:.2f}): what shows little has little to lose."
        )
    cut = report.settings.get("cut off")
    if isinstance(cut, float) and cut > CUT:
        found.append(
            f"{cut:.0%} of the pixels of reconstructions lie outside of the range that `pixels` says and are cut off, "
            "where no attack has a gradient. Another range, or .sigmoid() where these are logits?"
        )
    if report.settings.get("likelihood fits others better"):
        found.append(
            "Images are less likely under their own codes than under those of other images: does log_likelihood give "
            "the loss, which has the other sign? Repair and all scores with a likelihood mean nothing then."
        )
    narrowest = report.settings.get("smallest stddev")
    if isinstance(narrowest, float) and narrowest > 1:
        found.append(
            "Every posterior is wider than a standard normal prior in every latent: is what stands for the log "
            "variance perhaps the deviation or the variance? Spreads, and what is measured in them, hang on it."
        )
    active = report.estimate("codes: active latents")
    if active and active.effect == 0:
        found.append("No latent is active: the code says nothing of its image, and robustness means nothing.")
    return found + _band_warnings(report, band)


def _attack_warnings(report: Report, name: str) -> list[str]:
    found = []
    lost = report.estimate(f"{name}: AADDC lost to a doubled attack")
    if lost and lost.effect >= CONVERGED:
        found.append(
            f"The attack on the {name} has not converged: doubled steps and restarts take {lost.effect:.3f} more of "
            f"its AADDC, {CONVERGED} or less expected. The model is weaker than this page says."
        )
    stuck = report.estimate(f"{name}: images without a gradient")
    if stuck:
        found.append(
            f"{name}: {stuck.effect:.0%} of the attacked images had no gradient at some radius, and only look robust."
        )
    edge = report.estimate(f"{name}: AADDC, random step − attack")
    one_way = name != "encoder" and report.settings.get("latents") == 1  # a random step is the attack
    if edge and edge.high <= 0 and not one_way:
        found.append(f"{name}: the attack does no more than a random step of its length; suspect its gradients.")
    return found


def _band_warnings(report: Report, band: Band) -> list[str]:
    if not band.models:
        return []
    found = []
    settings = report.settings
    if not band.data:
        found.append(
            "The reference models are of other data (MNIST, Fashion-MNIST): ranks among them are a rough orientation."
        )
    shape = settings.get("shape")
    side = shape[-1] if isinstance(shape, list) else REFERENCE_SIZE
    if side != REFERENCE_SIZE:
        found.append(
            f"The reference models' images have {REFERENCE_SIZE} pixels a side, these {side}, which SSIM does not see "
            "alike."
        )
    if not _standard(report):
        found.append(
            f"The reference models were attacked by {_STANDARD.steps} steps and {_STANDARD.restarts} restarts, this "
            f"one by {settings.get('steps')} and {settings.get('restarts')}: the standard budget gives the rank."
        )
    return found
