"""The paper profile of every notebook: how long it takes, and its runs, each taken into `figures/` as it ends."""

import shutil

from vaenb import claims
from vaenb.runs import evidence, sweep
from vaenb.runs.run import alone
from vaenb.runs.sweep import Job


def estimate(jobs: list[Job], *, workers: int | None = None) -> str:
    """Say what would run, and how long it took where it was last measured (the seconds in `figures/`).

    What a run read from the store, trained models among it, is counted as it was computed.
    """
    waiting = [job for job in jobs if not job.finished]
    at_once = sweep.processes(workers, len(waiting))
    known = evidence.kept_runs()
    lines, times = [], []
    for job in waiting:
        told = "not timed yet"
        about = _last_run(job, known)
        if about:
            read_back = about.get("seconds_read_back")
            seconds = about["seconds"] + (read_back or 0)
            times.append(seconds)
            told = _minutes(seconds)
            if read_back is None:
                told = f"at least {told} (what it read from the store was not counted)"
        lines.append(f"  {job.folder.name}: {told}")
    finished = len(jobs) - len(waiting)
    lines.append(f"{len(jobs)} runs, of which {finished} are finished; {len(times)} of the rest were timed")
    if times:
        least = max(sum(times) / at_once, *times)
        lines.append(f"those take {_minutes(sum(times))} of one thread, on {at_once} at least {_minutes(least)}")
    return "\n".join(lines)


def _last_run(job: Job, known: list[dict]) -> dict | None:
    """The run.json of the kept run of these parameters, if it has been timed."""
    for about in known:
        same = about.get("notebook") == job.notebook.stem and about.get("parameters") == job.parameters
        if same and isinstance(about.get("seconds"), (int, float)):
            return about
    return None


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def run(jobs: list[Job], *, workers: int | None = None, scheduler: str | None = None) -> dict[Job, str]:
    """Run the jobs and take each into `figures/` as it ends; return the errors of those that failed.

    Notebooks without a profile read what the others found, and run last. The same call goes on after an interrupt.
    """
    sweep.check_cluster(workers, scheduler)
    measuring = [job for job in jobs if "profile" in job.parameters]
    reading = [job for job in jobs if "profile" not in job.parameters]
    errors = {}
    for job in measuring:
        if job.finished and (error := _kept(job)):
            errors[job] = error
    evidence.remake()
    with sweep.shown(jobs) as bar:
        for job, failed in sweep.execute(measuring, workers=workers, scheduler=scheduler):
            sweep.note(job, failed or _kept(job), errors, bar, evidence.remake)
        for job in reading:  # what they read before may have changed
            bar.update(-1 if job.finished else 0)
            if job.folder.is_dir():
                with alone(job.folder):
                    (job.folder / job.notebook.name).unlink(missing_ok=True)
                    shutil.rmtree(job.folder / claims.UNFINISHED, ignore_errors=True)
        for job, failed in sweep.execute(reading, workers=workers, scheduler=scheduler):
            sweep.note(job, failed or _kept(job), errors, bar, evidence.remake)
    evidence.remake()
    return errors


def _kept(job: Job) -> str | None:
    """Collect a job's folder, or say why it can't be: the other runs go on."""
    try:
        evidence.collect(job.folder)
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"it ran, and can't be taken into figures/: {error}"
    return None
