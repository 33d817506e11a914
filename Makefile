# The verbs of this project. `make` alone lists them.
.DEFAULT_GOAL := help
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
export HF_HUB_OFFLINE ?= 1
export TOKENIZERS_PARALLELISM ?= false

.PHONY: help
help: ## list the verbs
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/make \1\t\2/' | expand -t 14

$(STAMP): pyproject.toml constraints.txt
	@test -x $(BIN)/python || { command -v $(PYTHON) >/dev/null || { echo "need $(PYTHON); set PYTHON=/path/to/python" >&2; exit 1; }; $(PYTHON) -m venv $(VENV); }
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@# Its files are those of docstring-parser, which haystack brings and pydoclint cannot use; it serves both.
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps --force-reinstall docstring_parser_fork
	@touch $@

.PHONY: install
install: $(STAMP) ## create .venv and install everything that development needs

.PHONY: demo
demo: $(STAMP) ## the whole road on this machine's own documentation, in minutes
	$(BIN)/hyperseek demo

.PHONY: test
test: export OMP_NUM_THREADS ?= 1
test: $(STAMP) ## lint, types, documentation rules, tests
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/pydoclint src
	$(BIN)/pytest --numprocesses auto --maxprocesses 4 --dist worksteal

.PHONY: reproduce
reproduce: $(STAMP) ## measure a sample of the published results again, and say which row drifted; needs HYPERSEEK_DATA
	$(BIN)/hyperseek evaluate --suite small --output build/reproduce --check results/small \
	  --systems minilm+bm25 --systems linear --collections cisi --collections cranfield --collections emanual

.PHONY: docs
docs: export NO_MKDOCS_2_WARNING ?= 1
docs: $(STAMP) ## the guides and the reference as a site in build/site, which needs no network
	$(BIN)/python -m typer hyperseek.cli utils docs --name hyperseek --output docs/commands.md
	$(BIN)/mkdocs build --quiet

.PHONY: format
format: $(STAMP) ## rewrite the code in the project's format
	$(BIN)/ruff check --fix
	$(BIN)/ruff format
