"""`vaenb run`: parameters are checked, results land in their folder, and a failure is told with its cell."""

import json
from functools import partial
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from vaenb import claims, files
from vaenb.__main__ import main
from vaenb.runs import publish
from vaenb.runs import run as runs

RECORDS = """
from vaenb import claims, stats
run = claims.start_run("tiny", profile=profile, seeds=[seed], data={"mnist": "0" * 12}, settings={"beta": beta})
run.record("001.vulnerable", {"vae": stats.Estimate(beta, beta - 0.5, beta + 0.5)}, data="mnist")
print(f"{beta!r}")
"""


@pytest.fixture
def notebook(tmp_path, monkeypatch):
    monkeypatch.setenv("VAENB_RUNS", str(tmp_path / "runs"))
    monkeypatch.setattr(runs.plots, "chrome", lambda: None)
    parameters = 'profile: str = "quick"  # profile\nbeta: float = 1.0  # weight\nseed: int = 0  # seed'
    cells = [
        new_markdown_cell("# tiny", id="title"),
        new_code_cell(parameters, id="parameters", metadata={"tags": ["parameters"]}),
        new_code_cell(RECORDS, id="record"),
        new_code_cell("if seed < 0:\n    raise ValueError('a negative seed')", id="check"),
    ]
    path = tmp_path / "tiny.ipynb"
    nbformat.write(
        new_notebook(
            cells=cells, metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
        ),
        path,
    )
    return path


def test_a_run_has_its_folder_with_notebook_and_claims(notebook):
    folder = runs.run(notebook, {"beta": 4})
    assert folder == files.runs_folder() / "tiny_beta=4.0"
    executed = nbformat.read(folder / "tiny.ipynb", as_version=4)
    assert executed.cells[-2].outputs[0].text == "4.0\n"  # the annotation makes a float of 4
    (evidence,) = json.loads((folder / "claims.json").read_text())
    assert evidence["cells"]["vae"]["effect"] == 4.0
    assert json.loads((folder / "run.json").read_text())["settings"] == {"beta": 4.0}


def test_an_unknown_parameter_is_refused_before_anything_runs(notebook):
    with pytest.raises(ValueError, match="parameter 'betta': tiny.ipynb has profile, beta, seed"):
        runs.run(notebook, {"betta": 4})
    with pytest.raises(ValueError, match="parameter 'beta': float expected, got 'four'"):
        runs.run(notebook, {"beta": "four"})
    assert not files.runs_folder().exists()


def test_a_failing_cell_is_told_and_the_notebook_kept(notebook, capsys):
    assert main(["run", str(notebook), "-p", "seed", "-1"]) == 1
    said = capsys.readouterr().err
    assert "cell 4 of" in said and "ValueError: a negative seed" in said
    folder = files.runs_folder() / "tiny_seed=-1"
    kept = folder / "unfinished-run" / "tiny.part.ipynb"
    assert str(kept) in said and kept.exists() and not (folder / "tiny.ipynb").exists()


def changed(notebook: Path, code: str) -> None:
    """Let the notebook do more before its last cell's check."""
    book = nbformat.read(notebook, as_version=4)
    book.cells[-1].source = f"{code}\nif seed < 0:\n    raise ValueError('a negative seed')"
    nbformat.write(book, notebook)


def kept(folder: Path) -> dict[str, bytes]:
    """The files of a run's folder, without those of an unfinished run."""
    paths = [p for p in folder.rglob("*") if p.is_file() and "unfinished-run" not in p.parts and p.name != ".lock"]
    return {str(p.relative_to(folder)): p.read_bytes() for p in paths}


def test_a_run_that_fails_leaves_the_finished_one_before_it_and_does_not_count(notebook):
    folder = runs.run(notebook, {"beta": 4})
    before = kept(folder)
    again = 'run.record("001.vulnerable", {"vae": stats.Estimate(9, 8, 10)}, data="mnist"); 1 / 0'
    changed(notebook, again)
    with pytest.raises(runs.RunFailed, match=r"unfinished-run/tiny\.part\.ipynb\nZeroDivisionError"):
        runs.run(notebook, {"beta": 4})
    assert kept(folder) == before
    assert json.loads((folder / "unfinished-run" / "claims.json").read_text())[0]["cells"]["vae"]["effect"] == 9
    (row,) = (r for r in claims.ledger([folder]) if r["claim"] == "001.vulnerable")
    assert [c["effect"] for c in row["cells"]] == [4.0]


def test_a_later_run_takes_the_place_of_what_the_one_before_made_and_of_nothing_else(notebook):
    changed(notebook, '(run.folder / "a").mkdir(); (run.folder / "a" / "old").touch(); (run.folder / "b").touch()')
    folder = runs.run(notebook)
    assert {"a/old", "b", "claims.json", "run.json", "tiny.ipynb"} == {*kept(folder)}
    for name in ("mine", "a/mine"):
        (folder / name).write_text("the user's own")
    changed(notebook, '(run.folder / "a").mkdir(); (run.folder / "a" / "new").touch()')
    runs.run(notebook)
    assert {"a/new", "a/mine", "mine", "claims.json", "run.json", "tiny.ipynb"} == {*kept(folder)}
    assert not (folder / "unfinished-run").exists()
    book = nbformat.read(notebook, as_version=4)
    book.cells = [cell for cell in book.cells if cell.id != "record"]
    nbformat.write(book, notebook)
    changed(notebook, "")
    runs.run(notebook)  # records nothing: the claims of the run before are not its own
    assert json.loads((folder / "claims.json").read_text()) == []


@pytest.mark.parametrize("stop", range(4))
def test_a_run_stopped_while_it_moves_in_is_not_lost(notebook, monkeypatch, stop):
    folder = runs.run(notebook)
    changed(notebook, '(run.folder / "made").write_text("new")')
    moves = []

    def interrupted(source, target, done):
        if len(moves) == stop:
            raise KeyboardInterrupt
        moves.append(target)
        return done(source, target)

    with monkeypatch.context() as m:
        for name in ("move", "copy"):
            m.setattr(runs.shutil, name, partial(interrupted, done=getattr(runs.shutil, name)))
        with pytest.raises(KeyboardInterrupt):
            runs.run(notebook)
    assert not runs.finished(notebook, folder, {}) and len(moves) == stop
    with monkeypatch.context() as m:
        m.setattr(runs.papermill, "execute_notebook", None)  # nothing is executed again
        runs.run(notebook)
    assert runs.finished(notebook, folder, {}) and (folder / "made").read_text() == "new"
    assert {"made", "claims.json", "run.json", "tiny.ipynb"} == {*kept(folder)}


def test_what_is_in_the_way_of_the_results_is_named_and_they_wait(notebook):
    changed(notebook, '(run.folder / "data").mkdir(); (run.folder / "data" / "x").touch()')
    folder = files.runs_folder() / "tiny"
    folder.mkdir(parents=True)
    (folder / "data").touch()
    with pytest.raises(FileExistsError, match=r"folder: .*/data is in the way"):
        runs.run(notebook)
    (folder / "data").rename(folder / "mine")
    assert (runs.run(notebook) / "data" / "x").is_file()


def test_the_notebook_of_an_unfinished_run_is_not_run_where_it_is(notebook, capsys):
    with pytest.raises(runs.RunFailed):
        runs.run(notebook, {"seed": -1})
    left = files.runs_folder() / "tiny_seed=-1" / "unfinished-run" / "tiny.part.ipynb"
    assert main(["run", str(left), "-o", str(left.parents[1])]) == 1
    assert "the notebook itself is in" in capsys.readouterr().err and left.is_file()


def test_the_command_says_where_things_are_and_what_was_found(notebook, capsys):
    assert main(["run", str(notebook), "-p", "profile", "paper"]) == 0
    said = capsys.readouterr().out
    folder = files.runs_folder() / "tiny_profile=paper"
    assert str(folder / "tiny.ipynb") in said and str(folder / "claims.json") in said
    assert "001.vulnerable" in said and "1 [0.5, 1.5]" in said
    assert main(["claims"]) == 0
    shown, unmeasured = capsys.readouterr().out, [r for r in claims.ledger() if r["verdict"] == claims.NOT_MEASURED]
    assert shown.count("not measured") == len(unmeasured) < 51  # the evidence kept in figures/ is shown, too
    (row,) = (r for r in claims.ledger() if r["claim"] == "001.vulnerable")
    assert any(c["notebook"] == "tiny" and c["effect"] == 1 for c in row["cells"])


def test_the_notebooks_own_folder_is_no_place_for_results(notebook, capsys):
    source = notebook.read_bytes()
    assert main(["run", str(notebook), "-o", str(notebook.parent)]) == 1
    assert "the notebook itself is in" in capsys.readouterr().err
    assert notebook.read_bytes() == source


def test_what_is_no_notebook_is_told(tmp_path, capsys):
    (tmp_path / "x.ipynb").write_text('{"cells": 3}')
    assert main(["run", str(tmp_path / "x.ipynb")]) == 1
    assert "can't be read as one" in capsys.readouterr().err


def test_a_finished_run_can_be_left_as_it_is(notebook):
    folder = runs.run(notebook, {"beta": 4})
    before = (folder / "tiny.ipynb").stat().st_mtime_ns
    assert runs.run(notebook, {"beta": 4}, again=False) == folder
    assert (folder / "tiny.ipynb").stat().st_mtime_ns == before
    runs.run(notebook, {"beta": 4})
    assert (folder / "tiny.ipynb").stat().st_mtime_ns > before


def test_named_folders_are_the_same_in_the_kernel(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VAENB_CACHE", "models")
    monkeypatch.setenv("VAENB_DATA", "~/sets")
    monkeypatch.delenv("VAENB_RUNS", raising=False)
    assert runs.named_folders() == {"VAENB_CACHE": str(tmp_path / "models"), "VAENB_DATA": str(Path.home() / "sets")}


def test_a_missing_notebook_is_named(capsys):
    assert main(["run", "nowhere.ipynb"]) == 1
    assert "notebook: nowhere.ipynb does not exist" in capsys.readouterr().err


def test_publishing_writes_a_clean_executed_notebook(notebook):
    publish.publish(notebook)
    published = nbformat.read(notebook, as_version=4)
    code = [cell for cell in published.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == [1, 2, 3] and code[1].outputs[0].text == "1.0\n"
    assert [cell.id for cell in published.cells] == ["title", "parameters", "record", "check"]
    assert "papermill" not in nbformat.writes(published)
    first = notebook.read_bytes()
    publish.publish(notebook)
    assert notebook.read_bytes() == first
