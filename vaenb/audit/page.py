"""The page of an audit: one HTML file that needs no network, and beside it the numbers and the pictures."""

import base64
import html
from importlib import metadata
from pathlib import Path
from string import Template

import plotly.graph_objects as go

from vaenb import files
from vaenb.audit.figures import figures
from vaenb.audit.reference import Band, band
from vaenb.audit.report import Report, digits, shown
from vaenb.audit.verdicts import verdicts, warnings
from vaenb.plots.saving import save
from vaenb.plots.style import tile

_TEMPLATE = Path(__file__).with_name("page.html")
_SIDE = 112  # pixels of a picture on the page, or more
_READ = {  # how a figure is read
    "curves": "The lower the solid line beside the dashed one, the more an attacker gains over chance. Bands are ±2 "
    "standard errors over images. The two yardsticks of the decoder may rank models differently: a spread is the "
    "standard deviation of one latent, a distance the √D spreads that a code typically lies from the centre.",
    "reference": "The dot is this model with its 95 % interval over images, each grey stroke a model of the zoo.",
    "repair": "HMC moves the code of an attacked image towards those that explain the image. What it does to clean "
    "images is its price.",
    "outside": "1: every other image scores as more foreign than every image of the data; ½: guessing; below ½: taken "
    "for the model's own. File size asks no model at all.",
    "labels": "A linear probe of codes, fitted on images that nobody attacked.",
    "latents": "Where a posterior's own deviation reaches that of all codes, the latent says nothing.",
    "strength": "Lines are means over all starts, the diamond is the mean of the best ones: at 1 it has found what "
    "doubled steps and starts find. On the decoder an attack climbs the squared error, on the encoder a divergence; "
    "robustness is read in SSIM, so a warning stands on top only where doubling lowers the area under SSIM.",
}


def write(report: Report, folder: Path | str, *, title: str = "") -> Path:
    """Write page.html, report.json, report.csv and the figures' PNGs into a folder (PNGs of charts need a Chrome).

    Gives the page's path. Where a complete report lies there, one that was stopped goes into the folder `stopped`
    beside it. Raises OSError where the folder can't be written.
    """
    folder = files.expanded(folder)
    if report.stopped and _is_complete(folder / "report.json"):
        folder = folder / "stopped"
    beside = band(report)
    drawn = figures(report, beside)
    _remove_figures(folder)
    files.write_json(folder / "report.json", _stored(report, beside))
    files.write_csv(folder / "report.csv", report.rows())
    path = folder / "page.html"
    files.write(path, _page(report, beside, drawn, title))
    if report.pictures:
        files.write(folder / "pictures.png", tile(list(report.pictures.values()), zoom=_zoom(report)))
    for name, fig in drawn.items():
        save(fig, folder, name)
    return path


def _is_complete(path: Path) -> bool:
    try:
        return not files.read_json(path, dict).get("stopped")
    except (OSError, ValueError):  # none, or a damaged one
        return False


def _remove_figures(folder: Path) -> None:
    """Those of an earlier report, of which this one may have fewer."""
    if not (folder / "report.json").is_file():
        return
    for name in (*_READ, "pictures"):
        for ending in ("png", "plotly.json"):
            (folder / f"{name}.{ending}").unlink(missing_ok=True)


def summary(report: Report) -> str:
    """The warnings and the verdicts as lines of text."""
    beside = band(report)
    lines = [f"! {warning}" for warning in warnings(report, beside)]
    for name, line in verdicts(report, beside).items():
        lines.append(f"{name}: {line}")
    return "\n".join(lines)


def _stored(report: Report, beside: Band) -> dict:
    versions = {name: metadata.version(name) for name in ("vaenb", "torch")}
    words = {"warnings": warnings(report, beside), "verdicts": verdicts(report, beside)}
    return words | {"reference": beside.words, "versions": versions} | report.to_json()


def _page(report: Report, beside: Band, drawn: dict[str, go.Figure], title: str) -> str:
    title = html.escape(title or f"Audit of {report.settings.get('model', 'a model')}")
    alarms = [f'<p class="alarm">{html.escape(text)}</p>' for text in warnings(report, beside)]
    words = []
    for name, line in verdicts(report, beside).items():
        words.append(f"<tr><th>{html.escape(name)}</th><td>{html.escape(line)}</td></tr>")
    charts = []
    for number, (name, fig) in enumerate(drawn.items()):
        chart = fig.to_html(full_html=False, include_plotlyjs=number == 0)
        charts.append(f"{chart}<p>{html.escape(_READ[name])}</p>")
    return Template(_TEMPLATE.read_text(encoding="utf-8")).substitute(
        title=title,
        settings=html.escape(_settings(report)),
        alarms="\n".join(alarms),
        verdicts="\n".join(words),
        pictures=_pictures(report),
        charts="\n".join(charts),
        measures=_measures(report, beside),
    )


def _settings(report: Report) -> str:
    about = report.settings
    parts = [f"{about.get('images')} images {about.get('shape')}, {about.get('attacked')} attacked"]
    parts.append(f"PGD of {about.get('steps')} steps from {about.get('restarts')} starts, seed {about.get('seed')}")
    if "latents" in about:
        parts.append(f"{about['latents']} latents")
    if about.get("assumed"):
        parts.append(f"p(x|z) assumed: {about['assumed']}")
    parts.append(f"vaenb {metadata.version('vaenb')}")
    return " · ".join(parts)


def _zoom(report: Report) -> int:
    side = next(iter(report.pictures.values())).shape[-1]
    return max(1, -(-_SIDE // side))


def _pictures(report: Report) -> str:
    rows = []
    for name, images in report.pictures.items():
        png = base64.b64encode(tile([images], zoom=_zoom(report))).decode()
        picture = f'<img alt="{html.escape(name)}" src="data:image/png;base64,{png}">'
        rows.append(f"<tr><th>{html.escape(name)}</th><td>{picture}</td></tr>")
    return "\n".join(rows)


def _measures(report: Report, beside: Band) -> str:
    rows = []
    for name, measure in report.measures.items():
        others = list(beside.effects(name).values())
        span = f"{digits(min(others))} … {digits(max(others))}" if others else ""
        count = getattr(measure.found, "n", "")
        cells = "".join(
            f"<td>{html.escape(str(cell))}</td>" for cell in (shown(measure.found), measure.unit, count, span)
        )
        rows.append(f"<tr><th>{html.escape(name)}</th>{cells}</tr>")
    return "\n".join(rows)
