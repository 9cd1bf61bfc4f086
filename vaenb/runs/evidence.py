"""The folder `figures/`, which keeps what the paper profile found, and the lists and tables that are made from it.

`collect` takes in a run: a folder with its pictures, their numbers, evidence, settings, what was printed. `remake`
makes `manifest.json` (every picture and what made it), `claims.json` (every verdict), and the tables of claims in
README, docs/claims.md and the notebooks' texts.
"""

import re
import shutil
from pathlib import Path
from string import Template

import nbformat
import plotly.io as pio
from filelock import FileLock

from vaenb import claims, files, plots
from vaenb.claims import Finding, tables
from vaenb.runs import publish
from vaenb.runs.parameters import read_book
from vaenb.runs.plan import Entry, entry_of, figures_folder, plan

_MADE_BY = ("notebook", "profile", "parameters", "settings", "seeds", "data", "device", "threads", "versions")
_WHOLE = Path(__file__).with_name("ledger.md")
_NOTEBOOKS = "../notebooks"  # as docs/ sees them
_COST = ("started", "seconds", "seconds_read_back", "peak_memory_gib")
_LEDGER = re.compile(r"(?<=<!-- ledger -->\n).*?(?=<!-- end of ledger -->)", re.DOTALL)
_SOME = re.compile(r"^(<!-- claims: (\S.*?) -->\n)(?:(?!<!--)[\s\S])*(?=^<!-- end of claims -->$)", re.MULTILINE)


def collect(folder: Path) -> Path:
    """Take a finished run's main figures, numbers, evidence, settings and printed text into its folder of `figures/`.

    The folder is replaced as a whole, when all of the new one is there; two processes do so in turn. Raises ValueError
    where no run of the plan has this notebook and these parameters, and where the run is not whole: its notebook,
    evidence, or a main figure.
    """
    folder = files.expanded(folder)
    if not (folder / "run.json").is_file():
        raise FileNotFoundError(f"folder: {folder} has no run.json, so it is no finished run; give the folder of one")
    about = files.read_json(folder / "run.json", dict)
    entry = entry_of(about)
    notebook = folder / f"{entry.notebook}.ipynb"
    if not notebook.is_file():
        raise ValueError(f"{folder}: there is no {notebook.name} in it, so the run is not finished")
    with _in_turn():
        return _taken_in(folder, about, entry)


def _in_turn() -> FileLock:
    """Held while `figures/` and what is made from it are written."""
    return FileLock(files.project_folder() / ".figures.lock")


def _taken_in(folder: Path, about: dict, entry: Entry) -> Path:
    target = figures_folder() / entry.folder
    # not in figures/, as one that a crash leaves is no run, and on its file system
    part, old = (figures_folder().resolve().parent / f".{entry.folder}.{ending}" for ending in ("part", "old"))
    if old.exists() and not target.exists():  # stopped between the two renamings below
        old.rename(target)
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    for name in entry.figures:
        if (target / f"{name}.csv").is_file() and not (folder / f"{name}.csv").is_file():
            raise ValueError(f"{folder}: there is no {name}.csv, as the run before has; give plots.save its table=…")
        _copy_figure(folder, part, name)
    if (folder / "evidence.npz").is_file():  # a notebook need not record any
        claims.read(folder)  # refuses a damaged one
        for name in ("evidence.json", "evidence.npz"):
            shutil.copy(folder / name, part)
    for key in ("files", "contents"):
        about.pop(key, None)
    files.write_json(part / "run.json", about)
    files.write(part / "printed.txt", _printed(folder / f"{entry.notebook}.ipynb"))
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.rename(old)
    part.rename(target)
    shutil.rmtree(old, ignore_errors=True)
    return target


def _copy_figure(folder: Path, target: Path, name: str) -> None:
    drawn, picture, numbers = (folder / f"{name}.{ending}" for ending in ("plotly.json", "png", "csv"))
    if not drawn.is_file():
        raise ValueError(f"{folder}: there is no {drawn.name}, a main figure in figures/plan.json; see its notebook")
    if not picture.is_file():
        plots.save(pio.from_json(drawn.read_text(encoding="utf-8")), folder, name)
    if picture.is_file():  # there is none without a Chrome
        (target / picture.name).write_bytes(publish.fewer_colors(picture.read_bytes()))
    if numbers.is_file():
        shutil.copy(numbers, target)


def _printed(notebook: Path) -> str:
    """What a notebook printed, and its tables."""
    text = ""
    for cell in read_book(notebook).cells:
        for output in cell.get("outputs", []):
            if output.output_type == "stream" and output.name == "stdout":
                text += output.text
            elif table := output.get("data", {}).get("text/markdown"):
                text += f"{table}\n"
    return text


def remake() -> None:
    """Make `manifest.json`, `claims.json`, docs/claims.md, README's ledger and the notebooks' from `figures/`.

    Raises ValueError naming a file that is damaged, or has marks for a table that do not fit, before it writes any.
    """
    with _in_turn():
        _remake()


def _remake() -> None:
    kept = [claims.read(path.parent) for path in figures_folder().glob("*/evidence.npz")]
    runs = sorted(kept, key=lambda run: run.started)
    findings = claims.ledger(runs)
    lists = {"manifest.json": manifest(), "claims.json": [finding.to_json() for finding in findings]}
    project = files.project_folder()
    readme = project / "README.md"
    texts = {readme: _LEDGER.sub(lambda _: readme_ledger(findings), readme.read_text(encoding="utf-8"))}
    texts[project / "docs" / "claims.md"] = whole_ledger(runs)
    for path in (project / "notebooks").glob("[0-9]*.ipynb"):
        if text := _with_new_tables(path, findings):
            texts[path] = text
    for name, content in lists.items():
        files.write_json(figures_folder() / name, content)
    for path, text in texts.items():
        files.write(path, text)


def _with_new_tables(notebook: Path, findings: list[Finding]) -> str | None:
    """Give the notebook's text with its tables of claims made anew, or None where they are the same."""
    book = read_book(notebook)
    before = nbformat.writes(book)
    for cell in book.cells:
        if cell.cell_type == "markdown":
            try:
                cell.source = with_claims(cell.source, findings)
            except ValueError as error:
                raise ValueError(f"{notebook}: {error}") from error
    after = nbformat.writes(book)
    return f"{after}\n" if after != before else None


def manifest() -> list[dict]:
    """List the runs of `figures/` with what made them, and for every picture its numbers and its counterpart.

    `numbers` is None for a picture of images; `document` is empty where the documents have nothing like it.
    """
    counterparts = {entry.folder: entry.figures for entry in plan()}
    made = []
    for about in kept_runs():
        folder = about["folder"]
        figures = []
        for picture in sorted((figures_folder() / folder).glob("*.png")):
            numbers = picture.with_suffix(".csv")
            beside = numbers.name if numbers.is_file() else None
            document = counterparts.get(folder, {}).get(picture.stem, "")
            figures.append({"file": picture.name, "numbers": beside, "document": document})
        row = {"folder": folder}
        for key in (*_MADE_BY, *_COST):
            row[key] = about.get(key)
        made.append(row | {"figures": figures})
    return made


def kept_runs() -> list[dict]:
    """The run.json of each folder of `figures/`, and the folder's name. Raises ValueError naming a damaged one."""
    paths = sorted(figures_folder().glob("*/run.json"))
    return [{"folder": path.parent.name} | files.read_json(path, dict) for path in paths]


def readme_ledger(findings: list[Finding]) -> str:
    """The README's part on the claims: how many came out how, and where the whole table is."""
    return f"\n{tables.summary(findings)}\n\n[Every claim with its numbers](docs/claims.md)\n\n"


def whole_ledger(runs: list[claims.Run]) -> str:
    """The text of docs/claims.md: its digest, the counts, what surprises most, and every claim and question."""
    findings = claims.ledger(runs)
    surprises = "\n".join(f"- {sentence}" for sentence in tables.surprises(findings))
    return Template(_WHOLE.read_text(encoding="utf-8")).substitute(
        digest=claims.digest(runs),
        summary=tables.summary(findings),
        surprises=surprises or "Nothing has been measured by this rule yet.",
        claims=tables.documents(findings, root=_NOTEBOOKS),
        legend=tables.LEGEND,
        questions=tables.questions(findings, root=_NOTEBOOKS),
        within_chance=tables.within_chance(findings),
        cells=tables.cells(findings),
    )


def with_claims(text: str, findings: list[Finding]) -> str:
    """Fill what stands between `<!-- claims: 001.dae joint -->` and `<!-- end of claims -->` of a Markdown text.

    It becomes the tables of the claims and questions whose ids are named, or begin with a name and a dot. Raises
    ValueError for names of none, and for marks that are not in pairs, each in a line of its own.
    """

    def filled(match: re.Match) -> str:
        chosen: list[Finding] = []
        for name in match[2].split():
            named = [finding for finding in findings if f"{finding.claim.id}.".startswith(f"{name}.")]
            if not named:
                raise ValueError(f"claims: {name} in {match[1].strip()} is no claim of claims.csv")
            chosen += [finding for finding in named if finding not in chosen]
        parts = []
        if any(finding.claim.role == "claim" for finding in chosen):
            parts += [tables.documents(chosen), tables.LEGEND]
        if any(finding.claim.role == "question" for finding in chosen):
            parts.append(tables.questions(chosen))
        by_cell = tables.cells(chosen)
        if by_cell:
            parts.append(f"<details><summary>Cell by cell</summary>\n\n{by_cell}\n\n</details>")
        return match[1] + "\n" + "\n\n".join(parts) + "\n\n"

    filled_in, pairs = _SOME.subn(filled, text)
    if len(re.findall(r"<!--\s*(?:claims:|end of claims)", text)) != 2 * pairs:
        raise ValueError("claims: lines <!-- claims: ids --> and <!-- end of claims --> expected, in pairs")
    return filled_in
