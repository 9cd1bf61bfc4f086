"""`vaenb sweep`: on a real Dask scheduler, with workers that die, runs that fail, and sweeps that are interrupted."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import IO

import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import tiny
from vaenb import claims, files
from vaenb.__main__ import main
from vaenb.runs import run as runs
from vaenb.runs import sweep as sweeps

# A worker's threads and sockets are closed by the system when the cluster ends.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")

WRITES = """
import os, pathlib, time
pathlib.Path(folder, "pid").write_text(str(os.getpid()))
pathlib.Path(folder, "threads").write_text(os.environ.get("OMP_NUM_THREADS", ""))
if beta == 2:
    raise ValueError("a beta of two")
time.sleep(wait)
"""


@pytest.fixture
def notebook(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("VAENB_RUNS", str(tmp_path / "runs"))
    parameters = tiny.PARAMETERS + "wait: float = 0.0  # seconds"
    return tiny.write(tmp_path / "tiny.ipynb", WRITES + tiny.RECORDS, parameters=parameters)


@pytest.fixture
def cluster(tmp_path):
    """A scheduler, a process of its own, over TCP; gives its address, and what starts a one-threaded worker."""
    dask = [sys.executable, "-m", "dask"]
    file = tmp_path / "scheduler.json"
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": tmp_path}
    listen = ["--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(file)]
    started = [subprocess.Popen([*dask, "scheduler", *listen], **quiet)]
    wait_for(file.is_file)

    def worker(**environment: str) -> subprocess.Popen:
        command = ["worker", "--scheduler-file", str(file), "--nthreads", "1", "--no-nanny", "--no-dashboard"]
        started.append(subprocess.Popen([*dask, *command], **quiet, env=os.environ | environment))
        return started[-1]

    yield json.loads(file.read_text())["address"], worker
    for process in started:
        process.kill()
        process.wait()


def wait_for(happened, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end, f"{happened} did not happen within {seconds} s"
        time.sleep(0.1)


def read(table: Path) -> list[dict]:
    with table.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_sweep_collects_one_table_and_a_failed_run_stops_no_other(notebook, capsys):
    command = ["sweep", str(notebook), "-p", "beta", "1", "2", "3", "--profile", "paper", "--workers", "2"]
    assert main(command) == 1
    said = capsys.readouterr()
    assert "ValueError: a beta of two" in said.err
    table = Path(f"{tiny.folder(notebook, beta=[1, 2, 3], profile=['paper'])}.csv")
    assert str(table) in said.out
    rows = read(table)
    assert [(r["beta"], r["status"]) for r in rows] == [("1.0", "finished"), ("2.0", "failed"), ("3.0", "finished")]
    assert [r["effect"] for r in rows] == ["1.0", "", "3.0"] and "a beta of two" in rows[1]["error"]
    found = [rows[0][column] for column in ("claim", "data", "cell", "role", "measure", "n", "seeds")]
    assert found == [tiny.CLAIM, "fashion_mnist to mnist", tiny.CELL, "primary", "MSE", "7", "100 101 102"]
    assert float(rows[0]["low"]) < 1 < float(rows[0]["high"])
    folder = Path(rows[0]["folder"])
    about = json.loads((folder / "run.json").read_text())
    assert about["parameters"] == {"beta": 1.0, "profile": "paper"}
    assert (folder / "threads").read_text() == "1"  # so that a number does not depend on how many workers there are


def test_the_table_reads_a_finished_run_once(notebook, tmp_path, monkeypatch):
    jobs, table, found, asked = sweeps.grid(notebook, {"beta": [1, 3]}), tmp_path / "t.csv", {}, []
    monkeypatch.setattr(sweeps.runs, "finished", lambda *job: asked.append(job[1]) or job[1] == jobs[0].folder)
    for _ in range(2):
        sweeps.write_table(table, jobs, {}, found)
        assert [row["status"] for row in read(table)] == ["finished", "waiting"]
    assert asked == [jobs[0].folder, jobs[1].folder, jobs[1].folder]


def test_the_table_has_the_same_columns_whatever_became_of_a_run(notebook, tmp_path):
    jobs, table = sweeps.grid(notebook, {"beta": [1, 3, 5]}), tmp_path / "t.csv"
    runs.run(notebook, jobs[0].parameters, progress=False)
    sweeps.write_table(table, jobs, {jobs[1]: "a beta\nof three"})
    done, failed, waiting = read(table)
    columns = ["beta", "status", "claim", "data", "cell", "role", "measure", "effect", "low", "high", "n", "seeds"]
    assert list(done) == list(failed) == list(waiting) == [*columns, "error", "folder"]
    assert (done["claim"], done["effect"], done["error"]) == (tiny.CLAIM, "1.0", "")
    assert (failed["status"], failed["claim"], failed["error"]) == ("failed", "", "a beta of three")
    assert (waiting["status"], waiting["claim"]) == ("waiting", "")


def test_damaged_evidence_is_told_and_the_run_stays_in_the_table(notebook, tmp_path):
    (job,) = sweeps.grid(notebook, {"beta": [1]})
    runs.run(notebook, job.parameters, progress=False)
    (job.folder / "evidence.npz").write_text("{")
    with pytest.warns(UserWarning, match=r"evidence.npz is damaged .*; it is skipped"):
        sweeps.write_table(tmp_path / "t.csv", [job], {})
    (row,) = read(tmp_path / "t.csv")
    assert (row["status"], row["claim"]) == ("finished", "")


@pytest.mark.parametrize("fails", [(2, 3), (3, 4)])  # which writings; the fourth is after the runs
def test_a_table_that_can_not_be_written_stops_no_run(notebook, monkeypatch, fails):
    write, calls = sweeps.write_table, []

    def full(path, jobs, errors, *found):
        calls.append(path)
        if len(calls) in fails:
            raise OSError(28, "can't write the table", str(path))
        write(path, jobs, errors, *found)

    monkeypatch.setattr(sweeps, "write_table", full)
    values = {"beta": [1.0, 3.0]}
    if 4 in fails:
        with pytest.raises(OSError, match="can't write the table"):
            sweeps.sweep(notebook, values, workers=1)
    else:
        table, errors = sweeps.sweep(notebook, values, workers=1)
        assert not errors and [r["status"] for r in read(table)] == ["finished", "finished"]
    assert all(job.finished for job in sweeps.grid(notebook, values))


def test_the_bar_tells_how_far_a_run_has_come(notebook, monkeypatch):
    (job,) = sweeps.grid(notebook, {"wait": [1.0]})
    before = job.folder / claims.UNFINISHED / "tiny.part.ipynb"  # of a run that was stopped, and waits
    before.parent.mkdir(parents=True)
    before.write_text('{"cells": [{"metadata": {"papermill": {"status": "completed"}}}]}')
    os.utime(before, (0, 0))
    with sweeps.shown([job], every=0.05) as bar:
        time.sleep(0.2)
        assert (bar.n, bar.total, bar.postfix) == (0, 1, None)
        told = set()
        monkeypatch.setattr(bar, "set_postfix_str", told.add)
        runs.run(notebook, job.parameters, progress=False)
    assert job.finished and "tiny 3 of 4 cells" in told


def test_what_is_finished_is_not_run_again_unless_the_notebook_has_changed(notebook):
    (job,) = sweeps.grid(notebook, {"beta": [1]})
    assert not job.finished and dict(sweeps.execute([job], workers=1)) == {job: None} and job.finished
    pid = (job.folder / "pid").read_text()
    assert list(sweeps.execute(sweeps.grid(notebook, {"beta": [1]}))) == []
    assert (job.folder / "pid").read_text() == pid
    notebook.write_text(notebook.read_text().replace("import os, pathlib", "import pathlib, os"))
    assert not job.finished
    (job.folder / "tiny.ipynb").write_text("{")  # a file cut short is not a run
    assert not job.finished


def test_data_that_have_changed_behind_their_path_or_name_are_run_on_again(notebook, tmp_path, monkeypatch):
    monkeypatch.setenv("VAENB_DATA", str(tmp_path / "sets"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sets").mkdir()
    photos = tmp_path / "photos"
    photos.mkdir()
    data = {"mine.npz": tmp_path / "mine.npz", "photos": photos / "a.png", "kept": tmp_path / "sets/kept_test.npz"}
    parameters = tiny.PARAMETERS + 'dataset: str = "digits"\nothers: list = ["kept"]'
    tiny.write(notebook, "pass", parameters=parameters)
    for name, path in data.items():
        path.write_text("old")
        (job,) = sweeps.grid(notebook, {"dataset": [name]})
        runs.run(notebook, job.parameters, progress=False)
        assert job.finished
        for text, same in (("new", False), ("old", True)):
            path.write_text(text)
            assert job.finished == same
        path.unlink()
        assert not job.finished
    (job,) = sweeps.grid(notebook, {"seed": [1]})
    runs.run(notebook, job.parameters, progress=False)
    data["kept"].write_text("another")  # a set that the notebook names itself
    assert not job.finished


def test_a_worker_that_is_killed_in_the_middle_loses_no_run(notebook, cluster):
    address, worker = cluster
    workers = [worker(), worker()]
    jobs = sweeps.grid(notebook, {"beta": [1, 3], "wait": [5.0]})
    victims: set[int] = set()

    def in_the_middle() -> bool:
        growing = [job.folder / "unfinished-run" / "pid" for job in jobs]
        started = {int(path.read_text() or 0) for path in growing if path.is_file()}
        victims.update(started & {c.pid for c in psutil.Process(workers[0].pid).children(recursive=True)})
        return bool(victims)

    def kill() -> None:
        wait_for(in_the_middle)
        workers[0].kill()

    killer = threading.Thread(target=kill)
    killer.start()
    assert dict(sweeps.execute(jobs, scheduler=address)) == dict.fromkeys(jobs)
    killer.join()
    assert workers[0].wait() == -signal.SIGKILL
    assert all(job.finished for job in jobs)
    assert not victims & {int((job.folder / "pid").read_text()) for job in jobs}  # it was run again, elsewhere
    wait_for(lambda: not any(map(alive, victims)), 120)  # the dead worker's kernel does not write on


def test_a_cluster_without_workers_is_told_and_waited_for(notebook, cluster, capsys, monkeypatch):
    address, worker = cluster
    jobs = sweeps.grid(notebook, {"beta": [1]})

    def told(line: str, file: IO[str]) -> None:
        print(line, file=file)
        worker()  # comes when it is asked for

    monkeypatch.setattr(sweeps.tqdm, "write", told)
    assert dict(sweeps.execute(jobs, scheduler=address)) == dict.fromkeys(jobs)
    assert "the scheduler has no workers; the runs wait until one comes" in capsys.readouterr().err


def test_missing_workers_are_told_once_until_they_are_gone_again(capsys):
    cluster = {"workers": {}}
    tell = sweeps._teller(SimpleNamespace(scheduler_info=lambda: cluster))
    for workers in ({}, {}, {"one": 1}, {}):
        cluster["workers"] = workers
        tell()
    assert capsys.readouterr().err.count("no workers") == 2


def test_workers_without_the_package_end_the_sweep_with_what_they_say(notebook, cluster, tmp_path, capsys):
    address, worker = cluster
    (tmp_path / "lacks" / "vaenb").mkdir(parents=True)
    (tmp_path / "lacks" / "vaenb" / "__init__.py").write_text("raise ModuleNotFoundError('nothing called vaenb')")
    worker(PYTHONPATH=str(tmp_path / "lacks"))
    assert main(["sweep", str(notebook), "-p", "beta", "1", "--scheduler", address]) == 1
    said = capsys.readouterr().err
    assert f"can't import {runs.__name__} (ModuleNotFoundError: nothing called vaenb)" in said


def test_results_that_do_not_come_here_are_no_success(notebook, monkeypatch):
    monkeypatch.setattr(sweeps.Job, "finished", False)  # as where a worker has another file system
    (job,) = sweeps.grid(notebook, {"beta": [1]})
    (error,) = dict(sweeps.execute([job], workers=1)).values()
    assert "it ran, and is not finished here" in error


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_an_interrupted_sweep_keeps_what_is_finished_and_goes_on(notebook):
    command = [sys.executable, "-m", "vaenb", "sweep", str(notebook), "-p", "wait", "0", "900", "--workers", "1"]
    jobs = sweeps.grid(notebook, {"wait": [0.0, 900.0]})
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    # tests that a shell has put into the background ignore Ctrl-C, and so would their children
    process = subprocess.Popen(command, **pipes, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    growing = jobs[1].folder / "unfinished-run" / "pid"
    wait_for(lambda: growing.is_file() and jobs[0].finished)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 130 and "the same command goes on" in said
    rows = read(Path(f"{tiny.folder(notebook, wait=[0, 900])}.csv"))
    assert [r["status"] for r in rows] == ["finished", "waiting"]
    assert jobs[0].finished and not jobs[1].finished
    wait_for(lambda: not alive(int(growing.read_text())), 120)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"betta": [1]}, "parameter 'betta': tiny.ipynb has profile, beta, seed"),
        ({"beta": ["one"]}, "parameter 'beta': float expected, got 'one'"),
        ({"beta": []}, "parameter 'beta': one value or more"),
        ({"seed": [0, 1, 0]}, "parameter 'seed': one value or more, each once, expected"),
        ({"beta": [1, 1.0]}, "parameter 'beta': one value or more, each once, expected"),
        ({"beta": [1], "seed": [0.5]}, "parameter 'seed': int expected, got 0.5"),
        ({"beta": 1}, "parameter 'beta': a list of values expected, got 1"),
        ({"beta": [float("nan")]}, "parameter 'beta': a finite number, a text or a list expected"),
    ],
)
def test_a_wrong_grid_is_refused_before_anything_runs(notebook, values, message):
    with pytest.raises(ValueError, match=message):
        sweeps.sweep(notebook, values)
    assert not files.runs_folder().exists()


def test_a_run_with_other_parameters_under_the_same_name_is_not_finished(notebook):
    (job,) = sweeps.grid(notebook, {"beta": [1]})
    job.folder.mkdir(parents=True)
    shutil.copy(notebook, job.folder)
    for about, whole in (({"parameters": {"beta": 1.0}}, True), ({"parameters": {"beta": "1.0"}}, False), ([1], False)):
        (job.folder / "run.json").write_text(json.dumps(about))
        assert job.finished == whole


def test_other_wrong_calls_are_told(notebook, capsys):
    assert main(["sweep", str(notebook), "-p", "beta", "1", "-p", "beta", "2"]) == 1
    assert "parameter 'beta': it is given twice" in capsys.readouterr().err
    assert main(["sweep", str(notebook), "-p", "beta", "1", "--workers", "0"]) == 1
    assert capsys.readouterr().err == "vaenb: workers: a whole number ≥ 1 expected, got 0\n"
    assert not files.runs_folder().exists()
    assert main(["sweep", str(notebook), "-p", "beta", "1", "-o", str(notebook)]) == 1
    assert f"folder: {notebook} can't take results" in capsys.readouterr().err
    assert main(["sweep", "nowhere.ipynb", "-p", "beta", "1"]) == 1
    assert "nowhere.ipynb does not exist" in capsys.readouterr().err
    assert main(["sweep", str(notebook), "-p", "beta", "1", "--scheduler", "nonsense://x"]) == 1
    assert "scheduler: no Dask scheduler answers at nonsense://x" in capsys.readouterr().err
    for command in (["sweep", str(notebook), "-p", "beta", "1"], ["paper", "--device", "cpu"]):
        assert main([*command, "--scheduler", ""]) == 1
        assert capsys.readouterr().err == "vaenb: scheduler: an address such as tcp://host:8786 expected, got ''\n"


@settings(max_examples=25, deadline=None)
@given(
    betas=st.lists(st.floats(0.01, 100), min_size=1, max_size=4, unique=True),
    seeds=st.lists(st.integers(0, 10**6), min_size=1, max_size=4, unique=True),
)
def test_every_combination_has_a_job_and_a_folder_of_its_own(betas, seeds):
    notebook = Path(__file__).parents[1] / "notebooks" / "00_start_here.ipynb"
    jobs = sweeps.grid(notebook, {"beta": betas, "seed": seeds}, folder="/tmp/anywhere")
    assert len(jobs) == len(betas) * len(seeds) == len({job.folder for job in jobs})
    assert [(j.parameters["beta"], j.parameters["seed"]) for j in jobs] == [(b, s) for b in betas for s in seeds]


def test_a_long_list_of_settings_still_names_a_folder():
    names = {tiny.folder(Path("x.ipynb"), betas=list(map(float, range(n)))).name for n in (200, 201)}
    assert len(names) == 2 and max(map(len, names)) < 200
