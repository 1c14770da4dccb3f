# Everything here can be done without make; CONTRIBUTING.md has the commands.

PYTHON ?=
VENV := .venv
BIN := $(VENV)/bin
FUZZ_SECONDS ?= 60
DECLARATIONS := $(shell find src -name '*.pxd')
COMPILED := $(DECLARATIONS) $(wildcard $(DECLARATIONS:.pxd=.py) $(DECLARATIONS:.pxd=.pyx))
export PYTHON

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help demo test test-all conformance bench fuzz lint types format twin clean services

help: ## Print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/demo.stamp ## Start the demo and say where to look at it
	$(BIN)/python -m pywsapp demo

test: lint types services twin ## Lint, types and the whole test suite, compiled and as Python, on every event loop
	@sh scripts/test.sh $(BIN)/python $(ARGS)

test-all: $(VENV)/dev.stamp ## The same suite on every CPython 3.10-3.13 here, and with the oldest dependencies
	$(BIN)/python scripts/test_all.py $(ARGS)

conformance: twin ## The full Autobahn suite, server and client on every backend (ARGS=--quick for less)
	$(BIN)/python conformance/run.py $(ARGS)

bench: ## Measure beside other servers (ARGS=--quick for five minutes, --long for all)
	$(or $(PYTHON),python3) benchmarks/run.py $(ARGS)

fuzz: $(VENV)/fuzz.stamp ## Each fuzz target for FUZZ_SECONDS (default 60)
	$(BIN)/python scripts/fuzz.py --seconds $(FUZZ_SECONDS)

lint: $(VENV)/dev.stamp ## Check style and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/dev.stamp ## Check types
	$(BIN)/mypy

format: $(VENV)/dev.stamp ## Format the code and mend what can be mended by itself
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

twin: $(VENV)/dev.stamp ## Compile what has changed of the compiled twin; without a C compiler there is none
	@$(BIN)/python hatch_build.py || [ $$? -eq 3 ]

clean: ## Remove the environments, build results and caches
	rm -rf $(VENV) .venvs build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find src \( -name '*.so' -o -name '*.pyd' \) -exec rm -f {} +
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

services: $(VENV)/dev.stamp
	@sh scripts/services.sh $(BIN)/python
	@$(BIN)/python conformance/environment.py >/dev/null || echo "CONFORMANCE WILL NOT BE TESTED" >&2

# The stamps are newer than pyproject.toml for as long as what is installed follows it. For the demo and fuzzing
# nothing else compiles what has changed; installing does.
$(VENV)/demo.stamp: pyproject.toml hatch_build.py $(COMPILED)
	@sh scripts/venv.sh $(VENV) -e '.[all]'
	@touch $@

$(VENV)/dev.stamp: pyproject.toml
	@sh scripts/venv.sh $(VENV) -e '.[dev]'
	@touch $@

$(VENV)/fuzz.stamp: pyproject.toml hatch_build.py $(COMPILED)
	@sh scripts/venv.sh $(VENV) -e '.[fuzz]'
	@touch $@
