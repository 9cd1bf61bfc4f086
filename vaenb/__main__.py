"""The command line: `vaenb run`, `vaenb publish`, `vaenb claims`."""

import argparse
import json
import sys
from pathlib import Path

from vaenb import claims


def main(arguments: list[str] | None = None) -> int:
    """Run a notebook, publish notebooks, or print the ledger; return the exit status."""
    parser = argparse.ArgumentParser(prog="vaenb", description="Run the notebooks, and show what they found.")
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="execute one notebook into a folder of its own below runs/")
    run.add_argument("notebook", type=Path)
    run.add_argument("-p", "--parameter", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"))
    run.add_argument("-o", "--folder", type=Path, help="where the results go")
    publish = commands.add_parser("publish", help="execute notebooks and write them back clean, as they are committed")
    publish.add_argument("notebooks", type=Path, nargs="+")
    commands.add_parser("claims", help="the ledger: every claim of the documents, and what the runs found")
    options = parser.parse_args(arguments)
    if options.command == "claims":
        print(claims.table(claims.ledger()))
        return 0
    return _notebooks(options)


def _notebooks(options: argparse.Namespace) -> int:
    from vaenb import runs  # papermill is part of the lab extra, not of the core

    try:
        if options.command == "publish":
            for notebook in options.notebooks:
                runs.publish(notebook)
            return 0
        parameters = {name: _value(text) for name, text in options.parameter}
        folder = runs.run(options.notebook, parameters, folder=options.folder)
    except (FileNotFoundError, ValueError, runs.RunFailed) as error:
        print(f"vaenb: {error}", file=sys.stderr)
        return 1
    kinds = {"png": "pictures", "plotly.json": "interactive"}
    figures = {ending: sorted(folder.glob(f"*.{ending}")) for ending in kinds}
    shown = [f"{folder / '*'}.{e} ({len(files)} {kinds[e]})" for e, files in figures.items() if files]
    found = [row for row in claims.ledger([folder]) if row["cells"]]
    print(f"\nnotebook  {folder / options.notebook.name}")
    print(f"figures   {', '.join(shown) or 'none'}")
    print(f"claims    {folder / 'claims.json'}\n\n{claims.table(found)}")
    return 0


def _value(text: str):
    """Read a parameter as JSON where it is JSON (4, 0.5, true, [1, 4]), else as the text it is."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


if __name__ == "__main__":
    sys.exit(main())
