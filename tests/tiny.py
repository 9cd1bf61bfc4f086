"""A tiny notebook for the tests of what runs notebooks: its kernel imports no torch, so that a run takes a second."""

from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from vaenb import files
from vaenb.runs.parameters import folder_name

PARAMETERS = """
profile: str = "quick"  # quick or paper
beta: float = 1.0  # what is "measured"
seed: int = 0  # of the first training
folder: str = ""  # where the results go
"""
RECORDS = """
import json, os, pathlib, time
folder = pathlib.Path(folder)
cells = {"vae": {"effect": beta, "low": beta - 0.5, "high": beta + 0.5, "n": 7}}
item = {"claim": "001.vulnerable", "data": "mnist", "profile": profile, "notebook": "tiny"}
item |= {"seeds": [seed, seed + 1, seed + 2], "settings": f"{beta}", "started": "2026", "cells": cells}
item["per_seed"] = {"vae": [beta] * 3}
(folder / "claims.json").write_text(json.dumps([item]))
"""


def write(path: Path, *codes: str, parameters: str = PARAMETERS, text: str = "# tiny") -> Path:
    """Write a notebook: a text, its parameters, and these cells, named cell-1, cell-2, ..."""
    cells = [
        new_markdown_cell(text, id="title"),
        new_code_cell(parameters.strip(), id="parameters", metadata={"tags": ["parameters"]}),
    ]
    for number, code in enumerate(codes, start=1):
        cells.append(new_code_cell(code.strip(), id=f"cell-{number}"))
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(new_notebook(cells=cells, metadata={"kernelspec": kernel}), path)
    return path


def folder(notebook: Path, **parameters) -> Path:
    """Where the results of a run with these parameters go."""
    return files.runs_folder() / folder_name(notebook, parameters)
