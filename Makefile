# run · test (lint, types, unit, nbval) · nightly · lab · paper · bench · notebooks · site. The environment is the active conda or
# virtual environment if it holds this project with its tools, else .venv, made on first use;
# `make PYTHON=python3.12 …` chooses what .venv is made with.
PYTHON ?= python3

# glibc keeps its pages (see vaenb/runs/kernel.py): a sixth less time a training step. What is set already is left.
export MALLOC_MMAP_THRESHOLD_ ?= 1073741824
export MALLOC_TRIM_THRESHOLD_ ?= 8589934592
export GLIBC_TUNABLES ?= glibc.malloc.hugetlb=1

# Exits with 0 where the running Python has this folder's vaenb and everything that the extra asks for.
define SATISFIED
import sys, tomllib
from importlib.metadata import distribution
from json import loads
from pathlib import Path
from packaging.requirements import Requirement
project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
extras = project["optional-dependencies"]
here = loads(distribution(project["name"]).read_text("direct_url.json"))["url"]
def all_of(texts):
    for r in map(Requirement, texts):
        yield from (n for extra in r.extras for n in all_of(extras[extra])) if r.name == project["name"] else [r]
wanted = all_of(project["dependencies"] + extras["lab"] + extras[sys.argv[1]])
missing = [str(r) for r in wanted if distribution(r.name).version not in r.specifier]
sys.exit(here != Path.cwd().as_uri() or bool(missing))
endef
export SATISFIED

# Sets $$bin, and installs where needed: nothing is done when the stamp is newer than pyproject.toml.
define environment
set -e; bin=.venv/bin; active="$${VIRTUAL_ENV:-$$CONDA_PREFIX}"; \
if [ -n "$$active" ] && "$$active/bin/python" -P -c "$$SATISFIED" $(1) 2>/dev/null; then bin="$$active/bin"; \
elif [ ! -e .venv/.$(1) ] || [ pyproject.toml -nt .venv/.$(1) ]; then \
  $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11 …")'; \
  echo "installing vaenb[$(1)] into .venv (once; PyTorch is large)$${active:+, as $$active does not hold it}"; \
  $(PYTHON) -m venv .venv; .venv/bin/python -m pip install --quiet --disable-pip-version-check -e ".[lab,$(1)]"; \
  touch .venv/.lab .venv/.$(1); \
fi
endef

.PHONY: run test lint types unit nbval nightly lab paper bench notebooks site browse install
.DEFAULT_GOAL := run
.NOTPARALLEL:

# The notebooks that `make test` executes and compares with what is committed; `make nightly` runs them all.
TESTED = notebooks/00_start_here.ipynb notebooks/01_classifiers_probe.ipynb notebooks/02_alarms_and_cleaning.ipynb \
  notebooks/03_latent_attacks.ipynb notebooks/04_latent_defences.ipynb notebooks/05_encoder_attacks_hmc.ipynb \
  notebooks/06_attacker_who_knows.ipynb notebooks/08_seatbelt.ipynb notebooks/09_likelihood_and_ood.ipynb \
  notebooks/10_audit_your_own.ipynb

run:
	@$(call environment,lab); "$$bin/python" -m vaenb run notebooks/00_start_here.ipynb

# Tests train their models afresh in build/, and leave runs/ and the user's cache alone.
unit nbval nightly bench: export VAENB_CACHE := $(CURDIR)/build/models
unit nbval nightly bench: export VAENB_RUNS := $(CURDIR)/build/runs
unit nbval: export PLOTLY_RENDERER := plotly_mimetype
# pytest, a kernel and a browser share the cores: idle threads should sleep, not spin
unit nbval nightly: export OMP_WAIT_POLICY := passive

test: lint types unit nbval

lint:
	@$(call environment,test); "$$bin/python" -m ruff check .; "$$bin/python" -m ruff format --check .

types:
	@$(call environment,test); "$$bin/python" -m mypy

unit:
	@$(call environment,test); \
	"$$bin/python" -m pytest tests --numprocesses=logical --maxprocesses=4 --dist=worksteal --durations=15

nbval:
	@$(call environment,test); \
	"$$bin/python" -m pytest $(TESTED) --nbval-lax --nbval-current-env --nbval-cell-timeout=600 \
	  --nbval-sanitize-with tests/nbval_sanitize.cfg

# Every notebook in the quick profile, and the sliders of those that `make test` leaves out: about half an hour.
nightly:
	@$(call environment,test); failed=; \
	for notebook in notebooks/*.ipynb; do \
	  "$$bin/python" -m vaenb run "$$notebook" || failed="$$failed $$notebook"; \
	done; \
	"$$bin/python" -m pytest tests -m nightly || failed="$$failed tests"; \
	if [ -n "$$failed" ]; then echo "failed:$$failed"; exit 1; fi

lab:
	@$(call environment,lab); "$$bin/python" -m jupyter lab notebooks/00_start_here.ipynb

# The paper profile of every notebook on the data at hand, into figures/: hours. Interrupt it, and go on with the same
# command. `make paper ARGS='--dry-run'` only says how long; `--workers`, `--scheduler`, `--device cuda` as in README.
paper: # notebook 10 audits guests
	@$(call environment,audit); "$$bin/python" -m vaenb paper $(ARGS)

bench:
	@$(call environment,test); \
	"$$bin/python" -m pytest tests/benchmarks -o python_files='bench_*.py' --benchmark-enable --benchmark-group-by=group -s

install:
	@$(call environment,test)

# Execute the notebooks in the quick profile and write them back clean, as they are committed.
notebooks:
	@$(call environment,test); "$$bin/python" -m vaenb publish notebooks/*.ipynb

# The pages of the site, into build/site: open its index.html. Their tools, with npm's MathJax, have an environment of
# their own and need no PyTorch.
site:
	@set -e; tools=build/site-tools; \
	if [ ! -e $$tools/installed ] || [ docs/requirements.txt -nt $$tools/installed ]; then \
	  echo "installing what makes the site into $$tools (once)"; \
	  $(PYTHON) -m venv $$tools; \
	  $$tools/bin/python -m pip install --quiet --disable-pip-version-check -r docs/requirements.txt; \
	  npm install --silent --no-audit --no-fund --prefix $$tools mathjax@3.2.2; \
	  touch $$tools/installed; \
	fi; \
	$$tools/bin/python -m sphinx -q -j auto -W --keep-going -c docs -d build/site-trees $(ARGS) . build/site; \
	echo "site  build/site/index.html"

# Open every page of build/site that has a figure in a Chrome, and move its sliders.
browse: site
	@$(call environment,test); "$$bin/python" -m pytest tests/test_site.py -m site
