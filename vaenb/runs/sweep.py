"""Many runs of notebooks on the workers of a Dask cluster: a grid of parameters, or any list of jobs.

Scheduling is `dask.distributed`'s: a local cluster of one-threaded processes, or any scheduler's address. A run has a
folder of its own, finished ones are not run again, and a failed one is reported and stops no other.
"""

import itertools
import json
import logging
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from distributed import Client, LocalCluster, as_completed
from tqdm.auto import tqdm

from vaenb import claims, files
from vaenb.runs import run as runs

_ONE_THREAD = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")  # whatever the worker was started with


@dataclass(frozen=True, eq=False)
class Job:
    """One run: a notebook, its checked parameters, and where the results go."""

    notebook: Path
    parameters: dict
    folder: Path

    @property
    def finished(self) -> bool:
        return runs.finished(self.notebook, self.folder, self.parameters)


def grid(notebook: Path | str, values: dict[str, list], *, folder: Path | str | None = None) -> list[Job]:
    """Make a job of every combination of the values of each parameter, below `folder` (default: the runs folder).

    Raises FileNotFoundError or ValueError, before anything runs, for an unknown parameter, a value of the wrong type,
    and a value that stands twice.
    """
    notebook, folder = Path(notebook).absolute(), Path(folder or files.runs_folder()).absolute()
    typed = {}
    for parameter, several in values.items():
        typed[parameter] = [runs.checked(notebook, {parameter: value})[parameter] for value in several]
        if not several or len({runs.folder_name(notebook, {parameter: v}) for v in typed[parameter]}) < len(several):
            raise ValueError(f"parameter {parameter!r}: one value or more, each once, expected, got {several}")
    settings = [dict(zip(typed, combination, strict=True)) for combination in itertools.product(*typed.values())]
    return [Job(notebook, runs.checked(notebook, s), folder / runs.folder_name(notebook, s)) for s in settings]


def check_workers(workers: int | None) -> None:
    """Refuse a number of workers below 1; None stands for one a core."""
    if workers is not None and workers < 1:
        raise ValueError(f"workers: a whole number ≥ 1 expected, got {workers}")


def execute(
    jobs: list[Job], *, workers: int | None = None, scheduler: str | None = None
) -> Iterator[tuple[Job, str | None]]:
    """Run the jobs that are not finished and yield each as it ends, with its error or None.

    On `workers` local processes of one thread (default: one a core), or on the cluster whose scheduler listens at an
    address such as "tcp://10.0.0.1:8786"; its workers need this package and the same file system. A run whose worker
    dies is given to another one, up to three times; a kernel that dies is tried twice. On Ctrl-C what has not begun is
    cancelled. Raises ValueError for workers < 1, OSError where no scheduler answers.
    """
    waiting = [job for job in jobs if not job.finished]
    check_workers(workers)
    if len({job.folder for job in jobs}) < len(jobs):
        raise ValueError("jobs: two of them have the same folder")
    if not waiting:
        return
    here = runs.named_folders()
    with _client(scheduler, min(workers or os.cpu_count() or 1, len(waiting))) as client:
        futures = {client.submit(_run, job, here, pure=False, retries=1, key=str(job.folder)): job for job in waiting}
        try:
            for future in as_completed(list(futures)):
                yield futures[future], _outcome(future)
        finally:
            client.cancel(list(futures))


def sweep(
    notebook: Path | str,
    values: dict[str, list],
    *,
    folder: Path | str | None = None,
    workers: int | None = None,
    scheduler: str | None = None,
) -> tuple[Path, dict[Job, str]]:
    """Run a notebook at every combination of the values, and collect what was found into one table.

    The table (CSV: a row for each claim, data set and cell of each run) is written anew after every run, so that an
    interrupt loses nothing that is finished; the same call goes on from there. Returns its path, and the errors of the
    runs that failed. Raises as `grid` and `execute` do.
    """
    check_workers(workers)
    jobs = grid(notebook, values, folder=folder)
    errors: dict[Job, str] = {}
    table = jobs[0].folder.parent / f"{runs.folder_name(Path(notebook), values)}.csv"
    write_table(table, jobs, errors)
    behind = False
    with shown(jobs) as bar:
        for job, error in execute(jobs, workers=workers, scheduler=scheduler):
            if error:
                errors[job] = error
                bar.write(f"failed: {job.folder.name}\n  {error}")
            try:
                write_table(table, jobs, errors)
                behind = False
            except OSError as reason:  # the runs go on
                bar.write(str(reason))
                behind = True
            bar.update()
    if behind:
        write_table(table, jobs, errors)
    return table, errors


@contextmanager
def shown(jobs: list[Job], every: float = 10) -> Iterator[tqdm]:
    """Show a bar of the runs, and how many cells each one under way has done, looked up `every` so many seconds.

    What is yielded is the bar: `update` it as a run ends, and `write` beside it.
    """
    begun, ended, done = time.time(), threading.Event(), sum(job.finished for job in jobs)
    bar = tqdm(total=len(jobs), initial=done, desc=f"{len(jobs)} runs, {done} finished before", unit="run")

    def look() -> None:
        before = ""
        while not ended.wait(every):
            under_way = ", ".join(filter(None, (_cell(job, begun) for job in jobs)))
            if under_way != before or sys.stderr.isatty():  # a clock that stands still looks like a run that does
                bar.set_postfix_str(under_way)
            before = under_way

    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    try:
        with bar:
            yield bar
    finally:
        ended.set()
        watcher.join()


def _cell(job: Job, begun: float) -> str | None:
    """Tell how far a run has come, as papermill notes it in the unfinished notebook; None for one not under way."""
    part = job.folder / claims.UNFINISHED / f"{job.notebook.stem}.part.ipynb"
    with suppress(OSError, ValueError, KeyError, TypeError):  # not begun, just ended, or being written
        if part.stat().st_mtime >= begun:
            cells = json.loads(part.read_text(encoding="utf-8"))["cells"]
            done = sum(cell["metadata"]["papermill"]["status"] == "completed" for cell in cells)
            return f"{job.notebook.stem} {done} of {len(cells)} cells"
    return None


def write_table(path: Path, jobs: list[Job], errors: dict[Job, str]) -> None:
    """Write what the jobs' folders hold as CSV: parameters, status, claim, data, cell, effect, low, high, n, verdict.

    A run that failed, waits, or recorded nothing has one row without a claim.
    """
    files.write_csv(path, [row for job in jobs for row in _rows(job, errors.get(job))])


def _rows(job: Job, error: str | None) -> list[dict]:
    status = "failed" if error else "finished" if job.finished else "waiting"
    about = {k: v if isinstance(v, (int, float, str)) else json.dumps(v) for k, v in job.parameters.items()}
    about |= {"status": status}
    recorded = job.folder / "claims.json"  # a notebook need not record any
    found = claims.read(recorded) if status == "finished" and recorded.is_file() else []
    columns = ("claim", "data", "cell", "effect", "low", "high", "n", "verdict", "seeds")
    cells = [{"claim": e.claim, **row, "seeds": " ".join(map(str, e.seeds))} for e in found for row in e.rows()]
    more = [dict.fromkeys(columns, "") | {key: cell[key] for key in columns} for cell in cells]
    ends = {"error": " ".join((error or "").split()), "folder": str(job.folder)}
    return [about | row | ends for row in more or [dict.fromkeys(columns, "")]]


def _run(job: Job, variables: dict[str, str]) -> str | None:
    """On a worker: give the error of a run that will fail again; let dask try again what a dead kernel left."""
    os.environ.update(variables | dict.fromkeys(_ONE_THREAD, "1"))
    try:
        runs.run(job.notebook, job.parameters, folder=job.folder, progress=False, again=False)
    except runs.KernelDied:
        raise
    except (runs.RunFailed, OSError, ValueError) as error:
        return str(error)
    return None


def _outcome(future) -> str | None:
    try:
        return future.result()
    except Exception as error:  # a worker's, of whatever class: it is told, and the other runs go on
        return f"{type(error).__name__}: {error}"


@contextmanager
def _client(scheduler: str | None, workers: int) -> Iterator[Client]:
    if scheduler:
        try:
            client = Client(scheduler, timeout="20s")
        except (OSError, TimeoutError, ValueError) as error:
            raise OSError(f"scheduler: no Dask scheduler answers at {scheduler} ({error})") from error
        with client:
            yield client
        return
    local = {"threads_per_worker": 1, "memory_limit": None, "dashboard_address": "127.0.0.1:0", "protocol": "tcp://"}
    local["silence_logs"] = logging.ERROR  # a worker is slow to end after a kernel, and dask warns of it
    with LocalCluster(n_workers=workers, **local) as cluster, Client(cluster) as client:
        yield client
