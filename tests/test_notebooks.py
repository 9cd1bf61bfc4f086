"""What every committed notebook must be: executed, typed parameters, light, and readable without running it."""

import ast
import re
from pathlib import Path

import nbformat
import papermill
import pytest

from vaenb import claims
from vaenb.runs.run import run

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
MARK = "# NBVAL_CHECK_OUTPUT"
# in the new shape, with limits on length and density
REBUILT = [
    "00_start_here",
    "01_classifiers_probe",
    "02_alarms_and_cleaning",
    "03_latent_attacks",
    "04_latent_defences",
    "05_encoder_attacks_hmc",
    "06_attacker_who_knows",
    "07_diffusion",
    "08_seatbelt",
    "09_likelihood_and_ood",
    "10_audit_your_own",
]


@pytest.fixture(scope="module", params=NOTEBOOKS, ids=lambda p: p.stem)
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
    saving = [cell for cell in code_cells(notebook) if re.search(r"(plots|experiment)\.save\(", cell.source)]
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


def test_the_ids_of_cells_can_be_read(notebook):
    ids = [cell.id for cell in notebook.cells]
    assert len(set(ids)) == len(ids)
    for name in ids:
        assert re.fullmatch(r"[a-z][a-z0-9-]+", name) and not re.fullmatch(r"[0-9a-f]{8}", name)


def density(source: str) -> tuple[int, int, int]:
    """Count lines of code (no docstrings, comments, blanks), their characters, and comprehensions with lambdas."""
    prose, folded = set(), 0
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            prose.update(range(node.lineno, node.end_lineno + 1))
        if isinstance(node, ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp | ast.Lambda):
            folded += 1
    lines = []
    for number, line in enumerate(source.splitlines(), start=1):
        code = line.split("  # ")[0].strip()
        if code and not code.startswith("#") and number not in prose:
            lines.append(code)
    return len(lines), sum(map(len, lines)), folded


def prose(source: str) -> list[str]:
    """The words that somebody wrote: tables of claims are made from the evidence, and a table's bars are no words."""
    written = re.sub(r"<!-- claims:.*?<!-- end of claims -->", "", source, flags=re.DOTALL).split()
    return [word for word in written if re.search(r"\w", word)]


def test_density_counts_code_alone():
    source = '# a comment\n\ndef f(x):\n    """What it does,\n    at length."""\n    return [y for y in x]  # why\n'
    assert density(source) == (2, len("def f(x):") + len("return [y for y in x]"), 1)


def test_rebuilt_notebooks_are_easy_to_read():
    for path in NOTEBOOKS:
        if path.stem in REBUILT:
            notebook = nbformat.read(path, as_version=4)
            computing = [cell for cell in code_cells(notebook) if "parameters" not in cell.metadata.get("tags", [])]
            lines, characters, folded = map(sum, zip(*(density(cell.source) for cell in computing), strict=True))
            words = [word for cell in notebook.cells if cell.cell_type == "markdown" for word in prose(cell.source)]
            assert characters <= 45 * lines and folded <= 0.08 * lines, path.name
            assert len(notebook.cells) <= 45 and len(words) <= 1_800, path.name


def test_a_table_of_claims_is_of_what_its_notebook_measures_or_speaks_of():
    for path in NOTEBOOKS:
        if path.stem in REBUILT:
            text = "\n".join(cell.source for cell in nbformat.read(path, as_version=4).cells)
            table = re.compile(r"<!-- claims: (.*?) -->.*?<!-- end of claims -->", re.DOTALL)
            asked = " ".join(table.findall(text)).split()
            elsewhere = table.sub("", text)
            # by its whole name, or by the part of a run that is called like it: "ood" for q.002a.ood
            known = [claim in elsewhere or f'"{claim.split(".")[-1]}"' in elsewhere for claim in asked]
            assert all(known), path.name


def test_it_carries_no_traces_of_its_execution(notebook):
    assert set(notebook.metadata) <= {"kernelspec", "language_info"}
    assert all(set(cell.metadata) <= {"tags"} for cell in notebook.cells)
    assert not re.search(r"/root/|/home/|/tmp/|\d+%\|", nbformat.writes(notebook))


def test_00_runs_with_other_parameters(tmp_path, monkeypatch):
    monkeypatch.setenv("VAENB_RUNS", str(tmp_path))
    parameters = {"beta": 4, "betas": [4.0], "dataset": "sprites", "epochs": 2, "image": 0, "limit": 500}
    folder = run(NOTEBOOKS[0], parameters, environment={"PLOTLY_RENDERER": "plotly_mimetype"})
    assert folder.name == "00_start_here_beta=4.0_betas=4.0_dataset=sprites_epochs=2_image=0_limit=500"
    kept = claims.read(folder)
    assert (kept.notebook, kept.profile, kept.data, kept.seeds) == ("00_start_here", "quick", "sprites", (100,))
    assert not kept.records  # it shows, and measures no claim
    assert {p.name for p in folder.glob("*.plotly.json")} >= {"one_attack.plotly.json", "dd_curve.plotly.json"}
