# Every target does its own set-up in .venv; a bare Python 3.11 with pip is enough.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SOURCES := isolate run_isolated swarming server bench tests setup.py
PYTEST_ARGS ?=

.PHONY: help demo test unit check lint bench bench-deps soak fuzz format pyz clean

help: ## Show the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

$(VENV)/.ready: setup.py isolate/__init__.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11")'
	@# A Python without ensurepip (Debian's, without python3-venv) has pip outside of the environment.
	$(PYTHON) -m venv $(VENV) || { $(PYTHON) -m venv --clear --without-pip $(VENV) && \
		$(PYTHON) -m pip --python $(BIN)/python install --quiet pip; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[fast,dev]'
	@touch $@

demo: $(VENV)/.ready ## Server, two bots, this repository's unit tests in two shards
	$(BIN)/python examples/demo.py

test: $(VENV)/.ready ## All tests
	$(BIN)/python -m pytest $(PYTEST_ARGS)

unit: $(VENV)/.ready ## The tests of single modules, of every store, and of the layers
	$(BIN)/python -m pytest tests/unit tests/contract tests/test_layering.py $(PYTEST_ARGS)

lint: $(VENV)/.ready ## ruff and mypy --strict
	$(BIN)/ruff check $(SOURCES) examples
	$(BIN)/ruff format --check $(SOURCES) examples
	$(BIN)/mypy

check: lint test ## What CI runs: lint, layering, all tests

bench: $(VENV)/.ready ## Measure ours beside other tools, in less than 10 minutes
	$(BIN)/python -m bench

PEERS := restic borgbackup ostree casync rclone coreutils tar gcc libc6-dev
bench-deps: ## Install the tools that bench compares with, from Debian's packages
	@command -v apt-get >/dev/null || { echo "There is no apt-get here: install $(PEERS) as this system does it"; exit 1; }
	@SUDO=; [ "$$(id -u)" = 0 ] || SUDO=sudo; \
	$$SUDO apt-get -qq update || echo "The lists of packages are as old as they are"; \
	for peer in $(PEERS); do \
		$$SUDO apt-get -qq install --yes --no-install-recommends $$peer >/dev/null && echo "$$peer: installed" || \
		echo "$$peer: cannot be installed here; bench reports it as absent"; \
	done

soak: $(VENV)/.ready ## For an hour: 200 kills while storing; bots, server and network suffer as SOAK_ARGS says
	$(BIN)/python -m tests.damage.kill_rounds --rounds 200
	$(BIN)/python -m tests.soak $(SOAK_ARGS)

FUZZ := tests/property/test_hostile_*.py tests/property/test_tree_round_trip.py tests/unit/test_old_bytes.py tests/unit/test_cas_wire.py
fuzz: $(VENV)/.ready ## Every parser with 10,000 examples of each property, in 10 minutes or so
	TEST_EXAMPLES=10000 $(BIN)/python -m pytest --durations=0 --durations-min=5 $(FUZZ) $(PYTEST_ARGS)

pyz: $(VENV)/.ready ## One file that runs run_isolated on a bare Python, in dist
	$(BIN)/python -m run_isolated.pyz dist

format: $(VENV)/.ready ## Format the sources
	$(BIN)/ruff format $(SOURCES) examples
	$(BIN)/ruff check --fix $(SOURCES) examples

clean: ## Remove everything these targets made
	rm -rf $(VENV) .demo build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .benchmarks
