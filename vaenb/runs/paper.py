"""The paper profile of every notebook, and the folder `figures/` that keeps what it found.

`figures/plan.json` lists the runs: the notebook, its parameters, the sizes that fit a CPU (elsewhere the notebook's
own, the documents', are used), the data that it needs, and its main figures with the document's counterpart.
From it and the runs come, by `collect` and `remake`: a folder a run (pictures, their numbers, claims, settings, what
was printed), `manifest.json` (every picture and what made it), `claims.json` (all evidence), the tables of claims in
the README and in the notebooks' texts.
"""

import json
import os
import re
import shutil
from pathlib import Path

import nbformat
import papermill
import plotly.io as pio

from vaenb import claims, data, files, plots
from vaenb.runs import publish
from vaenb.runs import run as runs
from vaenb.runs import sweep as sweeps
from vaenb.runs.sweep import Job

_MADE_BY = ("notebook", "profile", "parameters", "settings", "seeds", "data", "device", "threads", "versions")
_COST = ("started", "seconds", "peak_memory_gib")
_LEDGER = re.compile(r"(?<=<!-- ledger -->\n).*?(?=<!-- end of ledger -->)", re.DOTALL)
_SOME = re.compile(r"^(<!-- claims: (\S.*?) -->\n)(?:(?!<!--)[\s\S])*(?=^<!-- end of claims -->$)", re.MULTILINE)


def figures_folder() -> Path:
    """Give the project's `figures/`."""
    return files.project_folder() / "figures"


def plan() -> list[dict]:
    """Read `figures/plan.json`; a numbered notebook that it does not name gets a run with its own defaults."""
    path, keys = figures_folder() / "plan.json", {"folder", "notebook", "needs", "parameters", "cpu", "figures"}
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} can't be read: {error}") from error
    if not isinstance(entries, list) or not all(isinstance(e, dict) and set(e) == keys for e in entries):
        raise ValueError(f"{path}: a list of objects, each with {', '.join(sorted(keys))}, expected")
    found = sorted((files.project_folder() / "notebooks").glob("[0-9]*.ipynb"))
    unknown = {path.stem for path in found} - {entry["notebook"] for entry in entries}
    plain = {"needs": [], "parameters": {}, "cpu": {}, "figures": {}}
    entries += [{"folder": stem, "notebook": stem, **plain} for stem in sorted(unknown)]
    return sorted(entries, key=lambda entry: entry["folder"])


def jobs(notebooks: list[Path] | None = None, *, device: str = "cpu") -> list[Job]:
    """Make the plan's jobs (of these notebooks only) for which the data are at hand, and say which are left out.

    On "cpu" they have the plan's reduced sizes. Raises ValueError for a notebook that is not in the plan.
    """
    if device not in ("cpu", "cuda"):
        raise ValueError(f"device: cpu or cuda expected, got {device!r}")
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
    sweeps.check_workers(workers)
    known, lines, times, waiting = _run_files(), [], [], [job for job in jobs if not job.finished]
    for job in waiting:
        same = [r for r in known if (r.get("notebook"), r.get("parameters")) == (job.notebook.stem, job.parameters)]
        seconds = same[0].get("seconds") if same else None
        times += [seconds] if seconds else []
        lines.append(f"  {job.folder.name}: {_minutes(seconds) if seconds else 'not timed yet'}")
    lines.append(
        f"{len(jobs)} runs, of which {len(jobs) - len(waiting)} are finished; {len(times)} of the rest were timed"
    )
    if times:
        at_once = min(workers or os.cpu_count() or 1, len(waiting))
        least = max(sum(times) / at_once, *times)
        lines.append(f"those take {_minutes(sum(times))} of one thread, on {at_once} at least {_minutes(least)}")
    return "\n".join(lines)


def run(jobs: list[Job], *, workers: int | None = None, scheduler: str | None = None) -> dict[Job, str]:
    """Run the jobs and take each into `figures/` as it ends; return the errors of those that failed.

    Notebooks without a profile read what the others found, and run last. The same call goes on after an interrupt.
    """
    found, readers = [j for j in jobs if "profile" in j.parameters], [j for j in jobs if "profile" not in j.parameters]
    errors = {job: error for job in found if job.finished and (error := _kept(job))}
    remake()
    behind = False
    with sweeps.shown(jobs) as bar:
        for stage in (found, readers):
            for job in readers if stage is readers else []:  # what they read before may have changed
                bar.update(-1 if job.finished else 0)
                (job.folder / job.notebook.name).unlink(missing_ok=True)
                shutil.rmtree(job.folder / claims.UNFINISHED, ignore_errors=True)
            for job, failed in sweeps.execute(stage, workers=workers, scheduler=scheduler):
                error = failed or _kept(job)
                if error:
                    errors[job] = error
                bar.write(f"failed: {job.folder.name}\n  {error}" if error else f"finished: {job.folder.name}")
                try:
                    remake()
                    behind = False
                except (OSError, ValueError) as reason:  # the runs go on, and the end tries again
                    bar.write(f"the lists of figures/ wait: {reason}")
                    behind = True
                bar.update()
    if behind:
        remake()
    return errors


def _kept(job: Job) -> str | None:
    """Collect a job's folder, or say why it can't be: the other runs go on."""
    try:
        collect(job.folder)
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"it ran, and can't be taken into figures/: {error}"
    return None


def collect(folder: Path) -> Path:
    """Take a finished run's main figures, numbers, claims, settings and printed text into its folder of `figures/`.

    The folder is replaced as a whole, when all of the new one is there. Raises ValueError where no run of the plan has
    this notebook and these parameters, and where the run is not whole: its notebook, claims, or a main figure.
    """
    folder = Path(folder)
    about = _read_run(folder / "run.json")
    same = [e for e in plan() for device in ("cpu", about.get("device", "cpu")) if _made_by(e, device, about)]
    if not same:
        raise ValueError(f"{folder}: figures/plan.json names no run of {about.get('notebook')} with its parameters")
    notebook = folder / f"{same[0]['notebook']}.ipynb"
    if not notebook.is_file():
        raise ValueError(f"{folder}: there is no {notebook.name} in it, so the run is not finished")
    target = figures_folder() / same[0]["folder"]
    part = files.project_folder() / f".{target.name}.part"  # not in figures/: one that a crash leaves is no run
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    for name in same[0]["figures"]:
        _copy_figure(folder, part, name)
    recorded = folder / "claims.json"  # a notebook need not record any
    found = claims.read_strictly(recorded) if recorded.is_file() else []
    files.write_json(part / "claims.json", [e.to_json() for e in found])
    files.write_json(part / "run.json", {key: value for key, value in about.items() if key != "files"})
    files.write(part / "printed.txt", _printed(notebook))
    shutil.rmtree(target, ignore_errors=True)
    part.rename(target)
    return target


def remake() -> None:
    """Make `manifest.json`, `claims.json`, README's ledger and the notebooks' from the folders of `figures/`.

    Raises ValueError naming a file that is damaged, or has marks for a table that do not fit, before it writes any.
    """
    kept = [path for path in figures_folder().iterdir() if path.is_dir()]  # and not the list that is made anew here
    rows, readme = claims.ledger(kept), files.project_folder() / "README.md"
    lists = {"manifest.json": manifest(), "claims.json": evidence()}
    texts = {readme: _LEDGER.sub(lambda _: readme_ledger(rows), readme.read_text(encoding="utf-8"))}
    for path in (files.project_folder() / "notebooks").glob("[0-9]*.ipynb"):
        try:
            book = nbformat.read(path, as_version=4)
            before = nbformat.writes(book)
            for cell in book.cells:
                if cell.cell_type == "markdown":
                    cell.source = with_claims(cell.source, rows)
            after = nbformat.writes(book)
        except (ValueError, TypeError, KeyError, AttributeError, nbformat.ValidationError) as error:
            raise ValueError(f"{path}: {error}") from error
        texts |= {path: after + "\n"} if after != before else {}
    for name, content in lists.items():
        files.write_json(figures_folder() / name, content)
    for path, text in texts.items():
        files.write(path, text)


def manifest() -> list[dict]:
    """List the runs of `figures/` with what made them, and for every picture its numbers and its counterpart.

    `numbers` is None for a picture of images; `document` is empty where the documents have nothing like it.
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
    paths = sorted(figures_folder().glob("*/claims.json"))
    return [e.to_json() for path in paths for e in claims.read_strictly(path)]


def readme_ledger(rows: list[dict]) -> str:
    """The README's part on the claims: how many came out how, and the whole table folded away."""
    parts = (
        claims.summary(rows),
        f"<details><summary>All {len(rows)} claims</summary>",
        claims.table(rows),
        claims.LEGEND,
        "</details>",
    )
    return "\n" + "\n\n".join(parts) + "\n\n"


def with_claims(text: str, rows: list[dict]) -> str:
    """Fill what stands between `<!-- claims: 001.dae joint -->` and `<!-- end of claims -->` of a Markdown text.

    It becomes the table of the claims whose ids are named, or begin with a name and a dot. Raises ValueError for names
    of none, and for marks that are not in pairs, each in a line of its own.
    """

    def filled(match: re.Match) -> str:
        names = match[2].split()
        if unknown := [name for name in names if not any(_named(row, name) for row in rows)]:
            raise ValueError(f"claims: {', '.join(unknown)} in {match[1].strip()} is no claim of claims.csv")
        table = claims.table([row for row in rows if any(_named(row, name) for name in names)], statements=True)
        return f"{match[1]}\n{table}\n\n{claims.LEGEND}\n\n"

    filled_in, pairs = _SOME.subn(filled, text)
    if len(re.findall(r"<!--\s*(?:claims:|end of claims)", text)) != 2 * pairs:
        raise ValueError("claims: lines <!-- claims: ids --> and <!-- end of claims --> expected, in pairs")
    return filled_in


def _named(row: dict, name: str) -> bool:
    return f"{row['claim']}.".startswith(f"{name}.")


def _job(entry: dict, device: str) -> Job:
    notebook = files.project_folder() / "notebooks" / f"{entry['notebook']}.ipynb"
    parameters = runs.checked(notebook, _parameters(entry, notebook, device))
    return Job(notebook, parameters, files.runs_folder() / runs.folder_name(notebook, parameters))


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
        raise ValueError(f"{folder}: there is no {drawn.name}, a main figure in figures/plan.json; see its notebook")
    fig = pio.from_json(drawn.read_text(encoding="utf-8"))
    if not picture.is_file():
        plots.save(fig, folder, name)
    if picture.is_file():  # there is none without a Chrome
        (target / picture.name).write_bytes(publish.fewer_colors(picture.read_bytes()))
    if rows := plots.numbers(fig):
        files.write_csv(target / f"{name}.csv", rows)


def _printed(notebook: Path) -> str:
    cells = nbformat.read(notebook, as_version=4).cells
    outputs = [o for cell in cells if cell.cell_type == "code" for o in cell.outputs]
    return "".join(o.text for o in outputs if o.output_type == "stream" and o.name == "stdout")


def _figure(picture: Path, counterparts: dict[str, str]) -> dict:
    numbers = picture.with_suffix(".csv")
    about = {"file": picture.name, "numbers": numbers.name if numbers.is_file() else None}
    return about | {"document": counterparts.get(picture.stem, "")}


def _run_files() -> list[dict]:
    return [{"folder": path.parent.name} | _read_run(path) for path in sorted(figures_folder().glob("*/run.json"))]


def _read_run(path: Path) -> dict:
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if not isinstance(about, dict):
        raise ValueError(f"{path} is damaged: a JSON object expected, got {type(about).__name__}")
    return about


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
