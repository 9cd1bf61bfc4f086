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
CLAIM, CELL = "002b.transition", "the walk, t = 20"  # the claim's only primary cell, of three training runs
RECORDS = """
import hashlib, json, pathlib
import numpy as np

folder, arrays = pathlib.Path(folder), {}


def digest(array):
    return hashlib.sha256(f"{array.dtype}{array.shape}".encode() + array.tobytes()).hexdigest()[:16]


errors = {"noisy MSE": np.full((3, 7), beta, np.float32), "walk MSE": np.zeros((3, 7), np.float32)}
keys = {}
for name, array in errors.items():
    keys[name] = digest(array)
    arrays[keys[name]] = array
data = "fashion_mnist to mnist"
record = {"claim": "002b.transition", "cell": "the walk, t = 20", "role": "primary", "data": data, "arrays": keys}
record |= {"measure": "MSE", "statistic": "difference", "levels": [], "radii": [], "settings": {}}
gate = {"kind": "converged", "name": "tiny", "passed": True, "numbers": {"gain": 0}, "claims": ["002b.transition"]}
gate["cells"] = []
run = {"format": 2, "notebook": "tiny", "profile": profile, "data": data, "seeds": [100 + seed, 101 + seed, 102 + seed]}
run |= {"settings": f"{beta}", "started": "2026", "records": [record], "gates": [gate]}
text = json.dumps(run)
listed = np.frombuffer(text.encode(), np.uint8)
np.savez(folder / "evidence.npz", **arrays, **{f"list-{digest(listed)}": listed})
(folder / "evidence.json").write_text(text)
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
