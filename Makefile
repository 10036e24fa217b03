# Each target sets .venv up first, where it is missing or older than the requirements.
# Another interpreter to make it with: make film PYTHON=python3.12. Options for JupyterLab: make lab LAB=--no-browser

VENV := .venv
PY := $(VENV)/bin/python
LAB :=
READY := $(VENV)/.ready
IN_RANGE := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))
# Without PYTHON=..., the first of these names that is a Python we can use.
PYTHON ?= $(shell for p in python3 python3.12 python3.11; do \
	$$p -c '$(IN_RANGE)' 2>/dev/null && echo $$p && exit; done; echo python3)

.DEFAULT_GOAL := help
.PHONY: help film test lint types docs wheel lab pages evidence vbench bench clean filter

help: ## this list
	@echo "cinelab, a workbench for autoregressive multi-shot video models"
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1	\2/p' $(MAKEFILE_LIST)

film: $(READY) filter ## direct the first film from experiments/screenplays into results/
	@$(VENV)/bin/cinelab film

test: $(READY) filter ## pass every test, the notebooks' smoke runs included
	@$(PY) -m pytest -q -n auto

lint: $(READY) ## check the formatting and the rules of ruff
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/ruff check .

types: $(READY) ## check the types with mypy
	@$(PY) -m mypy

docs: $(READY) ## build the documentation into site/, every link checked
	@$(VENV)/bin/mkdocs build --strict --quiet

# A folder build/ of an older build would leave its files in the wheel.
wheel: $(READY) ## build the wheel into dist/
	@rm -rf build
	@$(PY) -m build --wheel --no-isolation

lab: $(READY) filter ## open JupyterLab on the notebooks
	@$(VENV)/bin/cinelab lab . $(if $(LAB),-- $(LAB))

pages: $(READY) ## run the tour and two more notebooks into pages for a browser, results/pages
	@$(PY) -m cinelab.lab.reports.pages

evidence: $(READY) ## measure everything behind the pages, and write their tables; resumable
	@$(VENV)/bin/cinelab evidence $(if $(ONLY),--only $(ONLY))

vbench: $(READY) ## set VBench up in an environment of its own (about 2 GB)
	@$(VENV)/bin/cinelab eval setup vbench

bench: $(READY) ## measure frames per second, latency and memory
	@$(VENV)/bin/cinelab bench

# Git is told what .gitattributes names, so that running a notebook does not change it.
filter:
	@git config filter.plain-notebook.clean "if [ -x $(PY) ]; then $(PY) -I cinelab/lab/plain_notebook.py; else cat; fi" 2>/dev/null || true

clean: ## remove caches and build leftovers; .venv and results/ stay
	@rm -rf build dist site *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
	@find cinelab tests notebooks benchmarks -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true

# pip is to say its errors alone: one ignored location makes 90 lines of warnings, in which they drown.
# The stamp is written last, so an interrupted setup is taken up again by the same command.
$(READY): pyproject.toml constraints.txt
	@$(PY) -c 'import pip; $(IN_RANGE)' 2>/dev/null || { \
	  $(PYTHON) -c '$(IN_RANGE)' 2>/dev/null || { \
	    echo "cinelab needs Python 3.11 or 3.12 and '$(PYTHON)' is $$($(PYTHON) -V 2>/dev/null || echo not there); install one and name it: make film PYTHON=python3.12" >&2; exit 1; }; \
	  echo "Creating $(VENV) with $$($(PYTHON) -V)."; \
	  $(PYTHON) -m venv --clear $(VENV) || { \
	    echo "'$(PYTHON)' could not create $(VENV); see the lines above (on Debian and Ubuntu, install python3-venv)." >&2; exit 1; }; }
	@echo "Installing cinelab and its pinned requirements into $(VENV): once, a few minutes and a few GB (torch is most of it)."
	@$(PY) -m pip install --quiet --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]' || { \
	  echo "pip could not install the requirements; see its lines above, check the network and the free disk, then run the same command again." >&2; exit 1; }
	@$(PY) -c 'import torch' || { \
	  echo "torch is installed and does not import; see the lines above, or remove $(VENV) and run the same command again." >&2; exit 1; }
	@touch $@
