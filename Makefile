PYTHON ?= python3
VENV ?= .venv
# Extra arguments for every pip call, for instance an index that has torch built for your accelerator.
PIP_ARGS ?=
TEST_EXTRAS ?= vlm,generation,dev
PYTEST_ARGS ?=
DEMO ?= grpo
DEMO_OUT ?= runs/demo
BENCH_ARGS ?=

BIN := $(VENV)/bin
CHECKED := $(wildcard src tests benchmarks)

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
.PHONY: help setup demo test slow check format bench docs clean

# One line for each package fetched; errors and warnings go to stderr untouched.
install = $(BIN)/python -m pip install $(PIP_ARGS) -c constraints.txt -e '$(1)' | awk '/^Collecting /{print "  " $$2; fflush()}'

help: ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
	  || { echo "saccade needs Python 3.11, 3.12 or 3.13; choose one with: make PYTHON=python3.12" >&2; exit 1; }
	@echo "Creating $(VENV)"
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.demo-ready: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing saccade[vlm] (the first time this fetches torch and takes some minutes)"
	@$(call install,.[vlm])
	@touch $@

$(VENV)/.test-ready: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing saccade[$(TEST_EXTRAS)] (the first time this fetches torch and takes some minutes)"
	@$(call install,.[$(TEST_EXTRAS)])
	@touch $@

$(VENV)/.docs-ready: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing saccade[docs]"
	@$(call install,.[docs])
	@touch $@

setup: $(VENV)/.test-ready ## create .venv with everything the tests need

demo: $(VENV)/.demo-ready ## train the demo and write its report
	$(BIN)/saccade train $(DEMO) --out $(DEMO_OUT) $(if $(wildcard $(DEMO_OUT)/config.yaml),--resume)
	@echo "Report: $$($(BIN)/saccade report $(DEMO_OUT))"

test: $(VENV)/.test-ready ## lint, layers and the default test suite
	$(BIN)/ruff check $(CHECKED)
	$(BIN)/ruff format --check $(CHECKED)
	$(BIN)/lint-imports --no-cache
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 $(PYTEST_ARGS)

slow: $(VENV)/.test-ready ## learning tests, a few minutes each
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m slow --timeout 1200 $(PYTEST_ARGS)

check: $(VENV)/.test-ready ## static checks only, types and spelling included
	$(BIN)/ruff check $(CHECKED)
	$(BIN)/ruff format --check $(CHECKED)
	$(BIN)/lint-imports --no-cache
	$(BIN)/codespell src tests docs *.md
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/pyright --pythonpath $(BIN)/python -p pyright-strict.json

format: $(VENV)/.test-ready ## apply ruff's fixes and formatting
	$(BIN)/ruff check --fix $(CHECKED)
	$(BIN)/ruff format $(CHECKED)

bench: $(VENV)/.test-ready ## steps of GRPO against TRL's, of diffusion against ddpo-pytorch's and flow_grpo's
	$(BIN)/python benchmarks/vlm_grpo_step.py --suite --json benchmarks/vlm_grpo_step.json --pip-args '$(PIP_ARGS)' $(BENCH_ARGS)
	$(BIN)/python benchmarks/diffusion_rl_step.py --json benchmarks/diffusion_rl_step.json

docs: $(VENV)/.docs-ready ## build the text book into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

clean: ## remove the environment, caches and built files; runs/ stays
	rm -rf $(VENV) build dist site .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
