# Works on a bare machine with Python 3.11 or newer; everything is installed into .venv.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test install install-dev lint type-check test-only format clean

demo: install  ## distil scikit-learn's digits to one image per class (a few minutes on two CPU cores)
	$(BIN)/distillkit compress digits --ipc 1 --method ast

test: install-dev lint type-check test-only  ## what CI runs

install: .venv/installed

install-dev: .venv/installed-dev

.venv/installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

.venv/installed-dev: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@ .venv/installed

lint:
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache

type-check:
	$(BIN)/mypy

test-only:
	$(BIN)/python -m pytest

format:
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv build dist *.egg-info
