"""The command line: `vaenb audit`, `run`, `sweep`, `paper`, `claims`, `verify`, `collect`, `publish`, `zoo`.

A command imports what it needs when it is called, so that `--help` answers at once.
"""

import argparse
import json
import os
import re
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from vaenb.runs import RunFailed

_OPTION = re.compile("-[poh]|--[a-z]*")
_SHIELD = "\0"  # no argument of a command holds it


def main(arguments: list[str] | None = None) -> int:
    """Run notebooks, sweep over their parameters, or print the ledger; return the exit status."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")  # a terminal may know no β
    options = _parser().parse_args(_shielded(sys.argv[1:] if arguments is None else arguments))
    before, warnings.formatwarning = warnings.formatwarning, _plain_warning
    try:
        status = options.call(options)
        sys.stdout.flush()
        return status or 0
    except BrokenPipeError:  # whoever reads has enough, as head has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (ModuleNotFoundError, OSError, ValueError, RunFailed) as error:  # papermill and its like are not of the core
        remedy = "; notebooks and pages need pip install 'vaenb[lab]'" if isinstance(error, ModuleNotFoundError) else ""
        print(f"vaenb: {error}{remedy}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        goes_on = options.command in ("sweep", "paper", "zoo")
        kept = "; what is finished is kept, and the same command goes on from there" if goes_on else ""
        print(f"vaenb: interrupted{kept}", file=sys.stderr)
        return 130
    finally:
        warnings.formatwarning = before


def _plain_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    """Say what is wrong as errors do, without a line of our code."""
    return f"vaenb: {message}\n"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="vaenb", description="Run the notebooks, and show what they found.")
    commands = parser.add_subparsers(dest="command", required=True)
    run = _add(commands, "run", _run, "execute one notebook into a folder of its own below runs/")
    run.add_argument("notebook", type=_path)
    run.add_argument("-p", "--parameter", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"))
    run.add_argument("-o", "--folder", type=_path, help="where the results go")
    sweep = _add(commands, "sweep", _sweep, "run a notebook at every combination of values (lists as '[1, 4]')")
    sweep.add_argument("notebook", type=_path)
    sweep.add_argument("-p", "--parameter", nargs="+", action="append", default=[], metavar=("NAME", "VALUE"))
    sweep.add_argument("--profile", choices=("quick", "paper"), help="short for -p profile NAME")
    sweep.add_argument("-o", "--folder", type=_path, help="where the runs' folders and the table go (default: runs/)")
    paper = _add(commands, "paper", _paper, "run every numbered notebook in the paper profile, into figures/")
    paper.add_argument("notebooks", type=_path, nargs="*", help="only these")
    paper.add_argument(
        "--device", default="cpu", help="cpu (default) or cuda, without the reductions that plan.json has for a CPU"
    )
    paper.add_argument("--dry-run", action="store_true", help="only say what would run, and how long it takes")
    for command in (sweep, paper):
        command.add_argument("--workers", type=int, help="local processes of one thread (default: one a core)")
        command.add_argument("--scheduler", metavar="ADDRESS", help="a running Dask scheduler instead, tcp://host:8786")
    ledger = _add(commands, "claims", _claims, "the ledger: every claim of the documents, and what the runs found")
    ledger.add_argument("--markdown", action="store_true", help="as docs/claims.md has it, from figures/ alone")
    verify = _add(commands, "verify", _verify, "compute a claim's verdict again from the stored arrays, step by step")
    verify.add_argument("claim", help="its id, such as 002a.hmc.acc")
    looked = "where evidence is looked for (default: figures/, which the ledger is made from)"
    verify.add_argument("-o", "--folder", type=_path, help=looked)
    collect = _add(commands, "collect", _collect, "take runs into figures/ and make its lists and tables anew")
    collect.add_argument("folders", type=_path, nargs="*", help="finished runs that the plan of figures/ names")
    publish = _add(commands, "publish", _publish, "execute notebooks and write them back clean, as they are committed")
    publish.add_argument("notebooks", type=_path, nargs="+")
    zoo = _add(commands, "zoo", _zoo, "show the reference models, or build them anew from the full data")
    actions = zoo.add_subparsers(dest="action")
    build = actions.add_parser("build", help="train, judge and measure them")
    build.add_argument("names", nargs="*", help="only these (default: what is missing or has a new recipe)")
    again = actions.add_parser("audit", help="audit them: the reference models of every audit, and the leaderboard")
    again.add_argument("names", nargs="*", help="only these (default: what has no audit of its present weights)")
    _add_audit(commands)
    return parser


def _add(commands, name: str, call: Callable, about: str) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=about)
    command.set_defaults(call=call)
    return command


def _add_audit(commands) -> None:
    audit = _add(commands, "audit", _audit, "how robust is my VAE? A page, beside the zoo's models")
    audit.add_argument("model", help="mine.py:model, zoo:mnist/kld, or with --adapter a folder")
    audit.add_argument("--adapter", choices=("diffusers", "pythae"), help="the library that saved the folder")
    audit.add_argument("--data", required=True, metavar="IMAGES", help="an .npz, a folder of images, a known set")
    audit.add_argument("--size", type=int, help="scale the images to so many pixels a side")
    outside = "out-of-distribution images, as often as wanted (default: sprites, which are drawn)"
    audit.add_argument("--outside", action="append", default=[], metavar="NAME=IMAGES", help=outside)
    audit.add_argument("--labels", action="store_true", help="use the labels in --data: a probe of the codes")
    budget = "how many images and attacks: a first look, the page (default), a paper"
    audit.add_argument("--budget", choices=("quick", "standard", "thorough"), default="standard", help=budget)
    audit.add_argument("--attacked", type=int, help="how many images are attacked (default: the budget's)")
    known = ("mnist", "fashion_mnist")
    audit.add_argument("--reference", type=str.lower, choices=known, help="the set that the images in --data are of")
    audit.add_argument("--seed", type=int, default=0, help="of attacks and chains (default: 0)")
    goes = "where the page goes (default: audit/)"
    audit.add_argument("-o", "--folder", type=_path, default=Path("audit"), help=goes)


def _run(options: argparse.Namespace) -> int:
    from vaenb import claims
    from vaenb.runs.run import run

    parameters = {name: value for name, (value,) in _values(options.parameter, options.notebook).items()}
    folder = run(options.notebook, parameters, folder=options.folder)
    figures = []
    for ending, kind in {"png": "pictures", "plotly.json": "interactive", "csv": "their numbers"}.items():
        if count := len(list(folder.glob(f"*.{ending}"))):
            figures.append(f"{folder / '*'}.{ending} ({count} {kind})")
    print(f"\nnotebook  {folder / options.notebook.name}")
    print(f"figures   {', '.join(figures) or 'none'}")
    if (folder / "evidence.npz").is_file():
        kept = claims.read(folder)
        print(f"evidence  {folder / 'evidence.npz'}: {len(kept.records)} cells, {len(kept.gates)} gates")
        if rows := claims.measured(kept):
            print(f"\n{claims.tables.measurements(rows)}")
    return 0


def _sweep(options: argparse.Namespace) -> int:
    from vaenb.runs.sweep import sweep

    given = options.parameter + ([["profile", options.profile]] if options.profile else [])
    values = _values(given, options.notebook)
    table, errors = sweep(
        options.notebook, values, folder=options.folder, workers=options.workers, scheduler=options.scheduler
    )
    print(f"\ntable  {table}")
    return _told(errors)


def _paper(options: argparse.Namespace) -> int:
    from vaenb.runs import paper, plan

    jobs = plan.jobs(options.notebooks, device=options.device)
    print(paper.estimate(jobs, workers=options.workers))
    if options.dry_run:
        return 0
    return _told(paper.run(jobs, workers=options.workers, scheduler=options.scheduler))


def _claims(options: argparse.Namespace) -> int:
    from vaenb import claims, files

    if options.markdown:
        from vaenb.runs import evidence

        print(evidence.whole_ledger(claims.found([files.project_folder() / "figures"])), end="")
    else:
        runs = claims.found()
        print(claims.tables.plain(claims.ledger(runs)))
        print(f"\nledger {claims.digest(runs)}")
    return 0


def _verify(options: argparse.Namespace) -> int:
    from vaenb import claims, files

    figures = files.project_folder() / "figures"
    if options.folder and not options.folder.is_dir():
        raise ValueError(f"-o: an existing folder expected, got {options.folder}")
    runs = claims.found([options.folder or figures])
    if options.folder and not runs:
        raise ValueError(f"-o: a folder with finished runs expected, {options.folder} holds no evidence.npz")
    told, agrees = claims.verify(options.claim, runs, None if options.folder else figures / "claims.json")
    print(f"{told}\n\nledger {claims.digest(runs)}")
    return 0 if agrees else 1


def _collect(options: argparse.Namespace) -> int:
    from vaenb.runs import evidence

    for folder in options.folders:
        evidence.collect(folder)
    evidence.remake()
    return 0


def _publish(options: argparse.Namespace) -> int:
    from vaenb.runs.publish import publish

    for notebook in options.notebooks:
        publish(notebook)
    return 0


def _zoo(options: argparse.Namespace) -> int:
    from vaenb import zoo
    from vaenb.data import DatasetUnavailable
    from vaenb.zoo import building

    if options.action is None:
        print(zoo.table())
        return 0
    if options.action == "audit":
        return _zoo_audit(options)
    names = options.names or building.stale()
    for name in names:
        zoo.recipe(name)  # an unknown one is refused now, and not hours later
    status = 0
    for name in names:
        try:
            about = building.build(name)
        except (building.NotConverged, DatasetUnavailable, FloatingPointError) as reason:
            print(f"failed {name}: {reason}", file=sys.stderr)
            status = 1
            continue
        print(f"built  {name}  {about['quality']}", flush=True)
        building.write_page()
    return status


def _zoo_audit(options: argparse.Namespace) -> int:
    from vaenb.audit import reference
    from vaenb.audit.report import AuditFailed
    from vaenb.tensorfile import DamagedCheckpoint
    from vaenb.zoo import building

    status = 0
    for name in options.names:
        reference.check_auditable(name)  # what can't be audited is refused now, and not hours later
    for name in options.names or reference.missing():
        try:
            reference.make(name)
        except (AuditFailed, DamagedCheckpoint) as reason:
            print(f"failed {name}: {reason}", file=sys.stderr)
            status = 1
            continue
        print(f"audited {name}", flush=True)
        building.write_page()
    return status


def _audit(options: argparse.Namespace) -> int:
    from vaenb import files
    from vaenb.audit import command, page
    from vaenb.data import DatasetUnavailable

    folder = files.expanded(options.folder)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"-o: a folder expected, {folder} is a file")
    files.make_folder(folder)  # before hours of work that could not be written
    try:
        report, title = command.audited(options)
    except (DatasetUnavailable, ModuleNotFoundError) as reason:
        print(f"vaenb: {reason}", file=sys.stderr)
        return 1
    except (TypeError, ValueError) as reason:
        print(f"vaenb: can't audit {options.model}: {reason}", file=sys.stderr)
        return 2
    except RuntimeError as reason:  # torch's, of whatever the model does, and a damaged checkpoint's
        print(f"vaenb: can't audit {options.model}: {type(reason).__name__}: {reason}", file=sys.stderr)
        return 2
    with _undisturbed():
        print(page.summary(report), flush=True)
        print(f"\npage  {page.write(report, folder, title=title)}")
    if report.stopped:
        return 130 if report.stopped == "by Ctrl-C" else 2
    return 0


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Pass over Ctrl-C while what took long is written: whoever stopped it by two of them would lose it."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _told(errors: dict) -> int:
    for job, error in errors.items():
        print(f"failed {job.folder.name}\n       {error}", file=sys.stderr)
    return 1 if errors else 0


def _values(given: list[list[str]], notebook: Path) -> dict[str, list]:
    from vaenb import files
    from vaenb.runs.parameters import known

    cell = known(files.expanded(notebook))
    values: dict[str, list] = {}
    for name, *texts in given:
        if name in values:
            raise ValueError(f"parameter {name!r}: it is given twice; a list is '[1, 4]', a sweep's are one -p")
        annotation = cell.get(name, {}).get("inferred_type_name")
        values[name] = [_value(text.removeprefix(_SHIELD), annotation) for text in texts]
    return values


def _value(text: str, annotation: str | None):
    """Read a parameter as JSON where it is JSON (4, 0.5, true, [1, 4]) or as -.5, else as the text it is.

    A str of the notebook's is the text as it was typed, and a bool may be spelled as in Python.
    """
    if annotation == "str":
        return text
    if annotation == "bool" and text in ("True", "False"):
        return text == "True"
    readers: list[Callable] = [json.loads]
    if text.strip()[:1] in ("-", "+", ".") or text.endswith("."):  # -.5 and 5. are no JSON
        readers += [int, float]
    for read in readers:
        with suppress(ValueError, RecursionError):
            return read(text)
    return text


def _shielded(arguments: list[str]) -> list[str]:
    """Shield the values after -p NAME: argparse would take -1e-3 and -x for options."""
    shielded = []
    since = None  # how many arguments stand between the last -p and here
    for text in arguments:
        is_option = _OPTION.fullmatch if since == 1 else _OPTION.match  # a first value may begin as one does: -o1
        if is_option(text):
            since = 0 if text == "-p" or text.startswith("--pa") else None
        elif since is not None:
            since += 1
            if since > 1 and text.startswith("-"):
                text = _SHIELD + text
        shielded.append(text)
    return shielded


def _path(text: str) -> Path:
    if not text.strip():
        raise argparse.ArgumentTypeError(f"a path expected, got {text!r}")
    return Path(text.removeprefix(_SHIELD))


if __name__ == "__main__":
    sys.exit(main())
