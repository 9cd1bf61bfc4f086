"""Many runs of notebooks on the workers of a Dask cluster: a grid of parameters, or any list of jobs.

Scheduling is `dask.distributed`'s: a local cluster of one-threaded processes, or any scheduler's address. A run has a
folder of its own, finished ones are not run again, and a failed one is reported and stops no other.
"""

import itertools
import json
import logging
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from distributed import Client, LocalCluster, as_completed
from tqdm.auto import tqdm

from vaenb import claims, files
from vaenb.checks import check_whole
from vaenb.runs import KernelDied, RunFailed, kernel
from vaenb.runs import run as runs
from vaenb.runs.parameters import checked, folder_name

_ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # whatever the worker has
_NOT_HERE = "it ran, and is not finished here: its notebook or data have changed, or a worker has another file system"
_NEEDED = "vaenb.runs.run"  # by every worker
_COLUMNS = ("claim", "data", "cell", "role", "measure", "effect", "low", "high", "n", "seeds")


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
    notebook = files.expanded(notebook).absolute()
    folder = files.expanded(folder or files.runs_folder()).absolute()
    values = _lists(values)
    for name, several in values.items():
        spelled = {folder_name(notebook, checked(notebook, {name: value})) for value in several}
        if not several or len(spelled) < len(several):
            raise ValueError(f"parameter {name!r}: one value or more, each once, expected, got {several}")
    jobs = []
    for combination in itertools.product(*values.values()):
        parameters = checked(notebook, dict(zip(values, combination, strict=True)))
        jobs.append(Job(notebook, parameters, folder / folder_name(notebook, parameters)))
    return jobs


def _lists(values: dict) -> dict[str, list]:
    for name, several in values.items():
        if isinstance(several, str) or not isinstance(several, Iterable):
            raise ValueError(f"parameter {name!r}: a list of values expected, got {several!r}")
    return {name: list(several) for name, several in values.items()}


def processes(workers: int | None, jobs: int) -> int:
    """How many of the jobs run at once: `workers`, by default one a core. Raises ValueError for workers < 1."""
    check_cluster(workers, None)
    return min(workers or os.cpu_count() or 1, jobs)


def check_cluster(workers: int | None, scheduler: str | None) -> None:
    """Raise ValueError for workers < 1 and an empty address."""
    if workers is not None:
        check_whole("workers", workers)
    if scheduler is not None and not scheduler.strip():
        raise ValueError(f"scheduler: an address such as tcp://host:8786 expected, got {scheduler!r}")


def execute(
    jobs: list[Job], *, workers: int | None = None, scheduler: str | None = None
) -> Iterator[tuple[Job, str | None]]:
    """Run the jobs that are not finished and yield each as it ends, with its error or None.

    On `workers` local processes of one thread (default: one a core), or on the cluster whose scheduler listens at an
    address such as "tcp://10.0.0.1:8786"; its workers need this package and the same file system. While it has no
    workers that is told, and they are waited for. A run whose worker dies is given to another one, up to three times;
    a kernel that dies is tried twice. On Ctrl-C what has not begun is cancelled. Raises ValueError for workers < 1 and
    an empty address, OSError where no scheduler answers, and RunFailed where the workers lack the package.
    """
    check_cluster(workers, scheduler)
    waiting = [job for job in jobs if not job.finished]
    at_once = processes(workers, len(waiting))
    if len({job.folder for job in jobs}) < len(jobs):
        raise ValueError("jobs: two of them have the same folder")
    if not waiting:
        return
    # dask's workers have an allocator's threshold of their own
    environment = kernel.named_folders() | kernel.allocator() | _ONE_THREAD
    with _client(scheduler, at_once) as client, kernel.repeating(_teller(client), every=4):
        _check_workers(client)
        futures = {}
        for job in waiting:
            future = client.submit(_run, job, environment, pure=False, retries=1, key=str(job.folder))
            futures[future] = job
        try:
            for future in as_completed(list(futures)):
                job = futures[future]
                error = _outcome(future)
                if not error and not job.finished:
                    error = _NOT_HERE
                yield job, error
        finally:
            client.cancel(list(futures))


def _teller(client: Client) -> Callable[[], None]:
    """Make what tells, when it is called, that the cluster has no workers, or none any more."""
    told = False

    def tell() -> None:
        nonlocal told
        alone = not client.scheduler_info()["workers"]
        if alone and not told:
            tqdm.write("the scheduler has no workers; the runs wait until one comes (Ctrl-C ends)", file=sys.stderr)
        told = alone

    return tell


def _check_workers(client: Client) -> None:
    """Wait for a worker. Raises RunFailed where one can't import what it is to run, and would keep it for ever."""
    client.wait_for_workers(1)
    said = client.run(exec, f"import {_NEEDED}", {}, on_error="return")  # exec: what every worker has
    for worker, error in said.items():
        if isinstance(error, ImportError):
            why = f"{type(error).__name__}: {error}"
            raise RunFailed(f"scheduler: its worker {worker} can't import {_NEEDED} ({why})")


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
    check_cluster(workers, scheduler)
    jobs = grid(notebook, values, folder=folder)
    errors: dict[Job, str] = {}
    found: dict[Job, list[dict]] = {}
    table = jobs[0].folder.parent / f"{folder_name(jobs[0].notebook, _lists(values))}.csv"
    files.make_folder(table.parent)
    write_table(table, jobs, errors, found)
    with shown(jobs) as bar:
        for job, error in execute(jobs, workers=workers, scheduler=scheduler):
            note(job, error, errors, bar, lambda: write_table(table, jobs, errors, found))
    write_table(table, jobs, errors)
    return table, errors


def note(job: Job, error: str | None, errors: dict[Job, str], bar: tqdm, remake: Callable[[], None]) -> None:
    """Tell how a run ended, keep its error, and `remake` what is made of all runs; where that fails, they go on."""
    if error:
        errors[job] = error
    bar.write(f"failed: {job.folder.name}\n  {error}" if error else f"finished: {job.folder.name}")
    try:
        remake()
    except (OSError, ValueError) as reason:
        bar.write(f"{reason}; it is tried again")
    bar.update()


@contextmanager
def shown(jobs: list[Job], every: float = 10) -> Iterator[tqdm]:
    """Show a bar of the runs, and how many cells each one under way has done, read every so many seconds.

    What is yielded is the bar: `update` it as a run ends, and `write` beside it.
    """
    begun, done = time.time(), sum(job.finished for job in jobs)
    bar = tqdm(total=len(jobs), initial=done, desc=f"{len(jobs)} runs, {done} finished before", unit="run")

    def tell() -> None:
        under_way = ", ".join(filter(None, (_progress(job, begun) for job in jobs)))
        if under_way != (bar.postfix or "") or sys.stderr.isatty():  # a clock that stands still looks like a dead run
            bar.set_postfix_str(under_way)

    with bar, kernel.repeating(tell, every=every):
        yield bar


def _progress(job: Job, begun: float) -> str | None:
    """Tell how far a run has come, as papermill notes it in the unfinished notebook; None for one not under way."""
    part = job.folder / claims.UNFINISHED / f"{job.notebook.stem}.part.ipynb"
    with suppress(OSError, ValueError, KeyError, TypeError):  # not begun, just ended, or being written
        if part.stat().st_mtime >= begun:
            cells = json.loads(part.read_text(encoding="utf-8"))["cells"]
            done = sum(cell["metadata"]["papermill"]["status"] == "completed" for cell in cells)
            return f"{job.notebook.stem} {done} of {len(cells)} cells"
    return None


def write_table(
    path: Path, jobs: list[Job], errors: dict[Job, str], found: dict[Job, list[dict]] | None = None
) -> None:
    """Write what the jobs' folders hold as CSV: parameters, status, and of every recorded cell its estimate.

    A run that failed, waits, or recorded nothing has one row without a claim. `found` keeps what finished runs hold
    from one call to the next, which does not read them again.
    """
    found = {} if found is None else found
    rows = []
    for job in jobs:
        error = errors.get(job, "")
        if not error and job not in found and job.finished:
            found[job] = _found(job)
        status = "waiting"
        if error:
            status = "failed"
        elif job in found:
            status = "finished"
        about = {}
        for name, value in job.parameters.items():
            about[name] = value if isinstance(value, (int, float, str)) else json.dumps(value)
        about["status"] = status
        ends = {"error": " ".join(error.split()), "folder": str(job.folder)}
        held = found[job] if status == "finished" else []
        for cells in held or [dict.fromkeys(_COLUMNS, "")]:
            rows.append(about | cells | ends)
    files.write_csv(path, rows)


def _found(job: Job) -> list[dict]:
    """Give what a finished run measured for the claims, by the table's columns."""
    if not (job.folder / "evidence.npz").is_file():  # a notebook need not record any
        return []
    try:
        run = claims.read(job.folder)
    except (OSError, ValueError) as error:
        warnings.warn(f"{error}; it is skipped", stacklevel=2)
        return []
    rows = []
    for row in claims.measured(run):
        rows.append({column: row[column] for column in _COLUMNS})
    return rows


def _run(job: Job, environment: dict[str, str]) -> str | None:
    """On a worker: give the error of a run that will fail again; let dask try again what a dead kernel left."""
    try:
        runs.run(job.notebook, job.parameters, folder=job.folder, environment=environment, progress=False, again=False)
    except KernelDied:
        raise
    except (RunFailed, OSError, ValueError) as error:
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
            client = Client(scheduler, timeout="8s")
        except (OSError, TimeoutError, ValueError) as error:
            raise OSError(f"scheduler: no Dask scheduler answers at {scheduler} ({error})") from error
        with client:
            yield client
        return
    local = LocalCluster(
        n_workers=workers,
        threads_per_worker=1,
        memory_limit=None,
        protocol="tcp://",
        dashboard_address="127.0.0.1:0",
        silence_logs=logging.ERROR,  # a worker is slow to end after a kernel, and dask warns of it
    )
    with local as cluster, Client(cluster) as client:
        yield client
