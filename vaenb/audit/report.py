"""What an audit found: measures by unique names, each with its unit, and what they were computed from."""

from dataclasses import asdict, dataclass, field

from torch import Tensor

from vaenb.metrics.distortion import DDCurve
from vaenb.stats import Estimate

Found = Estimate | str  # or the reason why there is no estimate


@dataclass(frozen=True)
class Measure:
    """One number of a report."""

    found: Found
    unit: str


@dataclass(frozen=True, eq=False)
class Climb:
    """What an attack's loss did, of the images that a doubled attack sees, too."""

    path: Tensor  # (steps + 1,), its mean over images, radii and starts
    best: float  # the mean over images and radii of the best start's last


@dataclass(eq=False)
class Report:
    """What `audit` found. A measure's name begins with its surface, as in "encoder: AADDC"."""

    measures: dict[str, Measure] = field(default_factory=dict)
    curves: dict[str, DDCurve] = field(default_factory=dict)  # by surface, and "<surface>, random"
    climbs: dict[str, Climb] = field(default_factory=dict)  # by surface, and "<surface>, doubled"
    spreads: Tensor | None = None  # (D,), each latent's standard deviation over z ~ q(z|x), sorted downwards
    stddevs: Tensor | None = None  # (D,), the mean of q(z|x)'s own, in the same order
    codes: dict[str, Tensor] = field(default_factory=dict)  # (A, D) each: clean, attacked, repaired, …
    pictures: dict[str, Tensor] = field(default_factory=dict)  # rows of a few images (n, C, H, W)
    settings: dict[str, object] = field(default_factory=dict)
    stopped: str = ""  # why it ended early: "by Ctrl-C", or in which part by what

    def __getitem__(self, name: str) -> Found:
        """One measure, as in report["encoder: AADDC"]. Raises KeyError naming those there are."""
        if name not in self.measures:
            raise KeyError(f"{name!r}; there are {list(self.measures)}")
        return self.measures[name].found

    def estimate(self, name: str) -> Estimate | None:
        """One measure, or None where it is missing."""
        measure = self.measures.get(name)
        return measure.found if measure and isinstance(measure.found, Estimate) else None

    def rows(self) -> list[dict]:
        """The measures as rows with named columns: report.csv."""
        rows = []
        for name, measure in self.measures.items():
            row: dict = {"measure": name, "unit": measure.unit}
            if isinstance(measure.found, str):
                row["missing"] = measure.found
            else:
                row |= {key: getattr(measure.found, key) for key in ("effect", "low", "high", "n")}
            rows.append(row)
        return rows

    def table(self) -> str:
        """Lay the measures out as a Markdown table."""
        lines = ["| measure | value [95 %] | unit | images |", "| --- | --- | --- | --- |"]
        for name, measure in self.measures.items():
            count = str(getattr(measure.found, "n", ""))
            cells = [cell.replace("|", r"\|") for cell in (name, shown(measure.found), measure.unit, count)]
            lines.append(f"| {' | '.join(cells)} |")
        return "\n".join(lines)

    def to_json(self) -> dict:
        """Give everything but pictures and codes as plain numbers and texts; curves as means over their images."""
        measures = {}
        for name, measure in self.measures.items():
            found = measure.found
            value = {"missing": found} if isinstance(found, str) else asdict(found)
            measures[name] = {"unit": measure.unit} | value
        curves = {}
        for name, curve in self.curves.items():
            curves[name] = {"radii": curve.radii.tolist()}
            for metric, values in curve.values.items():
                curves[name][metric] = values.mean(1).tolist()
        stored = {"settings": self.settings, "stopped": self.stopped, "measures": measures, "curves": curves}
        if self.spreads is not None and self.stddevs is not None:
            stored["latents"] = {"spreads": self.spreads.tolist(), "stddevs": self.stddevs.tolist()}
        return stored


class AuditInterrupted(KeyboardInterrupt):
    """An audit was stopped by Ctrl-C; `report` is what there was by then."""

    def __init__(self, report: Report) -> None:
        super().__init__("the audit was stopped; the report holds what was measured")
        self.report = report


class AuditFailed(RuntimeError):
    """A model raised in the middle of an audit; `report` is what there was by then."""

    def __init__(self, report: Report) -> None:
        super().__init__(f"the audit was stopped {report.stopped}; the report holds what was measured")
        self.report = report


def shown(found: Found) -> str:
    """An estimate with its interval in three digits, or the reason why there is none."""
    if isinstance(found, str):
        return found
    return f"{digits(found.effect)} [{digits(found.low)}, {digits(found.high)}]"


def digits(value: float) -> str:
    text = f"{value:.3g}" if abs(value) < 999.5 else f"{value:.0f}"
    return text.replace("-", "−")
