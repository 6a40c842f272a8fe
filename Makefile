# The two commands: `make run` does the main job, `make test` proves it. Both set everything up first.
SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
# The drawn sample herd has a home of its own, so that drawn deer never stand among real ones.
OWN_HOME := $(CURDIR)/.deer-reid
SAMPLE_HOME := $(OWN_HOME)/sample
USED_HOME = $(if $(or $(PICTURES),$(wildcard $(OWN_HOME)/postgres)),$(OWN_HOME),$(SAMPLE_HOME))
HOMES = DEER_REID_HOME="$${DEER_REID_HOME:-$(USED_HOME)}" DAGSTER_HOME="$${DAGSTER_HOME:-$${DEER_REID_HOME:-$(USED_HOME)}/dagster}"
SAMPLE_HOMES = DEER_REID_HOME="$${DEER_REID_HOME:-$(SAMPLE_HOME)}" DAGSTER_HOME="$${DAGSTER_HOME:-$${DEER_REID_HOME:-$(SAMPLE_HOME)}/dagster}"
PORT ?= 3000
NIGHT ?= 5000
# Tests run in as many processes, a file never in two; each has a database server of its own.
WORKERS ?= 2

export DEER_REID_DATA ?= $(CURDIR)/../shared/data
export DAGSTER_DISABLE_TELEMETRY := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help install run test test-slow check format serve benchmark benchmark-night gpu-check doctor clean

help: ## Show this list
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

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
ifneq ($(strip $(PICTURES)),)
	@$(HOMES) $(BIN)/deer-reid process "$(PICTURES)" --fallback lite
	@echo "Next: 'make serve' to walk the lineage in the UI, '$(BIN)/deer-reid --help' for the rest."
else
	@$(BIN)/deer-reid sample $(SAMPLE_HOME)/herd
	@$(SAMPLE_HOMES) $(BIN)/deer-reid process $(SAMPLE_HOME)/herd --fallback lite --output $(SAMPLE_HOME)/who-was-seen.csv
	@echo "Next: 'make run PICTURES=your/folder' for your own pictures, 'make serve' to walk the lineage in the UI."
	@echo "The sample has a home of its own; for other commands on it: export DEER_REID_HOME=$(SAMPLE_HOME)"
endif

test: $(STAMP) ## Run the tests
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" -n $(WORKERS) --dist loadfile --no-loadscope-reorder

test-slow: $(STAMP) ## Run the long tests too
	@$(BIN)/python -m pytest

check: $(STAMP) ## Lint and types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: $(STAMP) ## Format the code
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

serve: $(STAMP) ## Dagster's UI and daemon on 127.0.0.1:3000 (PORT=N for another)
	@$(HOMES) $(BIN)/deer-reid serve --port $(PORT)

benchmark: $(STAMP) ## Measure speed on this machine (docs/performance.md); run it while nothing else runs
	@$(HOMES) $(BIN)/deer-reid benchmark --fallback lite

benchmark-night: $(STAMP) ## Process NIGHT=5000 drawn pictures in a home of their own
	@$(HOMES) $(BIN)/deer-reid benchmark --night $(NIGHT) --fallback lite

# Installs nothing, so that it runs on a machine that has torch, torchvision, numpy and pillow alone.
gpu-check: ## Check the inference engine on a CUDA card (ARGS="--json FILE --vram-mb N")
	@$(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON)) -m deer_reid_pipeline.vision.engine.gpu_check $(ARGS)

doctor: $(STAMP) ## Say what is missing
	@$(HOMES) $(BIN)/deer-reid doctor

clean: ## Remove the virtual environment (never the home with your data)
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache
