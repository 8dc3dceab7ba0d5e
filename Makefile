# Every target alone makes .venv and installs what it needs; a stamp keeps that from repeating.
# PYTHON chooses the interpreter (3.11 or newer, with venv); otherwise the first fitting one is used.

PYTHON ?= $(shell for python in python3 python3.14 python3.13 python3.12 python3.11 python; do \
	$$python -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& echo $$python && break; done)

VENV := .venv
BIN := $(CURDIR)/$(VENV)/bin
READY := $(VENV)/.installed
TYPED := build/typed
# Tests run in a process a core, up to 8; whoever is done takes over what others have left.
WORKERS := --numprocesses auto --maxprocesses 8 --dist worksteal
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

.PHONY: demo test test-slow bench lint clean

demo: $(READY)
	@$(BIN)/python examples/compile_resnet50.py

test: lint
	@$(BIN)/python -m pytest -m "not slow" $(WORKERS)

test-slow: lint
	@$(BIN)/python -m pytest $(WORKERS)

bench: $(READY)
	@$(BIN)/python benchmarks/kernels.py --record
	@$(BIN)/python benchmarks/models.py --record

# mypy does not follow an editable install to the root folders, so it is shown a tree of links in
# which frontends and backends lie where they are installed.
lint: $(READY)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@rm -rf $(TYPED) && mkdir -p $(TYPED)/cnnir
	@ln -s "$(CURDIR)"/cnnir/* "$(CURDIR)/frontends" "$(CURDIR)/backends" $(TYPED)/cnnir
	@cd $(TYPED) && $(BIN)/mypy --config-file "$(CURDIR)/pyproject.toml" \
		--cache-dir "$(CURDIR)/.mypy_cache" -p cnnir

$(READY): pyproject.toml
	@test -n "$(PYTHON)" || { echo "no Python >= 3.11 with venv found; name one by PYTHON=" >&2; exit 1; }
	@echo "installing into $(VENV) ..."
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "$(PYTHON) is older than 3.11" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(PIP) install -e ".[test]"
	@touch $(READY)

clean:
	@rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis demo-out *.egg-info
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
