"""`vaenb sweep`: on a real Dask scheduler, with workers that die, runs that fail, and sweeps that are interrupted."""

import csv
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import nbformat
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nbformat.v4 import new_code_cell, new_notebook

from vaenb import claims, files
from vaenb.__main__ import main
from vaenb.runs import run as runs
from vaenb.runs import sweep as sweeps

# A worker's threads and sockets are closed by the system when the cluster ends.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")

# No torch in most kernels: a run is then two seconds.
WRITES = """
import json, os, pathlib, time
folder = pathlib.Path(os.environ["VAENB_RUN"])
(folder / "pid").write_text(str(os.getpid()))
(folder / "threads").write_text(os.environ.get("OMP_NUM_THREADS", ""))
if beta == 2:
    raise ValueError("a beta of two")
time.sleep(wait)
cells = {"vae": {"effect": beta, "low": beta - 0.5, "high": beta + 0.5, "n": 7}}
item = {"claim": "001.vulnerable", "data": "mnist", "profile": profile, "notebook": "tiny"}
item |= {"seeds": [seed, seed + 1, seed + 2], "settings": f"{beta}", "started": "2026", "cells": cells, "per_seed": {}}
(folder / "claims.json").write_text(json.dumps([item]))
"""


@pytest.fixture
def notebook(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("VAENB_RUNS", str(tmp_path / "runs"))
    parameters = 'profile: str = "quick"  # p\nbeta: float = 1.0  # b\nseed: int = 0  # s\nwait: float = 0.0  # seconds'
    cells = [
        new_code_cell(parameters, id="parameters", metadata={"tags": ["parameters"]}),
        new_code_cell(WRITES, id="writes"),
    ]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(new_notebook(cells=cells, metadata=kernel), tmp_path / "tiny.ipynb")
    return tmp_path / "tiny.ipynb"


@pytest.fixture
def cluster(tmp_path):
    """A scheduler and two one-threaded workers, each a process of its own, over TCP; gives address and workers."""
    dask = [sys.executable, "-m", "dask"]
    file = tmp_path / "scheduler.json"
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": tmp_path}
    listen = ["--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(file)]
    started = [subprocess.Popen([*dask, "scheduler", *listen], **quiet)]
    for _ in range(2):
        worker = ["worker", "--scheduler-file", str(file), "--nthreads", "1", "--no-nanny", "--no-dashboard"]
        started.append(subprocess.Popen([*dask, *worker], **quiet))
    wait_for(file.is_file)
    yield json.loads(file.read_text())["address"], started[1:]
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
    table = files.runs_folder() / "tiny_beta=1,2,3_profile=paper.csv"
    assert str(table) in said.out
    rows = read(table)
    assert [(r["beta"], r["status"]) for r in rows] == [("1.0", "finished"), ("2.0", "failed"), ("3.0", "finished")]
    assert [r["effect"] for r in rows] == ["1.0", "", "3.0"] and "a beta of two" in rows[1]["error"]
    assert (rows[0]["claim"], rows[0]["data"], rows[0]["verdict"], rows[0]["n"]) == (
        "001.vulnerable",
        "mnist",
        "reproduced",
        "7",
    )
    folder = Path(rows[0]["folder"])
    about = json.loads((folder / "run.json").read_text())
    assert about["parameters"] == {"beta": 1.0, "profile": "paper"}
    assert about["seconds"] > 0 and 0.01 < about["peak_memory_gib"] < 4
    assert (folder / "threads").read_text() == "1"  # so that a number does not depend on how many workers there are


@pytest.mark.parametrize("fails", [(2, 3), (3, 4)])  # which writings; the fourth is after the runs
def test_a_table_that_can_not_be_written_stops_no_run(notebook, monkeypatch, fails):
    write, calls = sweeps.write_table, []

    def full(path, jobs, errors):
        calls.append(path)
        if len(calls) in fails:
            raise OSError(28, "can't write the table", str(path))
        write(path, jobs, errors)

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
    (job,) = sweeps.grid(notebook, {"wait": [3]})
    before = job.folder / claims.UNFINISHED / "tiny.part.ipynb"  # of a run that was stopped, and waits
    before.parent.mkdir(parents=True)
    before.write_text('{"cells": [{"metadata": {"papermill": {"status": "completed"}}}]}')
    os.utime(before, (0, 0))
    with sweeps.shown([job], every=0.05) as bar:
        time.sleep(0.3)
        assert (bar.n, bar.total, bar.postfix) == (0, 1, None)
        told = set()
        monkeypatch.setattr(bar, "set_postfix_str", told.add)
        runs.run(notebook, job.parameters, progress=False)
    assert job.finished and "tiny 2 of 3 cells" in told


def test_what_is_finished_is_not_run_again_unless_the_notebook_has_changed(notebook):
    (job,) = sweeps.grid(notebook, {"beta": [1]})
    assert not job.finished and dict(sweeps.execute([job], workers=1)) == {job: None} and job.finished
    pid = (job.folder / "pid").read_text()
    assert list(sweeps.execute(sweeps.grid(notebook, {"beta": [1]}))) == []
    assert (job.folder / "pid").read_text() == pid
    book = nbformat.read(notebook, 4)
    book.cells[1].source += "\n# another way of counting"
    nbformat.write(book, notebook)
    assert not job.finished
    (job.folder / "tiny.ipynb").write_text("{")  # a file cut short is not a run
    assert not job.finished


def test_a_worker_that_is_killed_in_the_middle_loses_no_run(notebook, cluster):
    address, workers = cluster
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
    rows = read(files.runs_folder() / "tiny_wait=0,900.csv")
    assert [r["status"] for r in rows] == ["finished", "waiting"]
    assert jobs[0].finished and not jobs[1].finished
    wait_for(lambda: not alive(int(growing.read_text())), 120)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"betta": [1]}, "parameter 'betta': tiny.ipynb has profile, beta, seed, wait"),
        ({"beta": ["one"]}, "parameter 'beta': float expected, got 'one'"),
        ({"beta": []}, "parameter 'beta': one value or more"),
        ({"seed": [0, 1, 0]}, "parameter 'seed': one value or more, each once, expected"),
        ({"beta": [1], "seed": [0.5]}, "parameter 'seed': int expected, got 0.5"),
    ],
)
def test_a_wrong_grid_is_refused_before_anything_runs(notebook, values, message):
    with pytest.raises(ValueError, match=message):
        sweeps.sweep(notebook, values)
    assert not files.runs_folder().exists()


def test_a_run_with_other_parameters_under_the_same_name_is_not_finished(notebook):
    (job,) = sweeps.grid(notebook, {"beta": [1]})
    assert dict(sweeps.execute([job], workers=1)) == {job: None}
    about = json.loads((job.folder / "run.json").read_text())
    (job.folder / "run.json").write_text(json.dumps(about | {"parameters": {"beta": "1.0"}}))
    assert not job.finished
    (job.folder / "run.json").write_text("[1]")
    assert not job.finished


def test_one_value_in_two_spellings_is_refused(notebook):
    with pytest.raises(ValueError, match="parameter 'beta': one value or more, each once"):
        sweeps.grid(notebook, {"beta": [1, 1.0]})


def test_other_wrong_calls_are_told(notebook, capsys):
    assert main(["sweep", str(notebook), "-p", "beta", "1", "-p", "beta", "2"]) == 1
    assert "parameter 'beta': it is given twice" in capsys.readouterr().err
    assert main(["sweep", str(notebook), "-p", "beta", "1", "--workers", "0"]) == 1
    assert "workers: a whole number ≥ 1 expected, got 0" in capsys.readouterr().err
    assert main(["sweep", "nowhere.ipynb", "-p", "beta", "1"]) == 1
    assert "nowhere.ipynb does not exist" in capsys.readouterr().err
    assert main(["sweep", str(notebook), "-p", "beta", "1", "--scheduler", "nonsense://x"]) == 1
    assert "scheduler: no Dask scheduler answers at nonsense://x" in capsys.readouterr().err


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
    names = {runs.folder_name(Path("x.ipynb"), {"betas": list(map(float, range(n)))}) for n in (200, 201)}
    assert len(names) == 2 and max(map(len, names)) < 200
