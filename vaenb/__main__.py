"""The command line: `vaenb run`, `sweep`, `paper`, `claims`, `collect`, `publish`."""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

from vaenb import claims
from vaenb.runs import publish


def main(arguments: list[str] | None = None) -> int:
    """Run notebooks, sweep over their parameters, or print the ledger; return the exit status."""
    options = _parser().parse_args(arguments)
    if options.command == "claims":
        print(claims.table(claims.ledger()))
        return 0
    try:
        from vaenb.runs import run as runs
    except ModuleNotFoundError as error:  # papermill and its like are part of the lab extra, not of the core
        print(f"vaenb: {error}; notebooks need pip install 'vaenb[lab]'", file=sys.stderr)
        return 1
    try:
        return _COMMANDS[options.command](options)
    except (OSError, ValueError, runs.RunFailed) as error:
        print(f"vaenb: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        goes_on = options.command in ("sweep", "paper")
        kept = "; what is finished is kept, and the same command goes on from there" if goes_on else ""
        print(f"vaenb: interrupted{kept}", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="vaenb", description="Run the notebooks, and show what they found.")
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="execute one notebook into a folder of its own below runs/")
    run.add_argument("notebook", type=Path)
    run.add_argument("-p", "--parameter", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"))
    run.add_argument("-o", "--folder", type=Path, help="where the results go")
    sweep = commands.add_parser("sweep", help="run a notebook at every combination of values, on a Dask cluster")
    sweep.add_argument("notebook", type=Path)
    value = {"nargs": "+", "action": "append", "default": [], "metavar": ("NAME", "VALUE")}
    sweep.add_argument("-p", "--parameter", **value, help="a name and one value or more; lists as '[1, 4]'")
    sweep.add_argument("--profile", choices=claims.PROFILES, help="short for -p profile NAME")
    sweep.add_argument("-o", "--folder", type=Path, help="where the runs' folders and the table go (default: runs/)")
    paper = commands.add_parser("paper", help="run every numbered notebook in the paper profile, into figures/")
    paper.add_argument("notebooks", type=Path, nargs="*", help="only these")
    paper.add_argument("--device", default="cpu", help="on cuda the documents' sizes, on cpu (default) what fits")
    paper.add_argument("--dry-run", action="store_true", help="only say what would run, and how long it takes")
    for command in (sweep, paper):
        command.add_argument("--workers", type=int, help="local processes of one thread (default: one a core)")
        command.add_argument("--scheduler", metavar="ADDRESS", help="a running Dask scheduler instead, tcp://host:8786")
    commands.add_parser("claims", help="the ledger: every claim of the documents, and what the runs found")
    collect = commands.add_parser("collect", help="take runs into figures/ and make its lists and tables anew")
    collect.add_argument("folders", type=Path, nargs="*", help="finished runs that the plan of figures/ names")
    publish = commands.add_parser("publish", help="execute notebooks and write them back clean, as they are committed")
    publish.add_argument("notebooks", type=Path, nargs="+")
    return parser


def _run(options: argparse.Namespace) -> int:
    from vaenb.runs import run as runs

    parameters = {name: _value(text) for name, text in options.parameter}
    folder = runs.run(options.notebook, parameters, folder=options.folder)
    kinds = {"png": "pictures", "plotly.json": "interactive", "csv": "their numbers"}
    figures = {ending: sorted(folder.glob(f"*.{ending}")) for ending in kinds}
    shown = [f"{folder / '*'}.{e} ({len(files)} {kinds[e]})" for e, files in figures.items() if files]
    found = [row for row in claims.ledger([folder]) if row["cells"]]
    print(f"\nnotebook  {folder / options.notebook.name}")
    print(f"figures   {', '.join(shown) or 'none'}")
    print(f"claims    {folder / 'claims.json'}\n\n{claims.table(found)}")
    return 0


def _sweep(options: argparse.Namespace) -> int:
    from vaenb.runs import sweep as sweeps

    values: dict[str, list] = {}
    for name, *texts in options.parameter:
        if name in values:
            raise ValueError(f"parameter {name!r}: it is given twice; name it once, with all its values")
        values[name] = [_value(text) for text in texts]
    if options.profile:
        values["profile"] = [options.profile]
    cluster = {"workers": options.workers, "scheduler": options.scheduler}
    table, errors = sweeps.sweep(options.notebook, values, folder=options.folder, **cluster)
    print(f"\ntable  {table}")
    return _told(errors)


def _paper(options: argparse.Namespace) -> int:
    from vaenb.runs import paper

    jobs = paper.jobs(options.notebooks, device=options.device)
    print(paper.estimate(jobs, workers=options.workers))
    return 0 if options.dry_run else _told(paper.run(jobs, workers=options.workers, scheduler=options.scheduler))


def _collect(options: argparse.Namespace) -> int:
    from vaenb.runs import paper

    for folder in options.folders:
        paper.collect(folder)
    paper.remake()
    return 0


def _publish(options: argparse.Namespace) -> int:

    for notebook in options.notebooks:
        publish.publish(notebook)
    return 0


_COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "run": _run,
    "sweep": _sweep,
    "paper": _paper,
    "collect": _collect,
    "publish": _publish,
}


def _told(errors: dict) -> int:
    for job, error in errors.items():
        print(f"failed {job.folder.name}\n       {error}", file=sys.stderr)
    return 1 if errors else 0


def _value(text: str):
    """Read a parameter as JSON where it is JSON (4, 0.5, true, [1, 4]), else as the text it is."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


if __name__ == "__main__":
    sys.exit(main())
