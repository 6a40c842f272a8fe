# The two commands: `make run` does the main job, `make test` proves it. Both set everything up first.
SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
HERD := .deer-reid/sample-herd

export DEER_REID_HOME ?= $(CURDIR)/.deer-reid
export DAGSTER_HOME ?= $(CURDIR)/.deer-reid/dagster
export DEER_REID_DATA ?= $(CURDIR)/../shared/data
export DAGSTER_DISABLE_TELEMETRY := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help install run test test-slow check format serve doctor clean

help: ## Show this list
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; set PYTHON=/path/to/python3.11"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv || \
	  { echo "python3 cannot make a virtual environment; on Debian: apt-get install python3-venv"; exit 1; }
	@echo "Installing into .venv (a few minutes the first time) ..."
	@$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

install: $(STAMP) ## Set up .venv

run: $(STAMP) ## Identify the deer in PICTURES=folder (default: a synthetic herd)
ifdef PICTURES
	@$(BIN)/deer-reid process "$(PICTURES)" --fallback lite
else
	@$(BIN)/deer-reid sample $(HERD)
	@$(BIN)/deer-reid process $(HERD) --fallback lite --output .deer-reid/who-was-seen.csv
endif
	@echo "Next: 'make run PICTURES=your/folder' for your own pictures, 'make serve' to walk the lineage in the UI."

test: $(STAMP) ## Run the tests
	@$(BIN)/python -m pytest -m "not slow"

test-slow: $(STAMP) ## Run the long tests too
	@$(BIN)/python -m pytest

check: $(STAMP) ## Lint and types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: $(STAMP) ## Format the code
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

serve: $(STAMP) ## Dagster's UI and daemon on 127.0.0.1:3000
	@$(BIN)/deer-reid serve

doctor: $(STAMP) ## Say what is missing
	@$(BIN)/deer-reid doctor

clean: ## Remove the virtual environment (never the home with your data)
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache
