# The one list of commands; `make help` prints it. CI, pre-commit and the README only call these.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
export MPLBACKEND ?= Agg

.DEFAULT_GOAL := help
.PHONY: help install demo demo-text ablation test test-all test-gpu check lint types imports format notebooks clean

help:  ## print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(READY)  ## a virtual environment in .venv with everything that demo and tests need

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "pixelgen needs Python 3.10 or newer: make PYTHON=/path/to/python3")'
	@echo "setting up $(VENV): some minutes, about 6 GB"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]' -c constraints.txt
	@touch $@

demo: $(READY)  ## train on drawn shapes for about six minutes; pictures and scores in runs/demo
	$(BIN)/python -m pixelgen.fit --config configs/demo.yaml

demo-text: $(READY)  ## train text-to-shapes for about twelve minutes; pictures and scores in runs/demo_text
	$(BIN)/python -m pixelgen.fit --config configs/demo_text.yaml

ablation: $(READY)  ## the paper's ablation on drawn shapes, twelve runs of two minutes; table in runs/ablation
	$(BIN)/python benchmarks/ablation.py

test: $(READY)  ## the default tests, under two minutes on two cores
	$(BIN)/python -m pytest

test-all: $(READY)  ## the slow tests too
	$(BIN)/python -m pytest -m 'not gpu'

test-gpu: $(READY)  ## the tests that need a CUDA device
	$(BIN)/python -m pytest -m gpu

check: lint imports types test  ## everything CI checks

lint: $(READY)  ## style and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)  ## strict mypy
	$(BIN)/mypy

imports: $(READY)  ## rooms of the house: imports go down only
	$(BIN)/lint-imports

format: $(READY)  ## rewrite files in the project's format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

notebooks: $(READY)  ## generate notebooks/*.ipynb from their scripts
	$(BIN)/jupytext --to ipynb notebooks/*.py

clean:  ## delete the virtual environment and caches; runs stay
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
