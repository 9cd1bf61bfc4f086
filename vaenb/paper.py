"""The paper profile of every notebook, and the folder `figures/` that keeps what it found.

`figures/plan.json` lists the runs: the notebook, its parameters, the sizes that fit a CPU (elsewhere the notebook's
own, the documents', are used), the data that it needs, and its main figures with the document's counterpart.
From it and the runs come, by `collect` and `remake`: a folder a run (pictures, their numbers, claims, settings, what
was printed), `manifest.json` (every picture and what made it), `claims.json` (all evidence), the README's table.
"""

import json
import os
import re
from pathlib import Path

import nbformat
import papermill
import plotly.io as pio

from vaenb import claims, data, plots, runs, sweeps
from vaenb.sweeps import Job

_MADE_BY = ("notebook", "profile", "parameters", "settings", "seeds", "data", "device", "threads", "versions")
_COST = ("started", "seconds", "peak_memory_gib")
_LEDGER = re.compile(r"(?<=<!-- ledger -->\n).*?(?=<!-- end of ledger -->)", re.DOTALL)


def figures_folder() -> Path:
    """Give the project's `figures/`."""
    return claims.project_folder() / "figures"


def plan() -> list[dict]:
    """Read `figures/plan.json`; a numbered notebook that it does not name gets a run with its own defaults."""
    entries = json.loads((figures_folder() / "plan.json").read_text(encoding="utf-8"))
    found = sorted((claims.project_folder() / "notebooks").glob("[0-9]*.ipynb"))
    unknown = {path.stem for path in found} - {entry["notebook"] for entry in entries}
    plain = {"needs": [], "parameters": {}, "cpu": {}, "figures": {}}
    entries += [{"folder": stem, "notebook": stem, **plain} for stem in sorted(unknown)]
    return sorted(entries, key=lambda entry: entry["folder"])


def jobs(notebooks: list[Path] | None = None, *, device: str = "cpu") -> list[Job]:
    """Make the plan's jobs (of these notebooks only) for which the data are at hand, and say which are left out.

    On "cpu" they have the plan's reduced sizes. Raises ValueError for a notebook that is not in the plan.
    """
    wanted = {Path(path).stem for path in notebooks or []}
    if unknown := wanted - {entry["notebook"] for entry in plan()}:
        raise ValueError(f"notebooks: {', '.join(sorted(unknown))} is not a numbered notebook of this project")
    at_hand, made = set(data.available()), []
    for entry in plan():
        if wanted and entry["notebook"] not in wanted:
            continue
        if absent := [name for name in entry["needs"] if name not in at_hand]:
            print(f"left out: {entry['folder']}, as {', '.join(absent)} is not at hand (vaenb.data.load fetches it)")
            continue
        made.append(_job(entry, device))
    return made


def estimate(jobs: list[Job], *, workers: int | None = None) -> str:
    """Say what would run, and how long it took where it was last measured (the seconds in `figures/`)."""
    known = {json.dumps(r.get("parameters")): r.get("seconds") for r in _run_files()}
    lines, total, timed, waiting = [], 0.0, 0, [job for job in jobs if not job.finished]
    for job in waiting:
        seconds = known.get(json.dumps(job.parameters)) if job.parameters else None
        total, timed = total + (seconds or 0), timed + bool(seconds)
        lines.append(f"  {job.folder.name}: {_minutes(seconds) if seconds else 'not timed yet'}")
    at_once = min(workers or os.cpu_count() or 1, len(waiting) or 1)
    ends = f"{len(jobs)} runs, of which {len(jobs) - len(waiting)} are finished; {timed} of the rest were timed: "
    ends += f"{_minutes(total)} of one thread, at best {_minutes(total / at_once)} on {at_once}"
    return "\n".join([*lines, ends])


def run(jobs: list[Job], *, workers: int | None = None, scheduler: str | None = None) -> dict[Job, str]:
    """Run the jobs and take each into `figures/` as it ends; return the errors of those that failed.

    Notebooks without a profile read what the others found, and run last. The same call goes on after an interrupt.
    """
    errors: dict[Job, str] = {}
    for stage in ([j for j in jobs if "profile" in j.parameters], [j for j in jobs if "profile" not in j.parameters]):
        for job in [job for job in stage if job.finished]:
            collect(job.folder)
        remake()
        for number, (job, error) in enumerate(sweeps.execute(stage, workers=workers, scheduler=scheduler), start=1):
            errors |= {job: error} if error else {}
            if not error:
                collect(job.folder)
                remake()
            print(f"{'failed' if error else 'finished'} ({number}): {job.folder.name}", flush=True)
    return errors


def collect(folder: Path) -> Path:
    """Take a finished run's main figures, numbers, claims, settings and printed text into its folder of `figures/`.

    Raises ValueError where no run of the plan has this notebook and these parameters, or a main figure is missing.
    """
    folder = Path(folder)
    about = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    same = [e for e in plan() for device in ("cpu", about.get("device", "cpu")) if _made_by(e, device, about)]
    if not same:
        raise ValueError(f"{folder}: figures/plan.json names no run of {about.get('notebook')} with its parameters")
    target = figures_folder() / same[0]["folder"]
    for name in same[0]["figures"]:
        _copy_figure(folder, target, name)
    for name in ("claims.json", "run.json"):
        claims.write_text(target / name, (folder / name).read_text(encoding="utf-8"))
    claims.write_text(target / "printed.txt", _printed(folder / f"{same[0]['notebook']}.ipynb"))
    return target


def remake() -> None:
    """Make `manifest.json`, `claims.json` and the README's ledger anew from the folders of `figures/`."""
    claims.write_json(figures_folder() / "manifest.json", manifest())
    claims.write_json(figures_folder() / "claims.json", evidence())
    readme = claims.project_folder() / "README.md"
    claims.write_text(readme, _LEDGER.sub(lambda _: readme_ledger(), readme.read_text(encoding="utf-8")))


def manifest() -> list[dict]:
    """List the runs of `figures/` with what made them, and for every picture its numbers and its counterpart.

    `numbers` is None for a picture of images, and for one drawn before numbers were kept; `document` is empty where
    the documents have nothing like it.
    """
    counterparts = {entry["folder"]: entry["figures"] for entry in plan()}
    made = []
    for about in _run_files():
        folder = about["folder"]
        pictures = sorted((figures_folder() / folder).glob("*.png"))
        figures = [_figure(path, counterparts.get(folder, {})) for path in pictures]
        made.append({"folder": folder} | {key: about.get(key) for key in (*_MADE_BY, *_COST)} | {"figures": figures})
    return made


def evidence() -> list[dict]:
    """All evidence of the folders of `figures/`, verdicts computed anew."""
    return [e.to_json() for path in sorted(figures_folder().glob("*/claims.json")) for e in claims.read(path)]


def readme_ledger() -> str:
    """The README's part on the claims: how many came out how, and the whole table folded away."""
    rows = claims.ledger([figures_folder()])
    parts = (
        claims.summary(rows),
        f"<details><summary>All {len(rows)} claims</summary>",
        claims.table(rows),
        "</details>",
    )
    return "\n" + "\n\n".join(parts) + "\n\n"


def _job(entry: dict, device: str) -> Job:
    notebook = claims.project_folder() / "notebooks" / f"{entry['notebook']}.ipynb"
    parameters = runs.checked(notebook, _parameters(entry, notebook, device))
    return Job(notebook, parameters, claims.runs_folder() / runs.folder_name(notebook, parameters))


def _parameters(entry: dict, notebook: Path, device: str) -> dict:
    known = papermill.inspect_notebook(str(notebook))
    common = {"profile": "paper"} if "profile" in known else {}
    if device == "cpu":
        return common | entry["parameters"] | entry["cpu"]
    return common | entry["parameters"] | ({"device": device} if "device" in known else {})


def _made_by(entry: dict, device: str, about: dict) -> bool:
    if entry["notebook"] != about.get("notebook"):
        return False
    return _job(entry, device).parameters == about.get("parameters")


def _copy_figure(folder: Path, target: Path, name: str) -> None:
    drawn, picture = folder / f"{name}.plotly.json", folder / f"{name}.png"
    if not drawn.is_file():
        raise ValueError(f"{folder}: there is no {drawn.name}, a main figure in figures/plan.json")
    fig = pio.from_json(drawn.read_text(encoding="utf-8"))
    if not picture.is_file():
        plots.save(fig, folder, name)
    target.mkdir(parents=True, exist_ok=True)
    if picture.is_file():  # there is none without a Chrome
        part = target / f".{name}.part"
        part.write_bytes(runs.fewer_colors(picture.read_bytes()))
        part.replace(target / picture.name)
    if rows := plots.numbers(fig):
        claims.write_csv(target / f"{name}.csv", rows)


def _printed(notebook: Path) -> str:
    cells = nbformat.read(notebook, as_version=4).cells
    outputs = [o for cell in cells if cell.cell_type == "code" for o in cell.outputs]
    return "".join(o.text for o in outputs if o.output_type == "stream" and o.name == "stdout")


def _figure(picture: Path, counterparts: dict[str, str]) -> dict:
    numbers = picture.with_suffix(".csv")
    about = {"file": picture.name, "numbers": numbers.name if numbers.is_file() else None}
    return about | {"document": counterparts.get(picture.stem, "")}


def _run_files() -> list[dict]:
    paths = sorted(figures_folder().glob("*/run.json"))
    return [{"folder": path.parent.name} | json.loads(path.read_text(encoding="utf-8")) for path in paths]


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
