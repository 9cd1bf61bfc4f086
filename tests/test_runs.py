"""`vaenb run`: parameters are checked, results land in their folder, and a failure is told with its cell."""

import gc
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import nbformat
import numpy as np
import pytest
from filelock import FileLock

from tests import tiny
from vaenb import claims, files, plots, spent
from vaenb.__main__ import main
from vaenb.runs import RunFailed, kernel, publish
from vaenb.runs import run as runs
from vaenb.runs.parameters import checked

CHECK = "if seed < 0:\n    raise ValueError('a negative seed')"


@pytest.fixture
def notebook(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("VAENB_RUNS", str(tmp_path / "runs"))
    monkeypatch.setattr(plots, "chrome", lambda: None)
    return tiny.write(tmp_path / "tiny.ipynb", tiny.RECORDS, CHECK)


def recorded(folder: Path) -> dict:
    (row,) = claims.measured(claims.read(folder))
    return row


def test_a_run_has_its_folder_with_notebook_evidence_and_settings(notebook):
    records = """
from vaenb import claims, spent
settings = claims.parameters(globals())
data = {"fashion_mnist to mnist": "0" * 12}
run = claims.start_run("tiny", settings, data=data, seeds=[seed], folder=folder)
errors = {"noisy MSE": [[beta, beta]], "walk MSE": [[0, 0]]}  # one training run, two images
run.record("002b.transition", "the walk, t = 20", errors)
spent.read_back(90)  # after the last record
print(f"{beta!r}")
"""
    tiny.write(notebook, records)
    folder = runs.run(notebook, {"beta": 4})
    assert folder == tiny.folder(notebook, beta=4.0)
    executed = nbformat.read(folder / "tiny.ipynb", as_version=4)
    assert executed.cells[-1].outputs[0].text == "4.0\n"  # the annotation makes a float of 4
    assert "folder" not in executed.cells[2].source  # the results have left the one that was injected
    assert recorded(folder)["effect"] == 4.0
    about = json.loads((folder / "run.json").read_text())
    assert about["settings"] == {"profile": "quick", "beta": 4.0, "seed": 0} and about["parameters"] == {"beta": 4.0}
    assert about["seconds"] > 0 and about["seconds_read_back"] == 90
    assert not (folder / spent.FILE).exists() and spent.FILE not in about["files"]


def test_an_unknown_parameter_is_refused_before_anything_runs(notebook):
    for given, message in (
        ({"betta": 4}, "parameter 'betta': tiny.ipynb has profile, beta, seed"),
        ({"beta": "four"}, "parameter 'beta': float expected, got 'four'"),
        ({"folder": "x"}, "parameter 'folder': the run itself says where"),
        ({"profile": "huge"}, "parameter 'profile': quick or paper expected, got 'huge'"),
    ):
        with pytest.raises(ValueError, match=message):
            runs.run(notebook, given)
    assert not files.runs_folder().exists()


def test_a_failing_cell_is_told_and_the_notebook_kept(notebook, capsys):
    assert main(["run", str(notebook), "-p", "seed", "-1"]) == 1
    said = capsys.readouterr().err
    assert "cell 4 of" in said and "ValueError: a negative seed" in said
    folder = tiny.folder(notebook, seed=-1)
    left = folder / "unfinished-run" / "tiny.part.ipynb"
    assert str(left) in said and left.exists() and not (folder / "tiny.ipynb").exists()
    assert main(["run", str(left), "-o", str(folder)]) == 1  # it is not run where it is
    assert "the notebook itself is in" in capsys.readouterr().err and left.is_file()


def kept(folder: Path) -> dict[str, bytes]:
    """The files of a run's folder, without those of an unfinished run."""
    paths = [p for p in folder.rglob("*") if p.is_file() and "unfinished-run" not in p.parts and p.name != ".lock"]
    return {str(p.relative_to(folder)): p.read_bytes() for p in paths}


def test_a_run_that_fails_leaves_the_finished_one_before_it_and_does_not_count(notebook):
    folder = runs.run(notebook, {"beta": 4})
    before = kept(folder)
    tiny.write(notebook, tiny.RECORDS.replace("beta, np", "4.5, np"), "1 / 0")
    with pytest.raises(RunFailed, match=r"unfinished-run/tiny\.part\.ipynb\nZeroDivisionError"):
        runs.run(notebook, {"beta": 4})
    assert kept(folder) == before
    assert recorded(folder / "unfinished-run")["effect"] == 4.5
    (finding,) = claims.judged(claims.find(tiny.CLAIM), claims.found([folder]))
    assert finding.cells[tiny.CELL].effect == 4.0


def test_a_later_run_takes_the_place_of_what_the_one_before_made_and_of_nothing_else(notebook):
    tiny.write(notebook, tiny.RECORDS, '(folder / "a").mkdir(); (folder / "a/old").touch(); (folder / "b").touch()')
    folder = runs.run(notebook)
    assert {"a/old", "b", "evidence.json", "evidence.npz", "run.json", "tiny.ipynb"} == {*kept(folder)}
    for name in ("mine", "a/mine"):
        (folder / name).write_text("the user's own")
    tiny.write(notebook, 'import pathlib; at = pathlib.Path(folder) / "a"; at.mkdir(); (at / "new").touch()')
    runs.run(notebook)  # records nothing: the evidence of the run before is not its own
    assert {"a/new", "a/mine", "mine", "run.json", "tiny.ipynb"} == {*kept(folder)}
    assert not (folder / "unfinished-run").exists()


@pytest.mark.parametrize("stop", range(4))
def test_a_run_stopped_while_it_moves_in_is_not_lost(tmp_path, monkeypatch, stop):
    notebook, folder = tiny.write(tmp_path / "tiny.ipynb"), tmp_path / "run"
    made = {"made": "new", "evidence.json": "{}", "run.json": "", "tiny.ipynb": notebook.read_text()}
    made["run.json"] = json.dumps({"parameters": {}, "files": sorted(made)})
    for place, content in ((folder, "old"), (folder / "unfinished-run", "new")):
        place.mkdir()
        for name, text in (made | {"made": content}).items():
            (place / name).write_text(text)
    monkeypatch.setattr(runs.papermill, "execute_notebook", None)  # nothing is executed again
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
            runs.run(notebook, folder=folder)
    assert not runs.finished(notebook, folder, {}) and len(moves) == stop
    runs.run(notebook, folder=folder)
    assert runs.finished(notebook, folder, {}) and (folder / "made").read_text() == "new"
    assert {*made} == {*kept(folder)}


def test_what_is_in_the_way_of_the_results_is_named_and_they_wait(notebook):
    tiny.write(notebook, tiny.RECORDS, '(folder / "data").mkdir(); (folder / "data" / "x").touch()')
    folder = tiny.folder(notebook)
    folder.mkdir(parents=True)
    (folder / "data").touch()
    with pytest.raises(FileExistsError, match=r"folder: .*/data is in the way"):
        runs.run(notebook)
    (folder / "data").rename(folder / "mine")
    assert (runs.run(notebook) / "data" / "x").is_file()


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # nbclient leaves a thread's event loop open
def test_two_runs_in_one_process_go_in_parallel_each_with_its_own_environment(notebook, tmp_path):
    """Each waits for the other, so that one after the other would not end."""
    meets = """
import os, pathlib, time
pathlib.Path(folder, "name").write_text(os.environ["NAME"])
pathlib.Path(f"here-{os.environ['NAME']}").touch()  # in the notebook's folder, which is the kernel's
while len(list(pathlib.Path().glob("here-*"))) < 2:
    time.sleep(0.05)
"""
    tiny.write(notebook, meets)
    before = Path.cwd(), dict(os.environ)

    def run(name: str) -> str:
        folder = runs.run(notebook, folder=tmp_path / name, environment={"NAME": name}, progress=False)
        return (folder / "name").read_text()

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(run, ["a", "b"])) == ["a", "b"]
    assert (Path.cwd(), dict(os.environ)) == before
    gc.collect()


def test_a_notebook_without_a_folder_runs_and_puts_its_results_where_it_likes(notebook):
    tiny.write(notebook, "import os\nprint(os.getcwd())", parameters="beta: float = 1.0  # weight")
    folder = runs.run(notebook, {"beta": 2})
    assert {*kept(folder)} == {"run.json", "tiny.ipynb"}
    about = json.loads((folder / "run.json").read_text())
    assert about["notebook"] == "tiny" and about["parameters"] == {"beta": 2.0} and "settings" not in about
    executed = nbformat.read(folder / "tiny.ipynb", as_version=4)
    assert executed.cells[-1].outputs[0].text == f"{notebook.parent}\n"


def test_the_command_says_where_things_are_and_what_was_found(notebook, capsys):
    assert main(["run", str(notebook), "-p", "profile", "paper"]) == 0
    said = capsys.readouterr().out
    folder = tiny.folder(notebook, profile="paper")
    assert str(folder / "tiny.ipynb") in said and f"{folder / 'evidence.npz'}: 1 cells, 1 gates" in said
    assert tiny.CLAIM in said and tiny.CELL in said and "1.00 [" in said
    assert main(["verify", tiny.CLAIM, "-o", str(folder)]) == 0  # the ledger has figures/, too
    said = capsys.readouterr().out
    assert "1.00 [" in said and "reproduced" in said and "1 of 1" in said


@pytest.fixture
def published(notebook, tmp_path, monkeypatch) -> Path:
    """The list of verdicts that a project keeps, made of one run in the paper profile."""
    monkeypatch.setattr(files, "project_folder", lambda: tmp_path)
    figures = tmp_path / "figures"
    runs.run(notebook, {"profile": "paper"}, folder=figures / "tiny", progress=False)
    path = figures / "claims.json"
    files.write_json(path, [finding.to_json() for finding in claims.ledger(claims.found([figures]))])
    return path


def test_verify_refuses_a_folder_without_evidence(tmp_path, capsys):
    assert main(["verify", tiny.CLAIM, "-o", str(tmp_path)]) == 1
    assert f"{tmp_path} holds no evidence.npz" in capsys.readouterr().err


def test_verify_shows_every_step_and_agrees_with_the_published_verdict(published, capsys):
    assert main(["verify", tiny.CLAIM]) == 0
    said = capsys.readouterr().out
    for step in ("greater than 0", "MSE: reproduced", "converged gate passed", tiny.CELL, "3 training runs, 7 images"):
        assert step in said
    assert f"agrees with {published}" in said
    assert said.endswith(f"\nledger {claims.digest(claims.found([published.parent]))}\n")
    assert main(["verify", "004.mean"]) == 0  # without evidence, and so it is listed
    assert "not measured" in capsys.readouterr().out


@pytest.mark.parametrize("change", [{"verdict": "contradicted"}, {"pooled": None}, {"pooled": {"effect": 1.1}}])
def test_verify_fails_where_the_published_list_says_something_else(published, capsys, change):
    listed = json.loads(published.read_text())
    (row,) = (row for row in listed if row["claim"] == tiny.CLAIM)
    old = row["pooled"]
    row |= change
    if row["pooled"]:
        row["pooled"] = old | row["pooled"]
    published.write_text(json.dumps(listed))
    assert main(["verify", tiny.CLAIM]) == 1
    assert f"DISAGREES with {published}" in capsys.readouterr().out


def test_verify_reads_the_folder_it_is_given(published, notebook, tmp_path, capsys):
    folder = runs.run(notebook, {"profile": "paper", "beta": 3}, folder=tmp_path / "other", progress=False)
    assert main(["verify", tiny.CLAIM, "-o", str(folder)]) == 0
    said = capsys.readouterr().out
    assert "3.00 [" in said and "agrees" not in said  # the list is of what lies in figures/


def test_a_ledgers_name_changes_with_its_evidence_alone(published, notebook, tmp_path):
    figures = published.parent
    name = claims.digest(claims.found([figures]))
    assert re.fullmatch("[0-9a-f]{12}", name)
    shutil.copytree(figures, tmp_path / "moved")
    assert claims.digest(claims.found([tmp_path / "moved"])) == name
    runs.run(notebook, {"profile": "paper", "beta": 3}, folder=figures / "more", progress=False)
    assert claims.digest(claims.found([figures])) != name != claims.digest([])


def test_a_run_that_recorded_nothing_leaves_the_ledgers_name(published):
    figures = published.parent
    before = claims.found([figures])
    claims.start_run("00_start_here", {}, data={"mnist": "d1"}, seeds=(0,), folder=figures / "empty")
    after = claims.found([figures])
    assert len(after) == len(before) + 1 and claims.digest(after) == claims.digest(before)


def test_verify_names_claims_and_folders_that_are_not_there(published, tmp_path, capsys):
    assert main(["verify", "002b.transitoin"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("vaenb: claim '002b.transitoin' is not in claims.csv; close to it: 002b.transition")
    assert main(["verify", tiny.CLAIM, "-o", str(tmp_path / "nowhere")]) == 1
    assert "nowhere" in capsys.readouterr().err
    published.write_text("{")
    assert main(["verify", tiny.CLAIM]) == 1
    assert "claims.json is damaged" in capsys.readouterr().err


def test_verify_warns_of_arrays_that_were_altered_and_leaves_them_out(published, notebook, capsys):
    path = published.parent / "tiny" / "evidence.npz"
    with np.load(path) as held:
        arrays = {key: held[key] + (0 if key.startswith("list-") else 1) for key in held.files}
    np.savez(path, **arrays)
    with pytest.warns(UserWarning, match=r"evidence.npz is damaged .*was altered.*; it is skipped"):
        assert main(["verify", tiny.CLAIM]) == 1
    assert "not measured" in capsys.readouterr().out


def test_the_notebooks_own_folder_is_no_place_for_results(notebook, capsys):
    source = notebook.read_bytes()
    assert main(["run", str(notebook), "-o", str(notebook.parent)]) == 1
    assert "the notebook itself is in" in capsys.readouterr().err
    assert notebook.read_bytes() == source


def test_what_is_no_notebook_is_told(tmp_path, capsys):
    (tmp_path / "x.ipynb").write_text('{"cells": 3}')
    assert main(["run", str(tmp_path / "x.ipynb")]) == 1
    assert "can't be read as one" in capsys.readouterr().err
    assert main(["run", "nowhere.ipynb"]) == 1
    assert "notebook: nowhere.ipynb does not exist" in capsys.readouterr().err


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
    assert kernel.named_folders() == {"VAENB_CACHE": str(tmp_path / "models"), "VAENB_DATA": str(Path.home() / "sets")}


def test_home_is_found_in_every_path(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("VAENB_RUNS", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, "~/here")
    assert files.runs_folder() == tmp_path / "here" and files.cache_folder("x") == tmp_path / "here" / "vaenb" / "x"
    book = tiny.write(tmp_path / "tiny.ipynb", parameters='dataset: str = "digits"')
    assert checked(book, {"dataset": "~/mine.npz"}) == {"dataset": str(tmp_path / "mine.npz")}
    assert runs.run("~/tiny.ipynb", folder="~/there", progress=False) == tmp_path / "there"
    assert main(["run", "~no_such_user/x.ipynb"]) == 1
    assert "vaenb: ~no_such_user/x.ipynb: " in capsys.readouterr().err


def test_a_path_from_the_callers_folder_is_made_absolute_and_a_name_stays(notebook, tmp_path, monkeypatch):
    here = tmp_path / "elsewhere"
    for folder in ("mydata", "photos", "quick", "digits"):
        (here / folder).mkdir(parents=True)
    (here / "mydata" / "mine.npz").touch()
    monkeypatch.chdir(here)
    tiny.write(
        notebook,
        parameters=tiny.PARAMETERS
        + 'dataset: str = "digits"\nothers: list = []\noutside: list = ["fashion_small", "sprites"]',
    )
    for given, expected in (
        ({"dataset": "mydata/mine.npz"}, {"dataset": f"{here}/mydata/mine.npz"}),
        ({"others": ["photos", "digits"]}, {"others": [f"{here}/photos", "digits"]}),
        ({"outside": ["photos"]}, {"outside": [f"{here}/photos"]}),
        ({"dataset": "theirs/mine.npz"}, {"dataset": "theirs/mine.npz"}),  # from the notebook's folder, perhaps
        ({"profile": "quick", "dataset": "x" * 300}, {"profile": "quick", "dataset": "x" * 300}),
    ):
        assert checked(notebook, given) == expected


def test_numbers_of_numpy_and_paths_are_plain_parameters(notebook, tmp_path):
    tiny.write(notebook, parameters=tiny.PARAMETERS + 'dataset: str = "digits"\nbetas: list = []')
    given = {"seed": np.int64(3), "beta": np.float32(0.5), "betas": np.arange(2), "dataset": tmp_path / "a.npz"}
    typed = checked(notebook, given)
    assert typed == {"seed": 3, "beta": 0.5, "betas": [0, 1], "dataset": f"{tmp_path}/a.npz"}
    assert [type(value) for value in typed.values()] == [int, float, list, str]
    with pytest.raises(ValueError, match="parameter 'betas': a finite number, a text or a list expected"):
        checked(notebook, {"betas": [object()]})


def test_braces_in_paths_are_only_braces(tmp_path):
    (tmp_path / "{beta}").mkdir()
    notebook = tiny.write(tmp_path / "{beta}" / "t{}.ipynb", tiny.RECORDS)
    folder = runs.run(notebook, {"beta": 2}, folder=tmp_path / "{x}", progress=False)
    assert folder == tmp_path / "{x}" and (folder / "t{}.ipynb").is_file() and recorded(folder)["effect"] == 2


def test_notebooks_of_one_name_in_two_folders_have_two_folders(notebook, tmp_path):
    (tmp_path / "other").mkdir()
    other = tiny.write(tmp_path / "other" / "tiny.ipynb")
    ours = files.project_folder() / "notebooks" / "00_start_here.ipynb"
    assert tiny.folder(notebook, beta=1) != tiny.folder(other, beta=1)
    assert tiny.folder(ours, beta=1.0).name == "00_start_here_beta=1.0"


def test_a_second_run_says_that_it_waits_for_the_first(notebook, capsys):
    tiny.write(notebook)
    folder = tiny.folder(notebook)
    folder.mkdir(parents=True)
    held = threading.Event()

    def hold() -> None:
        with FileLock(folder / ".lock"):
            held.set()
            time.sleep(3)

    threading.Thread(target=hold).start()
    held.wait()
    runs.run(notebook, progress=False)
    assert f"{folder}: another run is at work here; this one waits" in capsys.readouterr().err


NUMBERS = {"-1e-3": -0.001, "-2": -2.0, "-1.": -1.0, "-.5": -0.5, "-5E2": -500.0, "+.5": 0.5, " 3": 3.0}


@pytest.mark.parametrize("text", NUMBERS)
def test_numbers_are_read_in_every_notation(notebook, monkeypatch, text):
    given = []
    monkeypatch.setattr(runs, "run", lambda notebook, parameters, folder: given.append(parameters) or notebook.parent)
    assert main(["run", str(notebook), "-p", "beta", text, "-p", "folder", "001"]) == 0
    assert given == [{"beta": NUMBERS[text], "folder": "001"}]


TYPES = 'flag: bool = False\nname: str = ""\nnumbers: list = []\nfree = 0'


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("flag", "True", True),
        ("flag", "False", False),
        ("flag", "true", True),
        ("name", "2024", "2024"),
        ("name", "True", "True"),
        ("name", "-x", "-x"),
        ("name", "-photos", "-photos"),
        ("numbers", "[1, 4]", [1, 4]),
        ("free", "2024", 2024),
    ],
)
def test_a_value_is_read_as_the_notebooks_annotation_says(notebook, monkeypatch, name, text, value):
    given = []
    monkeypatch.setattr(runs, "run", lambda notebook, parameters, folder: given.append(parameters) or notebook.parent)
    tiny.write(notebook, parameters=TYPES)
    assert main(["run", "-p", name, text, str(notebook)]) == 0
    assert given == [{name: value}]


def test_what_a_bool_is_is_told(notebook):
    tiny.write(notebook, parameters=TYPES)
    with pytest.raises(ValueError, match=r"'flag': bool \(true or false\) expected, got 'yes'"):
        checked(notebook, {"flag": "yes"})


def test_folders_that_can_not_be_used_are_told_with_the_remedy(notebook, tmp_path, capsys):
    for folder in (notebook, notebook / "x"):
        assert main(["run", str(notebook), "-o", str(folder)]) == 1
        said = capsys.readouterr().err
        assert f"vaenb: folder: {folder} can't take results (" in said and "give another one (-o)" in said
    assert main(["collect", str(tmp_path / "nothere")]) == 1
    assert f"vaenb: folder: {tmp_path / 'nothere'} has no run.json" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["-p", "beta", "1", "-p", "beta", "4"], "parameter 'beta': it is given twice"),
        (["-p", "beta", "NaN"], "parameter 'beta': a finite number"),
        (["-p", "beta", "-inf"], "parameter 'beta': a finite number"),
        (["-p", "beta", "-Infinity"], "parameter 'beta': a finite number"),
        (["-p", "beta", "-1,2"], "parameter 'beta': float expected, got '-1,2'"),
        (["-p", "beta", "-p", "seed", "1"], "expected 2 arguments"),
        (["-p", "beta", "9" * 5000], "parameter 'beta': float expected"),
        (["-p", "beta", "[" * 10**5], "parameter 'beta': float expected"),
        (["-p", "beta", "1" + "0" * 400], "parameter 'beta': float expected"),
        (["-p", "profile", "\udcff"], "parameter 'profile': "),
        (["-p", "", "1"], "parameter '': tiny.ipynb has"),
        (["-o", ""], "a path expected, got ''"),
    ],
)
def test_odd_values_are_refused_before_anything_runs(notebook, capsys, arguments, said):
    try:
        status = main(["run", str(notebook), *arguments])
    except SystemExit as ended:  # argparse's way
        status = ended.code
    assert status in (1, 2) and said in capsys.readouterr().err
    assert not files.runs_folder().exists()


def test_an_ascii_terminal_and_a_reader_that_ends_are_no_errors():
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-m", "vaenb", "claims"]
    done = subprocess.run(command, env=environment, check=True, capture_output=True)
    assert b"| 002b.transition " in done.stdout and b"| ? " in done.stdout and not done.stderr  # the dash of no number
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.stderr.read() == b"" and process.wait() == 141


@pytest.mark.parametrize(
    "text", ["", "[1]", '{"parameters": {}, "files": 3}', '{"parameters": {}, "files": ["../x"]}', "\0"]
)
def test_a_damaged_run_json_is_no_run_and_in_nobodys_way(notebook, text):
    tiny.write(notebook)
    folder = tiny.folder(notebook)
    for place in (folder, folder / claims.UNFINISHED):
        place.mkdir(parents=True)
        (place / "run.json").write_text(text)
        (place / notebook.name).write_bytes(notebook.read_bytes())
    runs.run(notebook, progress=False)
    assert json.loads((folder / "run.json").read_text())["parameters"] == {}


def test_publishing_writes_a_clean_executed_notebook(notebook):
    tiny.write(notebook, tiny.RECORDS, "print(beta)")
    publish.publish(notebook)
    published = nbformat.read(notebook, as_version=4)
    code = [cell for cell in published.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == [1, 2, 3] and code[2].outputs[0].text == "1.0\n"
    assert [cell.id for cell in published.cells] == ["title", "parameters", "cell-1", "cell-2"]
    assert "papermill" not in nbformat.writes(published)
    first = notebook.read_bytes()
    publish.publish(notebook)
    assert notebook.read_bytes() == first


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"]])
def test_help_answers_before_anything_heavy_is_imported(arguments):
    """Each import of it costs seconds the first time."""
    code = f"""
import sys
from vaenb.__main__ import main
try:
    main({arguments})
except SystemExit:
    print("heavy:", {{"torch", "numpy", "plotly", "papermill"}} & set(sys.modules))
"""
    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert "usage: vaenb" in said and said.endswith("heavy: set()\n")


def test_a_kernel_has_the_allocators_settings_unless_the_user_has_others(monkeypatch):
    monkeypatch.delenv("MALLOC_TRIM_THRESHOLD_", raising=False)
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.check=0")
    said = kernel.allocator()
    assert int(said["MALLOC_TRIM_THRESHOLD_"]) > 2**30 and said["GLIBC_TUNABLES"] == "glibc.malloc.check=0"


def test_another_notebooks_results_are_not_deleted(notebook, tmp_path):
    folder = runs.run(notebook, folder=tmp_path / "out")
    other = tiny.write(tmp_path / "other.ipynb")
    with pytest.raises(ValueError, match=f"holds a run of {notebook.stem}; give another one"):
        runs.run(other, folder=folder)
    assert (folder / notebook.name).is_file()


@pytest.mark.skipif(not Path("/sys/kernel").is_dir(), reason="a folder that even its owner can't write to")
def test_a_folder_that_takes_no_file_is_told_at_once():
    with pytest.raises(OSError, match="/sys/kernel can't take results"):
        files.make_folder(Path("/sys/kernel"))
