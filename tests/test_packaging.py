"""pyproject.toml and environment.yml agree, and the core needs none of the notebook stack."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import yaml

from tests.test_house import FLOOR, SOURCES, room

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
ENVIRONMENT = yaml.safe_load((ROOT / "environment.yml").read_text())


def test_the_conda_environment_installs_this_package_with_existing_extras():
    (pip,) = [d["pip"] for d in ENVIRONMENT["dependencies"] if isinstance(d, dict)]
    (line,) = pip
    extras = re.fullmatch(r"-e \.\[([\w,]+)\]", line).group(1).split(",")
    assert set(extras) == set(PROJECT["optional-dependencies"])


def test_the_conda_environment_repeats_no_version_but_pythons():
    plain = [d for d in ENVIRONMENT["dependencies"] if isinstance(d, str)]
    assert [d for d in plain if re.search(r"[<>=]", d)] == [f"python{PROJECT['requires-python']}"]
    assert ENVIRONMENT["name"] == PROJECT["name"]


def test_the_core_imports_without_the_notebook_stack():
    core = [module for module in SOURCES if module != "vaenb" and FLOOR[room(module)] <= FLOOR["claims"]]
    lab = {"plotly", "ipywidgets", "papermill", "kaleido", "lpips", "IPython", "nbformat", "pythae", "diffusers"}
    code = f"import sys, {', '.join(core)}\nprint(set(sys.modules) & {lab!r})"
    run = subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, capture_output=True, text=True)
    assert run.stdout == "set()\n"


def test_the_package_carries_its_claims_and_says_that_it_is_typed():
    carried = {path.name for path in (ROOT / "vaenb" / "claims").glob("*.csv")}
    assert carried == {"claims.csv", "cells.csv", "images.csv"}
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["vaenb"]
    assert {"claims/*.csv", "py.typed"} <= set(patterns)
    assert (ROOT / "vaenb" / "py.typed").is_file()
