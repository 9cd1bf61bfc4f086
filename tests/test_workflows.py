"""What the workflows, the hooks and CONTRIBUTING.md name exists."""

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
TARGETS = set(re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE).group(1).split())
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()


def jobs(path: Path) -> list[dict]:
    return list(yaml.safe_load(path.read_text())["jobs"].values())


def test_the_makefile_has_a_rule_for_each_target():
    rules = re.findall(r"^(\w+):(?! export)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert sorted(rules) == sorted(TARGETS)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_calls_targets_that_exist(path):
    for job in jobs(path):
        commands = [step["run"].split() for step in job["steps"] if "run" in step]
        assert commands
        for make, *targets in commands:
            assert make == "make" and set(targets) <= TARGETS


def test_pushes_run_all_that_make_test_runs():
    called = set()
    for job in jobs(ROOT / ".github" / "workflows" / "tests.yml"):
        for step in job["steps"]:
            called.update(step.get("run", "").split())
    (prerequisites,) = re.findall(r"^test: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(prerequisites.split()) <= called


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_models_are_cached_by_the_sources_that_make_them(path):
    for job in jobs(path):
        if [step["run"] for step in job["steps"] if "run" in step] == ["make site"]:  # it trains nothing
            continue
        (key,) = (step["with"]["key"] for step in job["steps"] if step.get("uses", "").startswith("actions/cache@"))
        sources = re.findall(r"'(.*?)'", key)
        assert sources == ["vaenb/**/*.py"]
        assert all(list(ROOT.glob(source)) for source in sources)


def test_the_hooks_run_ruff_over_notebooks_too():
    (ruff,) = (
        r for r in yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"] if "ruff" in r["repo"]
    )
    assert [hook["id"] for hook in ruff["hooks"]] == ["ruff-check", "ruff-format"]
    assert all("jupyter" in hook["types_or"] for hook in ruff["hooks"])


def test_contributing_names_files_and_targets_that_exist():
    links = re.findall(r"\]\(((?!http|#)[^)#]+)", CONTRIBUTING)
    paths = re.findall(r"`((?:vaenb|tests|notebooks|figures)/[\w./]*)`", CONTRIBUTING)
    assert paths and [path for path in links + paths if not (ROOT / path).exists()] == []
    assert set(re.findall(r"`make (\w+)", CONTRIBUTING)) <= TARGETS
