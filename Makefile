# From a bare clone: `make demo` and `make test` do everything, in .venv. `make help` lists the rest.
PYTHON ?= python3
BIN := .venv/bin
PARALLEL := -n 2 --dist loadfile  # files, because the tests of one share what takes long to make
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help demo test slow plugins slurm lint fmt bench dist clean

help:  ## this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

.venv/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q -c constraints.txt -e '.[dev]'
	touch $@

demo: .venv/.ready  ## train a small GPT on the sources of the Python library, with 2 ranks, and checkpoint it
	$(BIN)/python -m dcp_runner experiment=demo

test: .venv/.ready  ## the quick tests
	$(BIN)/python -m pytest $(PARALLEL)

slow: .venv/.ready  ## the slower tests
	$(BIN)/python -m pytest -m slow $(PARALLEL) --no-loadscope-reorder --ignore tests/plugins

plugins: .venv/.ready  ## Hydra's own suites against our local launcher; they want a process for themselves
	$(BIN)/python -m pytest -m slow tests/plugins

slurm: .venv/.ready  ## the tests on a real SLURM cluster, which they start on this machine (root on a Debian)
	$(BIN)/python -m pytest -m slurm tests/slurm --ignore tests/slurm/test_slurm_hydra.py
	$(BIN)/python -m pytest -m slurm tests/slurm/test_slurm_hydra.py

lint: .venv/.ready  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

fmt: .venv/.ready  ## format and sort imports
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: .venv/.ready  ## measure saving and loading against the peers (minutes)
	$(BIN)/python benchmarks/save_load.py

dist: .venv/.ready  ## the wheel, in dist/
	$(BIN)/pip wheel -q --no-deps -w dist .

clean:  ## what was built and run
	rm -rf .venv dist build outputs multirun .pytest_cache .mypy_cache .ruff_cache
