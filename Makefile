# `make demo` and `make test` work from a fresh clone; both create .venv first. `make help` lists all targets.
PYTHON ?= python3
BIN := .venv/bin
PARALLEL := -n 2 --dist loadfile  # by file, because the tests of a file share fixtures that are slow to create
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help demo test slow plugins slurm lint fmt bench dist clean

help:  ## print this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

.venv/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q -c constraints.txt -e '.[dev]'
	touch $@

demo: .venv/.ready  ## train a small GPT on the sources of the Python library with 2 ranks, with checkpoints
	$(BIN)/python -m dcp_runner experiment=demo

test: .venv/.ready  ## the quick tests
	$(BIN)/python -m pytest $(PARALLEL)

slow: .venv/.ready  ## the slow tests
	$(BIN)/python -m pytest -m slow $(PARALLEL) --no-loadscope-reorder --ignore tests/plugins

plugins: .venv/.ready  ## Hydra's own test suites against our local launcher, which need a process of their own
	$(BIN)/python -m pytest -m slow tests/plugins

slurm: .venv/.ready  ## the tests on a real SLURM cluster that they start on this machine (root on a Debian)
	$(BIN)/python -m pytest -m slurm tests/slurm --ignore tests/slurm/test_slurm_hydra.py
	$(BIN)/python -m pytest -m slurm tests/slurm/test_slurm_hydra.py

lint: .venv/.ready  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

fmt: .venv/.ready  ## format and sort imports
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: .venv/.ready  ## compare saving and loading with other libraries (minutes)
	$(BIN)/python benchmarks/save_load.py

dist: .venv/.ready  ## build the wheel, in dist/
	$(BIN)/pip wheel -q --no-deps -w dist .

clean:  ## remove everything that was built or run
	rm -rf .venv dist build outputs multirun .pytest_cache .mypy_cache .ruff_cache
