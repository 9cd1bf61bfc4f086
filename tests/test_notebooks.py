"""What every committed notebook must be: executed, typed parameters, light, and readable without running it."""

import json
import re
from pathlib import Path

import nbformat
import papermill
import pytest

from vaenb.runs import run as runs

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
MARK = "# NBVAL_CHECK_OUTPUT"


@pytest.fixture(params=NOTEBOOKS, ids=lambda p: p.stem)
def notebook(request):
    return nbformat.read(request.param, as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def output_types(cell) -> set[str]:
    return {kind for output in cell.outputs for kind in output.get("data", {})}


def test_there_are_notebooks():
    assert [p.stem for p in NOTEBOOKS][0] == "00_start_here"


def test_it_was_executed_from_top_to_bottom(notebook):
    cells = code_cells(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))


def test_what_nbval_compares_has_something_to_compare(notebook):
    marked = [cell for cell in code_cells(notebook) if cell.source.startswith(MARK)]
    assert marked and all(cell.outputs for cell in marked)
    assert all(MARK not in cell.source or cell.source.startswith(MARK) for cell in notebook.cells)


def test_nothing_went_wrong_and_nothing_spoke_on_stderr(notebook):
    outputs = [output for cell in code_cells(notebook) for output in cell.outputs]
    assert not [o for o in outputs if o.output_type == "error" or o.get("name") == "stderr"]


def test_parameters_are_typed_and_commented():
    for path in NOTEBOOKS:
        parameters = papermill.inspect_notebook(str(path))
        computes = path.stem != "11_claims"  # which reads what the others found
        assert ("profile" in parameters and "seed" in parameters) or not computes
        for name, info in parameters.items():
            assert info["inferred_type_name"] != "None", f"{path.name}: {name} has no type"
            assert info["help"], f"{path.name}: {name} has no comment"
        assert not computes or parameters["profile"]["default"] == '"quick"'


def test_every_plotly_figure_has_a_picture_beside_it(notebook):
    drawn = [cell for cell in code_cells(notebook) if "application/vnd.plotly.v1+json" in output_types(cell)]
    assert drawn and all("image/png" in output_types(cell) for cell in drawn)


def test_what_is_saved_as_a_figure_is_seen(notebook):
    saving = [cell for cell in code_cells(notebook) if "plots.save(" in cell.source]
    assert saving and all("image/png" in output_types(cell) for cell in saving), [
        cell.id for cell in saving if "image/png" not in output_types(cell)
    ]


def test_it_links_its_neighbours_and_every_link_leads_to_a_file(notebook, request):
    names = [path.name for path in NOTEBOOKS]
    at = names.index(request.node.callspec.id + ".ipynb")
    first = notebook.cells[0].source
    assert "(../README.md#the-notebooks)" in first
    assert all(f"]({names[k]})" in first for k in (at - 1, at + 1) if 0 <= k < len(names))
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    links = set(re.findall(r"\]\((?!http|#)([^)#\s]+)", text))
    assert links and all((NOTEBOOKS[0].parent / link).exists() for link in links)


def test_a_static_picture_stands_right_before_each_explorer(notebook):
    cells = code_cells(notebook)
    explorers = [i for i, cell in enumerate(cells) if re.search(r"Explorer\(", cell.source)]
    assert all("image/png" in output_types(cells[i - 1]) for i in explorers)


def test_it_is_light(notebook, request):
    assert max(len(str(output)) for cell in code_cells(notebook) for output in cell.outputs) < 300_000
    assert all(path.stat().st_size < 1_000_000 for path in NOTEBOOKS)


def test_no_source_does_what_a_notebook_must_not(notebook):
    source = "\n".join(cell.source for cell in code_cells(notebook))
    assert not re.search(r"FigureWidget|sys\.path|^[!%]|\.\./|warnings\.filterwarnings", source, re.MULTILINE)


def test_cells_are_short_and_their_ids_can_be_read(notebook):
    ids = [cell.id for cell in notebook.cells]
    assert len(set(ids)) == len(ids) and all(
        re.fullmatch(r"[a-z][a-z0-9-]+", i) and not re.fullmatch(r"[0-9a-f]{8}", i) for i in ids
    )
    lengths = sorted(len([line for line in cell.source.splitlines() if line.strip()]) for cell in code_cells(notebook))
    assert lengths[len(lengths) // 2] <= 9 and lengths[-1] <= 22


def test_it_carries_no_traces_of_its_execution(notebook):
    assert set(notebook.metadata) <= {"kernelspec", "language_info"}
    assert all(set(cell.metadata) <= {"tags"} for cell in notebook.cells)
    assert not re.search(r"/root/|/home/|/tmp/|\d+%\|", nbformat.writes(notebook))


def test_00_runs_with_other_parameters(tmp_path, monkeypatch):
    monkeypatch.setenv("VAENB_RUNS", str(tmp_path))
    monkeypatch.setattr(runs, "_renderer", lambda: "plotly_mimetype")
    parameters = {"beta": 4, "betas": [4.0], "dataset": "sprites", "epochs": 2, "image": 0}
    folder = runs.run(NOTEBOOKS[0], parameters)
    assert folder.name == "00_start_here_beta=4.0_betas=4.0_dataset=sprites_epochs=2_image=0"
    evidence = {e["claim"]: e for e in json.loads((folder / "claims.json").read_text())}
    assert set(evidence) == {"001.vulnerable", "001.beyond-noise"}
    assert {e["data"] for e in evidence.values()} == {"sprites"}
    assert list(evidence["001.vulnerable"]["cells"]) == ["β=4, ε 0.3 to 3"]
    assert evidence["001.vulnerable"]["verdict"] == "no verdict (quick)"
    assert {p.name for p in folder.glob("*.plotly.json")} >= {"one_attack.plotly.json", "dd_curve.plotly.json"}
