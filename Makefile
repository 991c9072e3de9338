# Two commands for a newcomer: `make demo` and `make test`. `make help` lists the rest.
PYTHON ?= python3
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c

VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
# one environment per Python: .venv for the default one, .venv-X.Y where PYTHON is named
VENV := $(if $(filter file,$(origin PYTHON)),.venv,.venv-$(VERSION))
BIN := $(VENV)/bin
# uv compiles no modules; Python then keeps what it compiles, for the tests start many processes
export PYTHONDONTWRITEBYTECODE =
PIP = $(BIN)/python -m pip install --quiet --disable-pip-version-check
STAMP := $(VENV)/.installed
DEMO := runs/demo
RESULTS := runs/results

.DEFAULT_GOAL := help
.PHONY: help install demo test check pytest test-benchmarks results kill-test flip-test test-tfds bench bench-memory lock clean

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "metapers needs Python >= 3.11; name one: make $(MAKECMDGOALS) PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(PIP) uv==0.13.9 && $(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements.lock \
	  || $(PIP) --require-hashes -r requirements.lock  # where uv finds no packages; it takes a tenth of the time
	$(PIP) --no-deps --no-build-isolation -e .
	@touch $@

install: $(STAMP) ## make the environment

demo: $(STAMP) ## train on real MovieLens users period by period, evaluate, write a report
	$(BIN)/python train.py --config=configs/movielens.py --workdir=$(DEMO)
	$(BIN)/python eval.py --workdir=$(DEMO)

test: $(STAMP) ## every check that CI runs
	@$(MAKE) --no-print-directory -j 2 check pytest

check: $(STAMP) ## style, types, import direction
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/pyright --pythonpath $(BIN)/python

pytest: $(STAMP) ## tests, doctests, the notebook
	$(BIN)/python -m pytest -n 2 --dist loadgroup --durations 15

test-benchmarks: $(STAMP) ## tests of the scripts in benchmarks/
	$(BIN)/python -m pytest -n 2 --dist worksteal --durations 15 -m benchmarks tests

results: $(STAMP) ## MovieLens on all five folds and the synthetic drifts, pooled (under an hour on 2 cores)
	$(BIN)/python benchmarks/results.py --workdir=$(RESULTS)

kill-test: $(STAMP) ## real SIGKILLs at random moments, for every member that training can choose
	$(BIN)/python benchmarks/kill_test.py --all

flip-test: $(STAMP) ## single bit flips over the files of a version
	$(BIN)/python benchmarks/flip_test.py

test-tfds: ## prepare movielens/latest-small through TFDS, in an environment of its own with TensorFlow
	$(PYTHON) -m venv .venv-tfds
	.venv-tfds/bin/python -m pip install --quiet --disable-pip-version-check -e '.[tensorflow,movielens,dev]'
	.venv-tfds/bin/python -m pytest tests/test_movielens_tfds.py -q

bench: $(STAMP) ## speed: outer step and adaptation against the yardstick, the peers and the machine
	$(BIN)/python benchmarks/speed.py --make-peers-venv .venv-peers

bench-memory: $(STAMP) ## memory and time of a transformer's outer step, plain, in blocks, rematerialised, mixed
	$(BIN)/python benchmarks/memory.py

lock: ## pin every dependency with hashes, without naming a package host
	$(PYTHON) -m venv .venv-lock
	.venv-lock/bin/python -m pip install --quiet uv
	.venv-lock/bin/uv pip compile pyproject.toml --extra dev --extra notebook --extra movielens --extra shakespeare --universal \
	  --python-version 3.11 --no-emit-index-url --generate-hashes --custom-compile-command 'make lock' -q -o requirements.lock

clean: ## remove environments and caches; runs/ stays
	rm -rf .venv .venv-* .cache .pytest_cache .ruff_cache build dist *.egg-info
