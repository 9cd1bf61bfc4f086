"""`figures/`: the plan, what is kept of each run, and the lists and tables made from it."""

import csv
import json
import re
import shutil
from functools import cache
from pathlib import Path

import nbformat
import pytest

from tests import tiny
from vaenb import claims, data, files, plots
from vaenb.__main__ import main
from vaenb.runs import evidence, paper, plan

# A worker's threads and sockets are closed by the system when the cluster ends.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")

ROOT = Path(__file__).parents[1]
FIGURES = ROOT / "figures"
MANIFEST = json.loads((FIGURES / "manifest.json").read_text())


# --- what is committed


def test_the_manifest_is_what_the_folders_say():
    assert json.loads(json.dumps(evidence.manifest())) == MANIFEST


def test_every_picture_is_in_the_manifest_and_every_entry_has_its_files():
    listed = {f"{run['folder']}/{f[key]}" for run in MANIFEST for f in run["figures"] for key in ("file", "numbers")}
    listed -= {f"{run['folder']}/None" for run in MANIFEST}
    kept = {str(p.relative_to(FIGURES)) for ending in ("png", "csv") for p in FIGURES.rglob(f"*.{ending}")}
    assert kept == listed


def test_every_run_says_what_made_it_and_what_it_took():
    keys = ("notebook", "profile", "settings", "seeds", "data", "device", "threads", "versions", "started")
    for run in MANIFEST:
        for key in (*keys, "seconds"):
            assert run[key] is not None, f"{run['folder']}: no {key}"
        assert (ROOT / "notebooks" / f"{run['notebook']}.ipynb").is_file()


def test_every_notebook_has_a_run_with_a_figure():
    drawn = {run["notebook"] for run in MANIFEST if run["figures"]}
    without = {"00_start_here", "11_claims"}  # one claims nothing, the other reads what the rest found
    assert drawn | without == {path.stem for path in (ROOT / "notebooks").glob("[0-9]*.ipynb")}


@cache
def ledger() -> list[claims.Finding]:
    """What the evidence in `figures/` says of every claim."""
    return claims.ledger(claims.found([FIGURES]))


def test_every_published_verdict_can_be_computed_again_from_the_kept_arrays():
    path = FIGURES / "claims.json"
    listed = [(row["claim"], row["measure"]) for row in json.loads(path.read_text())]
    assert listed == [(finding.claim.id, finding.measure) for finding in ledger()]
    runs = claims.found([FIGURES])
    assert [name for name in claims.load() if not claims.verify(name, runs, path)[1]] == []


def test_what_would_settle_a_correlation_over_models_is_more_models():
    over_models = set()
    for claim in claims.load().values():
        over_models |= {cell.claim for cell in claim.cells if cell.sampled == "models"}
    assert over_models == {"q.001.diversity"}
    (found,) = (finding for finding in ledger() if finding.claim.id == "q.001.diversity")
    assert "models might settle it" in found.why and "images" not in found.why


def test_the_readme_and_the_docs_have_the_ledger_of_the_evidence():
    text = (ROOT / "README.md").read_text()
    (shown,) = re.findall(r"<!-- ledger -->\n(.*?)<!-- end of ledger -->", text, re.DOTALL)
    assert shown == evidence.readme_ledger(ledger())
    assert (ROOT / "docs" / "claims.md").read_text() == evidence.whole_ledger(claims.found([FIGURES]))


def test_the_command_prints_the_ledger_as_the_docs_have_it(capsys):
    assert main(["claims", "--markdown"]) == 0
    assert capsys.readouterr().out == (ROOT / "docs" / "claims.md").read_text()


def test_the_docs_say_how_many_verdicts_hang_on_how_runs_differ():
    lines = claims.tables.within_chance(ledger()).splitlines()[2:]
    hanging = len({line.split("`")[1] for line in lines})
    for page in ("README.md", "docs/results.md"):
        assert f"{hanging} verdicts hang on" in (ROOT / page).read_text()


def test_the_readme_counts_the_verdicts_as_the_ledger_does():
    findings = [finding for finding in ledger() if finding.claim.role == "claim"]
    verdicts = list(claims.tables.by_claim(findings).values())
    held = sum(verdict.startswith("reproduced") for verdict in verdicts)  # one that is small, too
    failed, mixed = verdicts.count("contradicted"), verdicts.count("mixed")
    told = f"{held} of {len(verdicts)} hold here, {failed} fail, {mixed} differ from case to case"
    assert told in (ROOT / "README.md").read_text()


def test_notebook_11_shows_the_ledger_of_the_evidence():
    book = nbformat.read(ROOT / "notebooks" / "11_claims.ipynb", as_version=4)
    outputs = [output for cell in book.cells for output in cell.get("outputs", [])]
    shown = [output["data"].get("text/markdown") for output in outputs if "data" in output]
    tables, findings = claims.tables, ledger()
    assert tables.summary(findings) in shown and tables.questions(findings, root=".") in shown
    assert f"{tables.documents(findings, root='.')}\n\n{tables.LEGEND}" in shown


def test_the_notebooks_tables_of_claims_are_as_the_evidence_gives_them():
    for path in sorted((ROOT / "notebooks").glob("[0-9]*.ipynb")):
        text = _texts(path)
        assert text == evidence.with_claims(text, ledger()), f"{path.name}: vaenb collect makes its table anew"


def test_every_number_that_a_text_gives_with_its_interval_was_found_by_a_kept_run():
    """In the notebook's folders of `figures/`, or its stored outputs; rounded, in %, or with its sign turned."""
    unknown = []
    for path in sorted((ROOT / "notebooks").glob("[0-9]*.ipynb")):
        found = [t for folder in FIGURES.glob(f"{path.stem}*") for t in _found(folder)]
        found += [_values(t) for t in INTERVAL.findall(json.dumps(_outputs(path), ensure_ascii=False))]
        text = re.sub("<!-- claims.*?end of claims -->", "", _texts(path), flags=re.DOTALL)  # made from the evidence
        unknown += [f"{path.stem}: {m[0]}" for m in INTERVAL.finditer(text) if not _known(m.groups(), found)]
    found = [t for folder in FIGURES.iterdir() if folder.is_dir() for t in _found(folder)]
    readme = re.sub("<!-- ledger.*end of ledger -->", "", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    unknown += [f"README: {m[0]}" for m in INTERVAL.finditer(readme) if not _known(m.groups(), found)]
    assert not unknown


NUMBER = r"[+−-]?(?:\d[\d,]*)?\.?\d+"
INTERVAL = re.compile(rf"({NUMBER})(?: %)?(?: nats)? \[({NUMBER}), ({NUMBER})\]")


def _texts(path: Path) -> str:
    return "\n\n".join(c.source for c in nbformat.read(path, as_version=4).cells if c.cell_type == "markdown")


def _outputs(path: Path) -> list:
    cells = nbformat.read(path, as_version=4).cells
    return [o.get("text") or o.get("data", {}).get("text/markdown") for c in cells for o in c.get("outputs", [])]


def _found(folder: Path) -> list[tuple[float, ...]]:
    printed = folder / "printed.txt"
    told = INTERVAL.findall(printed.read_text()) if printed.is_file() else []
    rows = [row for path in folder.glob("*.csv") for row in csv.DictReader(path.read_text().splitlines())]
    drawn = []
    for row in rows:
        for place in ("x", "y", "effect"):
            if row.get("low") and place in row:
                drawn.append((row[place], row["low"], row["high"]))
    numbers = [t for t in drawn if re.fullmatch(r"-?[\d.e-]+", t[0])]
    return _recorded(folder) + [_values(t) for t in told + numbers]


def _recorded(folder: Path) -> list[tuple[float, ...]]:
    """The intervals that a run recorded, or one of the first round, whose notebook is being rebuilt."""
    if (folder / "evidence.npz").is_file():
        cells = claims.measured(claims.read(folder))
    else:
        kept = json.loads((folder / "claims.json").read_text())
        cells = [cell for claim in kept for cell in claim["cells"].values()]
    return [(cell["effect"], cell["low"], cell["high"]) for cell in cells]


def _values(texts: tuple[str, ...]) -> tuple[float, ...]:
    return tuple(float(t.replace("−", "-").replace(",", "")) for t in texts)


def _known(texts: tuple[str, ...], found: list[tuple[float, ...]]) -> bool:
    places = [len(t.partition(".")[2]) for t in texts]
    said = _values(texts)

    def fits(triple: tuple[float, ...]) -> bool:
        return all(abs(a - b) <= 0.5001 * 10.0**-n for a, b, n in zip(said, triple, places, strict=True))

    return any(
        fits((e, low, high)) or fits((-e, -high, -low)) or fits((100 * e, 100 * low, 100 * high))
        for e, low, high in found
    )


def test_the_plan_fits_the_notebooks(monkeypatch):
    everything = {name for entry in plan.plan() for name in entry.needs}
    monkeypatch.setattr(data, "available", lambda: sorted(everything))
    for device in ("cpu", "cuda"):
        jobs = plan.jobs(device=device)
        assert len({job.folder for job in jobs}) == len(jobs) == len(plan.plan())
    assert all("limit" not in job.parameters and "epochs" not in job.parameters for job in jobs)  # the documents' sizes


# --- how it is made


DRAWS = """
from IPython.display import Markdown, display
(folder / "curve.plotly.json").write_text('{"data": []}')
(folder / "curve.csv").write_text(f"x,y\\n1,{beta}\\n")
print("said")
display(Markdown("| told |"))
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project of one notebook with one figure, a plan, and a README."""
    for name in ("figures", "notebooks"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(files, "project_folder", lambda: tmp_path)
    monkeypatch.setattr(plots, "chrome", lambda: None)
    monkeypatch.setenv("VAENB_RUNS", str(tmp_path / "runs"))
    text = "Found:\n<!-- claims: 002b.transition 001.dae -->\nstale\n<!-- end of claims -->\nend"
    parameters = tiny.PARAMETERS + "limit: int = 0  # training images"
    tiny.write(tmp_path / "notebooks" / "00_tiny.ipynb", tiny.RECORDS + DRAWS, parameters=parameters, text=text)
    entry = {"folder": "00_tiny-mnist", "notebook": "00_tiny", "needs": [], "parameters": {"beta": 2}}
    entry |= {"cpu": {"limit": 5}, "figures": {"curve": "001, Table 1"}}
    missing = entry | {"folder": "00_tiny-svhn", "needs": ["no_such_set"]}
    (tmp_path / "figures" / "plan.json").write_text(json.dumps([entry, missing]))
    (tmp_path / "README.md").write_text("# Tiny\n<!-- ledger -->\nstale\n<!-- end of ledger -->\nend\n")
    return tmp_path


def test_the_paper_profile_runs_what_has_data_and_keeps_what_it_found(project, capsys):
    assert main(["paper", "--workers", "1"]) == 0
    said = capsys.readouterr().out
    assert "left out: 00_tiny-svhn, as no_such_set is not at hand" in said
    assert "not timed yet" in said and "1 runs, of which 0 are finished" in said
    kept = project / "figures" / "00_tiny-mnist"
    about = json.loads((kept / "run.json").read_text())
    assert about["parameters"] == {"profile": "paper", "beta": 2.0, "limit": 5} and about["seconds"] > 0
    assert (kept / "curve.csv").read_text() == "x,y\n1,2.0\n"
    assert (kept / "printed.txt").read_text() == "said\n| told |\n"
    verdicts = project / "figures" / "claims.json"
    (found,) = (row for row in json.loads(verdicts.read_text()) if row["claim"] == tiny.CLAIM)
    assert found["cells"][tiny.CELL]["effect"] == 2.0 and found["verdict"] == "reproduced"
    readme = (project / "README.md").read_text()
    assert "| 002b | 4 | 1 | 3 |" in readme and "stale" not in readme
    assert readme.endswith("<!-- end of ledger -->\nend\n")
    shown = _texts(project / "notebooks" / "00_tiny.ipynb")
    named = [claims.find(name).statement for name in (tiny.CLAIM, "001.dae", "001.dae.dim")]
    places = [shown.index(f"| {statement} ") for statement in named]
    assert places == sorted(places) and "001.tc-tradeoff" not in shown
    assert "2.00 [" in shown and "stale" not in shown and shown.endswith("<!-- end of claims -->\nend")
    whole = (project / "docs" / "claims.md").read_text()
    assert "(../notebooks/tiny.ipynb)" in whole and "2.00 [" in whole  # as its evidence names it
    before = verdicts.read_bytes()
    verdicts.write_text("[]")
    assert main(["paper", "--workers", "1"]) == 0  # nothing is left to run, and the same is kept
    assert (project / "README.md").read_text() == readme and verdicts.read_bytes() == before
    assert "1 runs, of which 1 are finished" in capsys.readouterr().out
    assert json.loads((kept / "run.json").read_text()) == about


def test_a_table_of_claims_that_do_not_exist_is_refused():
    with pytest.raises(ValueError, match=r"001\.da in <!-- claims: 001\.dae 001\.da 9 --> .* no claim"):
        evidence.with_claims("<!-- claims: 001.dae 001.da 9 -->\n<!-- end of claims -->", ledger())


@pytest.mark.parametrize(
    "text",
    [
        "<!-- claims: 001.dae -->\nold\n\nmine\n\n<!-- claims: 002b -->\nold\n<!-- end of claims -->",
        "<!-- claims: 001.dae -->\nold",
        "<!-- end of claims -->",
        "<!--claims: 001.dae-->\n<!-- end of claims -->",
        "<!-- claims: 001.dae --> \n<!-- end of claims -->",
        "<!-- claims:  -->\n<!-- end of claims -->",
    ],
)
def test_marks_that_do_not_fit_are_refused(text):
    with pytest.raises(ValueError, match="expected, in pairs"):
        evidence.with_claims(text, ledger())


def test_lists_are_made_all_or_none_and_the_notebook_that_stops_them_is_named(project, capsys):
    before = (project / "README.md").read_text()
    for content in ("", '{"cells": 3}', "typo"):
        path = project / "notebooks" / "01_mine.ipynb"
        if content == "typo":
            tiny.write(path, text="<!-- claims: 999 -->\n<!-- end of claims -->")
        else:
            path.write_text(content)
        assert main(["collect"]) == 1
        assert "01_mine.ipynb" in capsys.readouterr().err
        assert (project / "README.md").read_text() == before and not (project / "figures" / "manifest.json").exists()


def test_the_estimate_is_what_the_same_run_took(project):
    kept = project / "figures" / "00_tiny-mnist"
    kept.mkdir()
    (job,) = plan.jobs()
    (kept / "run.json").write_text(json.dumps({"notebook": "00_tiny", "parameters": job.parameters, "seconds": 7200}))
    assert ": at least 2.0 h" in paper.estimate([job], workers=2)
    about = {"notebook": "00_tiny", "parameters": job.parameters, "seconds": 60, "seconds_read_back": 10_800}
    (kept / "run.json").write_text(json.dumps(about))
    assert ": 3.0 h" in paper.estimate([job])
    (kept / "run.json").write_text(json.dumps({"notebook": "00_tiny", "parameters": job.parameters, "seconds": "two"}))
    assert "not timed yet" in paper.estimate([job], workers=2)
    (job,) = plan.jobs(device="cuda")  # other sizes: what the small ones took says nothing
    assert "not timed yet" in paper.estimate([job], workers=2)


def test_what_can_not_be_kept_is_told(project, capsys):
    with pytest.raises(ValueError, match="notebooks: 17_other is not a numbered notebook"):
        plan.jobs([Path("notebooks/17_other.ipynb")])
    stray = project / "runs" / "stray"
    stray.mkdir(parents=True)
    (stray / "run.json").write_text(json.dumps({"notebook": "00_tiny", "parameters": {"beta": 9.0}}))
    assert main(["collect", str(stray)]) == 1
    assert "figures/plan.json names no run of 00_tiny with its parameters" in capsys.readouterr().err
    (job,) = plan.jobs()
    (stray / "run.json").write_text(json.dumps({"notebook": "00_tiny", "parameters": job.parameters}))
    assert main(["collect", str(stray)]) == 1
    assert "there is no 00_tiny.ipynb in it, so the run is not finished" in capsys.readouterr().err
    (stray / "00_tiny.ipynb").write_text((project / "notebooks" / "00_tiny.ipynb").read_text())
    assert main(["collect", str(stray)]) == 1
    assert "there is no curve.plotly.json" in capsys.readouterr().err
    (stray / "run.json").write_text("[1]")
    assert main(["collect", str(stray)]) == 1
    assert "a JSON object expected, got list" in capsys.readouterr().err
    assert not (project / "figures" / "00_tiny-mnist").exists()
    with pytest.raises(ValueError, match="device: one of cpu, cuda expected, got 'CPU'"):
        plan.jobs(device="CPU")


@pytest.mark.parametrize("text", ['[{"folder": "x"}]', "[3]", "{", "{}"])
def test_an_odd_plan_is_named(project, text):
    (project / "figures" / "plan.json").write_text(text)
    with pytest.raises(ValueError, match=r"figures/plan.json"):
        plan.jobs()


def test_damaged_evidence_never_replaces_what_is_kept(project):
    assert main(["paper", "--workers", "1"]) == 0
    (job,) = plan.jobs()
    kept = (project / "figures" / "claims.json").read_text()
    (job.folder / "evidence.npz").write_bytes(b"")
    with pytest.raises(ValueError, match=r"evidence.npz is damaged"):
        evidence.collect(job.folder)
    evidence.remake()
    assert (project / "figures" / "claims.json").read_text() == kept
    (stored,) = (project / "figures").glob("*/evidence.npz")
    stored.write_bytes(stored.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"evidence.npz is damaged"):
        evidence.remake()
    assert (project / "figures" / "claims.json").read_text() == kept


def test_what_a_crash_left_aside_comes_back(project):
    assert main(["paper", "--workers", "1"]) == 0
    (job,) = plan.jobs()
    target = evidence.collect(job.folder)
    aside = project / f".{target.name}.old"
    target.rename(aside)  # as between the two renamings
    (job.folder / "evidence.npz").write_bytes(b"")
    with pytest.raises(ValueError, match=r"evidence.npz is damaged"):
        evidence.collect(job.folder)
    assert (target / "evidence.npz").is_file() and not aside.exists()


def test_what_can_not_be_kept_stops_no_other_run_and_readers_run_last_and_again(project, capsys):
    first = json.loads((project / "figures" / "plan.json").read_text())[0]
    shutil.copy(project / "notebooks" / "00_tiny.ipynb", project / "notebooks" / "01_other.ipynb")
    counts = """
from pathlib import Path
verdicts = Path("../figures/claims.json").read_text().count('"reproduced"')
print(verdicts, len(list(Path("../figures").glob("*/evidence.npz"))))
"""
    tiny.write(project / "notebooks" / "09_reader.ipynb", counts, parameters="folders: list = []  # where")
    other = {**first, "notebook": "01_other", "folder": "01_other", "figures": {"nosuch": ""}}
    reader = {**first, "notebook": "09_reader", "folder": "09_reader", "figures": {}, "cpu": {}, "parameters": {}}
    (project / "figures" / "plan.json").write_text(json.dumps([other, first, reader]))
    assert main(["paper", "--workers", "1"]) == 1
    said = capsys.readouterr()
    assert "there is no nosuch.plotly.json" in said.err and "3 runs, 0 finished before" in said.err
    assert "failed: 01_other" in said.out and "finished: 00_tiny" in said.out  # as they end
    assert (project / "figures" / "09_reader" / "printed.txt").read_text() == "1 1\n"  # after 00_tiny
    (project / "figures" / "plan.json").write_text(json.dumps([{**other, "figures": {"curve": ""}}, first, reader]))
    (reading,) = (project / "runs").glob("09_reader*")
    shutil.copytree(reading, reading / claims.UNFINISHED)  # a reader that was stopped while it moved in
    assert main(["paper", "--workers", "1"]) == 0
    assert (project / "figures" / "09_reader" / "printed.txt").read_text() == "1 2\n"
    assert "3/3" in capsys.readouterr().err
