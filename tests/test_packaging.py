"""pyproject.toml and environment.yml agree, and the core needs none of the notebook stack."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import yaml

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
    core = "data training claims models attacks.adaptive attacks.adversarial_training attacks.queries metrics.images"
    core += (
        " metrics.distortion metrics.likelihood metrics.frechet metrics.diversity metrics.disentanglement refit purify"
    )
    core += " attacks.classifier metrics.detection metrics.calibration audit"
    lab = {"plotly", "ipywidgets", "papermill", "kaleido", "lpips", "IPython", "nbformat", "pythae", "diffusers"}
    code = "import sys\n" + "".join(f"import vaenb.{m}\n" for m in core.split()) + f"print(set(sys.modules) & {lab!r})"
    run = subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, capture_output=True, text=True)
    assert run.stdout == "set()\n"


def test_the_package_carries_its_claims():
    assert (ROOT / "vaenb" / "claims.csv").read_text().count("\n") == 52
