"""The plan of the paper profile: the runs that `figures/plan.json` lists, and the jobs that they make.

An entry names the notebook, its parameters, the sizes that fit a CPU (elsewhere the notebook's own, the documents',
are used), the data that it needs, and its main figures with the document's counterpart.
"""

from dataclasses import dataclass, field
from pathlib import Path

from vaenb import data, files
from vaenb.checks import check_choice
from vaenb.runs.parameters import checked, folder_name, known
from vaenb.runs.sweep import Job


@dataclass(frozen=True)
class Entry:
    """One run of the plan; `folder` is its place in `figures/`."""

    folder: str
    notebook: str
    needs: list[str] = field(default_factory=list)
    parameters: dict = field(default_factory=dict)
    cpu: dict = field(default_factory=dict)
    figures: dict[str, str] = field(default_factory=dict)


def figures_folder() -> Path:
    """Give the project's `figures/`."""
    return files.project_folder() / "figures"


def plan() -> list[Entry]:
    """Read `figures/plan.json`; a numbered notebook that it does not name gets a run with its own defaults."""
    path = figures_folder() / "plan.json"
    items = files.read_json(path, list)
    try:
        entries = [Entry(**item) for item in items]
    except TypeError as error:
        raise ValueError(f"{path}: {error}") from error
    named = {entry.notebook for entry in entries}
    for notebook in (files.project_folder() / "notebooks").glob("[0-9]*.ipynb"):
        if notebook.stem not in named:
            entries.append(Entry(notebook.stem, notebook.stem))
    return sorted(entries, key=lambda entry: entry.folder)


def jobs(notebooks: list[Path] | None = None, *, device: str = "cpu") -> list[Job]:
    """Make the plan's jobs (of these notebooks only) for which the data are at hand, and say which are left out.

    On "cpu" they have the plan's reduced sizes. Raises ValueError for a notebook that is not in the plan.
    """
    check_choice("device", device, ("cpu", "cuda"))
    wanted = {Path(path).stem for path in notebooks or []}
    entries = plan()
    if unknown := wanted - {entry.notebook for entry in entries}:
        raise ValueError(f"notebooks: {', '.join(sorted(unknown))} is not a numbered notebook of this project")
    at_hand = data.available()
    made = []
    for entry in entries:
        if wanted and entry.notebook not in wanted:
            continue
        absent = sorted(set(entry.needs) - set(at_hand))
        if absent:
            print(f"left out: {entry.folder}, as {', '.join(absent)} is not at hand (docs/data.md says how to get it)")
        else:
            made.append(_job(entry, device))
    return made


def entry_of(about: dict) -> Entry:
    """Find the entry that a run belongs to, by the notebook and the parameters of its run.json. Raises ValueError."""
    for entry in plan():
        if entry.notebook == about.get("notebook"):
            for device in ("cpu", about.get("device", "cpu")):
                if _job(entry, device).parameters == about.get("parameters"):
                    return entry
    raise ValueError(f"figures/plan.json names no run of {about.get('notebook')} with its parameters")


def _job(entry: Entry, device: str) -> Job:
    notebook = files.project_folder() / "notebooks" / f"{entry.notebook}.ipynb"
    cell = known(notebook)
    parameters = {"profile": "paper"} if "profile" in cell else {}
    parameters |= entry.parameters
    if device == "cpu":
        parameters |= entry.cpu
    elif "device" in cell:
        parameters["device"] = device
    parameters = checked(notebook, parameters)
    return Job(notebook, parameters, files.runs_folder() / folder_name(notebook, parameters))
