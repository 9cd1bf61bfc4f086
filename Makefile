# run · test · lab · bench · notebooks. The environment is the active conda or virtual environment if it holds this
# project with its tools, else .venv, made on first use; `make PYTHON=python3.12 …` chooses what .venv is made with.
PYTHON ?= python3
ACTIVE := $(or $(VIRTUAL_ENV),$(CONDA_PREFIX))

define SATISFIED
import sys, tomllib
from importlib.metadata import distribution
from json import loads
from pathlib import Path
try:
    from packaging.requirements import Requirement
    project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
    here = loads(distribution(project["name"]).read_text("direct_url.json"))["url"]
    wanted = project["dependencies"] + project["optional-dependencies"]["lab"] + project["optional-dependencies"][sys.argv[1]]
    wanted = [r for r in map(Requirement, wanted) if r.name != project["name"]]
    print("yes" if here == Path.cwd().as_uri() and all(distribution(r.name).version in r.specifier for r in wanted) else "no")
except Exception:
    print("no")
endef
export SATISFIED

satisfied = $(if $(ACTIVE),$(shell $(ACTIVE)/bin/python -c "$$SATISFIED" $(1) 2>/dev/null))

run: extra := lab
lab: extra := lab
install test bench notebooks: extra := test
BIN = $(if $(filter yes,$(call satisfied,$(extra))),$(ACTIVE)/bin,.venv/bin)

# One shell line per environment: nothing is done when the stamp is newer than pyproject.toml.
environment = \
	if [ "$(BIN)" = .venv/bin ] && { [ ! -e .venv/.$(extra) ] || [ pyproject.toml -nt .venv/.$(extra) ]; }; then \
	  $(if $(ACTIVE),echo "the active environment does not hold vaenb[$(extra)] from this folder: using .venv";) \
	  $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11 …")' && \
	  echo "installing vaenb[$(extra)] into .venv (once; PyTorch is large)" && \
	  $(PYTHON) -m venv .venv && .venv/bin/python -m pip install --quiet --disable-pip-version-check -e ".[$(extra)]" && \
	  touch .venv/.lab .venv/.$(extra); \
	fi

.PHONY: run test lab bench notebooks install
.DEFAULT_GOAL := run

run:
	@$(environment)
	@$(BIN)/python -m vaenb run notebooks/00_start_here.ipynb

# Tests train their models afresh in build/, and leave runs/ and the user's cache alone.
test bench: export VAENB_CACHE := $(CURDIR)/build/models
test bench: export VAENB_RUNS := $(CURDIR)/build/runs
test: export PLOTLY_RENDERER := plotly_mimetype
test:
	@$(environment)
	@$(BIN)/python -m ruff check . && $(BIN)/python -m ruff format --check .
	@$(BIN)/python -m pytest tests notebooks --nbval-lax --nbval-current-env --nbval-cell-timeout=600 \
	  --nbval-sanitize-with tests/nbval_sanitize.cfg --durations=15

lab:
	@$(environment)
	@$(BIN)/python -m jupyter lab notebooks/00_start_here.ipynb

bench:
	@$(environment)
	@$(BIN)/python -m pytest tests/benchmarks -o python_files='bench_*.py' --benchmark-enable --benchmark-group-by=group -s

install:
	@$(environment)

# Execute the notebooks in the quick profile and write them back clean, as they are committed.
notebooks:
	@$(environment)
	@$(BIN)/python -m vaenb publish notebooks/*.ipynb
