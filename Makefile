# Every target sets up what it needs in .venv; python3 (3.11 or newer) and make are all a fresh machine must have.
# PYTHON=python3.12 chooses the interpreter, PIP_ARGS="--extra-index-url ..." is passed to pip.

PYTHON ?= python3
PIP_ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS)
DATA ?= ../shared/data
NOTEBOOKS = $(wildcard tutorials/*.ipynb)
BENCHMARKS = $(filter-out benchmarks/_%,$(wildcard benchmarks/*.py))

.DEFAULT_GOAL := help
.PHONY: help demo test lint docs tutorials benchmarks benchmarks-short clean

help:
	@echo "make demo              run the demo on a simulated slide"
	@echo "make test              run the tests"
	@echo "make lint              check style and format"
	@echo "make docs              build the documentation into docs/_build/html"
	@echo "make tutorials         rerun every notebook of tutorials/ in its short form"
	@echo "make benchmarks        rerun every benchmark on DATA=../shared/data and rewrite the tables: hours"
	@echo "make benchmarks-short  run every benchmark in its short form"
	@echo "make clean             remove .venv and everything built"

demo: $(VENV)/.test
	$(BIN)/python tutorials/demo.py

test: $(VENV)/.test
	$(BIN)/python -m pytest -n auto

lint: $(VENV)/.lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

docs: $(VENV)/.docs
	$(BIN)/python -m sphinx -W -n --keep-going docs docs/_build/html

tutorials: $(VENV)/.docs
	@scratch=$$(mktemp -d) && trap 'rm -rf "$$scratch"' EXIT && for notebook in $(NOTEBOOKS); do \
	    echo "Running $$notebook"; \
	    PATH="$(CURDIR)/$(BIN):$$PATH" STIMAGE_FAST=1 $(BIN)/jupyter nbconvert --to notebook --execute \
	        --ExecutePreprocessor.timeout=1200 --output-dir "$$scratch" "$$notebook" || exit 1; \
	done

benchmarks: $(VENV)/.test
	$(BIN)/python benchmarks/scoreboard.py --data $(DATA)
	$(BIN)/python benchmarks/picture.py --data $(DATA)
	$(BIN)/python benchmarks/domains.py train --data $(DATA)
	$(BIN)/python benchmarks/domains.py score --data $(DATA)
	$(BIN)/python benchmarks/paper_protocol.py --data $(DATA)
	$(BIN)/python benchmarks/regions.py --data $(DATA) --places 8 --seeds 0 1
	$(BIN)/python benchmarks/regions.py --data $(DATA) --unseen
	$(BIN)/python benchmarks/units.py --data $(DATA)
	$(BIN)/python benchmarks/paper_tables.py --data $(DATA)
	$(BIN)/python benchmarks/repeatability.py --data $(DATA)
	$(BIN)/python benchmarks/region_leaderboard.py --data $(DATA)
	$(BIN)/python benchmarks/checkpoint_worth.py --data $(DATA)
	$(BIN)/python benchmarks/corpus_curve.py --data $(DATA)
	$(BIN)/python benchmarks/alignment.py --data $(DATA)
	$(BIN)/python benchmarks/alignment_ablation.py --data $(DATA)
	$(BIN)/python benchmarks/encoders.py
	$(BIN)/python benchmarks/simulated_tissue.py --data $(DATA)
	$(BIN)/python benchmarks/multi_scale.py --data $(DATA)
	for benchmark in sampling training_step corpus embedding reconstruction memory whole_slide bare_image uses; do $(BIN)/python benchmarks/$$benchmark.py || exit 1; done
	$(BIN)/python benchmarks/_tables.py

benchmarks-short: $(VENV)/.test
	@for benchmark in $(BENCHMARKS); do \
	    echo "Running $$benchmark --short"; $(BIN)/python "$$benchmark" --short || exit 1; \
	done

clean:
	rm -rf $(VENV) build dist docs/_build docs/api/generated .pytest_cache .ruff_cache .hypothesis
	find src tests benchmarks tutorials docs -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.python:
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) was not found: install Python 3.11 or newer." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo "stimage needs Python 3.11 or newer, but $(PYTHON) is $$($(PYTHON) -V 2>&1): choose another with make PYTHON=..." >&2; \
	    exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
	    echo "$(PYTHON) cannot make virtual environments: on Debian or Ubuntu, apt install python3-venv." >&2; exit 1; }
	@echo "Creating $(VENV) with $$($(PYTHON) -V)"
	@$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.test: pyproject.toml | $(VENV)/.python
	@echo "Installing stimage and what its tests need into $(VENV): several GB with PyTorch, once"
	@$(INSTALL) -e ".[test,image,spatialdata]"
	@touch $@

$(VENV)/.docs: pyproject.toml | $(VENV)/.python
	@echo "Installing stimage and what its documentation needs into $(VENV)"
	@$(INSTALL) -e ".[docs]"
	@touch $@

$(VENV)/.lint: | $(VENV)/.python
	@echo "Installing ruff into $(VENV)"
	@$(INSTALL) "ruff>=0.11"
	@touch $@
