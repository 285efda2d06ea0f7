# Works on a bare machine with Python 3.11 or newer; everything is installed into .venv.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: help acceptance-gpu package docs docs-serve demo reference benchmark benchmark-gpu test test-all test-fast test-gpu install install-dev lint type-check test-only format clean

help:  ## what there is to make
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/\t/' | expand -t 16

demo: install  ## distil scikit-learn's digits to one image per class (a few minutes on two CPU cores)
	$(BIN)/distillkit compress digits --ipc 1 --method ast

test: install-dev lint type-check test-only  ## what CI runs

install: .venv/installed  ## into .venv, to use it

install-dev: .venv/installed-dev  ## and to work on it

.venv/installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable '.[all]'
	touch $@

.venv/installed-dev: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@ .venv/installed

lint:  ## ruff and the import contract
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache

type-check:  ## mypy
	$(BIN)/mypy

PARTS := oracle distill training trajectories networks evaluation data stages methods gpu test_precision.py test_public_api.py
test-fast: lint  ## lint and the tests of parts, without whole runs: a couple of minutes
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal -m "not slow and not study" $(addprefix tests/,$(PARTS))

test-only:  ## the tests alone, in as many processes as there are cores: a thread a process: tensors are tiny here, and threads would only wait for each other
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal -m "not study"

test-all: install-dev lint type-check  ## and the tests that run the scripts of examples/ one after the other
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal

test-gpu: install-dev  ## the tests that need a GPU, and where everything lies: arithmetic, graphs, methods (minutes, on one GPU)
	$(BIN)/python -m pytest tests/gpu

RESULTS := examples/benchmarks/results
benchmark: install-dev  ## what the tables of examples/benchmarks were made with (an hour on two CPU cores)
	$(BIN)/python examples/benchmarks/outer_step.py --ipc 10 --inner-steps 10,30 --variants naive,truncated,exact-eager,exact-fp32 --check --json $(RESULTS)/outer_step-cpu-ipc10.json
	$(BIN)/python examples/benchmarks/experts.py --out $(RESULTS)/experts-cpu
	$(BIN)/python examples/benchmarks/evaluation.py --out $(RESULTS)/evaluation-cpu-ipc10
	$(BIN)/python examples/benchmarks/start_to_artifact.py digits --method ast --out $(RESULTS)/start-cpu-digits

reference: install-dev  ## the reference sets, their cards and the tables of docs/results.md (hours on two CPU cores; DATA: local CIFAR-10)
	$(BIN)/python examples/reference/run.py --tier cpu --jobs 2 $(if $(DATA),--data-root $(DATA))
	$(BIN)/python examples/reference/cross.py --tier cpu --jobs 2 $(if $(DATA),--data-root $(DATA))

benchmark-gpu: install-dev  ## the same on one GPU, at the papers' sizes
	$(BIN)/python examples/benchmarks/outer_step.py --ipc 10 --inner-steps 10,30,80 --rounds 5 --check --json $(RESULTS)/outer_step-gpu-ipc10.json
	$(BIN)/python examples/benchmarks/experts.py --together 8 --precision bf16 --steps 50 --out $(RESULTS)/experts-gpu-bf16
	$(BIN)/python examples/benchmarks/experts.py --together 8 --precision tf32 --steps 50 --out $(RESULTS)/experts-gpu-tf32
	$(BIN)/python examples/benchmarks/evaluation.py --rounds 50 --out $(RESULTS)/evaluation-gpu-ipc10
	$(BIN)/python examples/benchmarks/start_to_artifact.py cifar10 --ipc 10 --out $(RESULTS)/start-gpu-cifar10

docs: .venv/installed-docs  ## the documentation site, into build/site
	$(BIN)/mkdocs build --config-file .mkdocs.yml

docs-serve: .venv/installed-docs  ## the same in a browser, while one writes
	$(BIN)/mkdocs serve --config-file .mkdocs.yml

.venv/installed-docs: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
	touch $@

acceptance-gpu: install  ## everything that is meant for a GPU, on this one: what works, how fast, sets (DATA: local CIFAR-10)
	$(BIN)/python examples/gpu/acceptance.py --out runs/acceptance $(if $(DATA),--data-root $(DATA))

package: install-dev  ## sdist and wheel, checked, and the wheel tried without extras in a fresh environment
	rm -rf dist build/package
	$(BIN)/python -m build --outdir dist
	$(BIN)/python -m twine check --strict dist/*
	$(PYTHON) -m venv build/package
	build/package/bin/python -m pip install --quiet dist/*.whl
	cd build && package/bin/python ../tests/repository/smoke_of_wheel.py ../cards/digits-ipc1-ast

format:  ## what ruff mends by itself
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## remove the environment and builds
	rm -rf .venv build dist *.egg-info
