"""The reference band: a report's measures beside those of the zoo's models."""

from dataclasses import dataclass
from math import hypot

from vaenb import files, zoo
from vaenb.audit import loading
from vaenb.audit.budget import BUDGETS
from vaenb.audit.report import Report
from vaenb.audit.run import audit
from vaenb.stats import Estimate

SMALL = {"mnist": "mnist_small", "fashion_mnist": "fashion_small"}  # test images that ship with the package
OTHERS = {"mnist": "fashion_small", "fashion_mnist": "mnist_small"}
SHOWN = {"mnist": "MNIST", "fashion_mnist": "Fashion-MNIST"}
REFERENCE_SIZE = 32  # pixels a side


@dataclass(frozen=True)
class Band:
    """Audits of reference models: of the report's data, or of all where there are none."""

    data: str  # mnist, fashion_mnist; empty where it is all of them
    models: dict[str, dict[str, list[float]]]  # by name, each measure's effect, low, high

    @property
    def words(self) -> str:
        return (
            f"reference models on {SHOWN.get(self.data, self.data)}" if self.data else "reference models of other data"
        )

    def effects(self, measure: str) -> dict[str, float]:
        """The models' values of a measure."""
        found = {}
        for name, measures in self.models.items():
            if measure in measures:
                found[name] = measures[measure][0]
        return found

    def rank(self, measure: str, mine: Estimate) -> tuple[int, int, int]:
        """How many models are better, worse, and not told apart from mine.

        Told apart are two of which one is `larger`: the images of this report and of the band are not the same.
        """
        better = worse = alike = 0
        for measures in self.models.values():
            if measure not in measures:
                continue
            effect, low, high = measures[measure]
            other = Estimate(effect, low, high)
            if larger(other, mine):
                better += 1
            elif larger(mine, other):
                worse += 1
            else:
                alike += 1
        return better, worse, alike


def larger(a: Estimate, b: Estimate) -> bool:
    """Whether the 95 % interval of a − b lies above 0, of two independent estimates (Newcombe, 1998)."""
    return a.effect - b.effect > hypot(a.effect - a.low, b.high - b.effect)


def band(report: Report) -> Band:
    """Give the reference models that a report stands beside.

    One of the zoo does not stand beside itself, and one without an active latent, which no attack can change, beside
    none.
    """
    of = _group(str(report.settings.get("data", "")))
    every, same = {}, {}
    for name, audited in zoo.audits().items():
        active = audited["measures"].get("codes: active latents", [1])[0]
        if name == report.settings.get("zoo") or active == 0:
            continue
        every[name] = audited["measures"]
        if audited["data"] == of:
            same[name] = audited["measures"]
    return Band(of, same) if same else Band("", every)


def _group(name: str) -> str:
    for group, small in SMALL.items():
        if name in (group, small):
            return group
    return name


def make(name: str) -> None:
    """Audit one of the zoo's autoencoders on its small set by the standard budget, and store the numbers."""
    about = zoo.card(name)
    report = of_zoo(name)
    measures = {}
    for measure in report.measures:
        if found := report.estimate(measure):
            measures[measure] = [_short(found.effect), _short(found.low), _short(found.high)]
    audited = {
        "data": about["recipe"]["data"],
        "digest": about["digest"],
        "settings": report.settings,
        "measures": measures,
    }
    stored = zoo.audits() | {name: audited}
    files.write_json(zoo.AUDITS, {key: stored[key] for key in zoo.names() if key in stored})


def missing() -> list[str]:
    """The zoo's autoencoders, of the references' data and size, without an audit of their present weights."""
    known = zoo.audits()
    found = []
    for name in zoo.names():
        about = zoo.card(name)
        recipe = about["recipe"]
        fits = recipe["data"] in SMALL and recipe["size"] == REFERENCE_SIZE
        if fits and "SSIM" in about["quality"] and name not in known:
            found.append(name)
    return found


def check_auditable(name: str) -> None:
    """Refuse what is no autoencoder of the zoo, or one of other data than the references'. Raises ValueError."""
    about = zoo.card(name)
    if "SSIM" not in about["quality"]:
        raise ValueError(f"name: an autoencoder of the zoo expected, got {name}, a {about['recipe']['builder']}")
    of = about["recipe"]["data"]
    if of not in SMALL:
        raise ValueError(f"name: a model of {' or '.join(SMALL)} expected, got {name}, trained on {of}")


def of_zoo(name: str) -> Report:
    """Audit one of the zoo's models as its reference is made. Raises ValueError, see `check_auditable`."""
    check_auditable(name)
    model, of = zoo.load(name), zoo.card(name)["recipe"]["data"]
    limit = BUDGETS["standard"].images
    images = loading.images(SMALL[of], size=REFERENCE_SIZE, limit=limit)
    x = images.float()
    outside = {}
    for other in (OTHERS[of], "sprites"):
        outside[other] = loading.like(x, other, limit)
    report = audit(model, x, outside=outside, labels=images.labels, data=of)
    report.settings["zoo"] = name
    return report


def _short(value: float) -> float:
    return float(f"{value:.4g}")
