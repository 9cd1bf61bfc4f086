"""The house keeps its order: imports point downward, in no circle, and private names stay at home."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "vaenb"
FLOORS = (
    ("files", "spent"),
    ("tensorfile",),
    ("checks",),
    ("precision",),
    ("contract",),
    ("distributions",),
    ("stats",),
    ("data",),
    ("sampling",),
    ("models",),
    ("training",),
    ("checkpoints",),
    ("measurements",),
    ("metrics",),
    ("attacks",),
    ("defences",),
    ("zoo",),
    ("claims",),
    ("plots",),
    ("experiment",),
    ("audit", "widgets"),
    ("runs",),
    ("__main__",),
)  # from the ground up; rooms of one floor don't know each other
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = {module_name(path): ast.parse(path.read_text(encoding="utf-8")) for path in sorted(PACKAGE.rglob("*.py"))}


def room(module: str) -> str:
    return module.split(".")[1]


def imported(tree: ast.AST) -> set[str]:
    """The modules of this package that a source imports, anywhere in it."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.add(inner if inner in SOURCES else node.module)
    return found & set(SOURCES) - {"vaenb"}


@pytest.mark.parametrize("module", [name for name in SOURCES if name != "vaenb"])
def test_imports_point_downward(module):
    for other in imported(SOURCES[module]):
        below = FLOOR[room(other)] < FLOOR[room(module)]
        assert below or room(other) == room(module), f"{module} imports {other}, which is not below it"


def test_no_modules_import_each_other():
    TopologicalSorter({name: imported(tree) - {name} for name, tree in SOURCES.items()}).prepare()


@pytest.mark.parametrize("module", SOURCES)
def test_private_names_stay_at_home(module):
    named = {}  # what a name in this module stands for, where that is a module of this package
    for node in ast.walk(SOURCES[module]):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("vaenb"):
            private = [alias.name for alias in node.names if alias.name.startswith("_")]
            assert not private, f"{module} imports {private} from {node.module}"
            for alias in node.names:
                if f"{node.module}.{alias.name}" in SOURCES:
                    named[alias.asname or alias.name] = alias.name
    for node in ast.walk(SOURCES[module]):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in named:
            assert not node.attr.startswith("_"), f"{module} uses {named[node.value.id]}.{node.attr}"
