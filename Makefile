# CONTRIBUTING.md has the commands that do the same without make.

PYTHON ?=
VENV := .venv
BIN := $(VENV)/bin
FUZZ_SECONDS ?= 60
COVERED_BY := tests/protocol tests/middleware tests/limits \
	$(patsubst %,tests/test_%.py,addresses close_codes exceptions options request response)
DECLARATIONS := $(shell find src -name '*.pxd')
COMPILED := $(DECLARATIONS) $(wildcard $(DECLARATIONS:.pxd=.py) $(DECLARATIONS:.pxd=.pyx))
export PYTHON

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help demo test docs test-all conformance attack faults soak bench fuzz sanitize coverage mutate lint types format \
	lock audit compile clean services

help: ## Print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/demo.stamp ## Start the demo and print its URL
	$(BIN)/python -m pywsapp demo

test: lint types services compile ## Check style and types, run all tests on both builds (ARGS='-k http' for a part)
	@sh scripts/test.sh $(BIN)/python $(ARGS)

docs: $(VENV)/dev.stamp ## Build the documentation site in build/docs; it needs no network
	@$(BIN)/python scripts/docs.py $(ARGS)

test-all: $(VENV)/dev.stamp ## Run the tests on every CPython 3.10-3.13 here, and with the oldest dependencies
	$(BIN)/python scripts/test_all.py $(ARGS)

conformance: compile ## Run the Autobahn suite, server and client on every backend (ARGS=--quick for less)
	$(BIN)/python conformance/run.py $(ARGS)

attack: compile ## Attack a server while other clients use it (ARGS='fragments --loop uvloop' for a part)
	$(BIN)/python attack/run.py $(ARGS)

faults: compile ## Kill, hang and cut off servers and brokers, and count their messages (ARGS='--broker redis --servers 2')
	$(BIN)/python benchmarks/faults.py $(ARGS)

soak: compile ## Run everything for an hour with faults, and look for leaks and losses (ARGS=--quick: two minutes)
	$(BIN)/python soak/run.py $(ARGS)

bench: ## Compare with other servers (ARGS=--quick: five minutes, ARGS=--long: everything)
	$(or $(PYTHON),python3) benchmarks/run.py $(ARGS)

fuzz: $(VENV)/fuzz.stamp ## Run each fuzz target for FUZZ_SECONDS (default 60; ARGS=frames for one, ARGS=--minimise)
	$(BIN)/python scripts/fuzz.py --seconds $(FUZZ_SECONDS) $(ARGS)

sanitize: $(VENV)/dev.stamp ## Run tests on extension modules with AddressSanitizer and UBSan (ARGS=tests/protocol)
	$(BIN)/python scripts/sanitize.py $(ARGS)

coverage: $(VENV)/dev.stamp ## Check that the tests reach every branch of the protocol core, the values and middleware
	@$(BIN)/coverage erase
	PYWSAPP_PURE=1 $(BIN)/coverage run -m pytest $(COVERED_BY)
	@$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

mutate: $(VENV)/dev.stamp ## Look for changes of the source that no test notices (ARGS='topics --count 20')
	$(BIN)/python scripts/mutate.py $(ARGS)

lint: $(VENV)/dev.stamp ## Check style and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/dev.stamp ## Check types with mypy and basedpyright
	@echo 'mypy and basedpyright, side by side'
	@$(BIN)/mypy & mypy=$$!; status=0; $(BIN)/basedpyright || status=$$?; wait $$mypy || status=$$?; exit $$status

format: $(VENV)/dev.stamp ## Format the code and apply the linter's fixes
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock: ## Write requirements/*.txt, the packages of CI with hashes (ARGS=--upgrade for new versions)
	@sh scripts/lock.sh $(ARGS)

audit: $(VENV)/dev.stamp ## Check the packages of CI: conflicts, licences, new versions, known vulnerabilities
	$(BIN)/python scripts/audit.py $(ARGS)

compile: $(VENV)/dev.stamp ## Compile the extension modules that changed (needs a C compiler)
	@$(BIN)/python hatch_build.py || [ $$? -eq 3 ]

clean: ## Remove the environments, build results and caches
	rm -rf $(VENV) .venvs build dist .coverage* .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find src \( -name '*.so' -o -name '*.pyd' \) -exec rm -f {} +
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

services: $(VENV)/dev.stamp
	@sh scripts/services.sh $(BIN)/python
	@$(BIN)/python conformance/environment.py >/dev/null || echo "CONFORMANCE WILL NOT BE TESTED" >&2

# An environment is up to date while its stamp is newer than pyproject.toml. The demo and the fuzzing have no `compile`
# before them, so their stamps depend on the compiled sources too: an installation compiles them.
$(VENV)/demo.stamp: pyproject.toml hatch_build.py $(COMPILED)
	@sh scripts/venv.sh $(VENV) -e '.[all]'
	@touch $@

$(VENV)/dev.stamp: pyproject.toml requirements/dev.txt
	@LOCK=requirements/dev.txt sh scripts/venv.sh $(VENV) -e .
	@touch $@

$(VENV)/fuzz.stamp: pyproject.toml requirements/dev.txt requirements/fuzz.txt hatch_build.py $(COMPILED)
	@LOCK='requirements/dev.txt requirements/fuzz.txt' sh scripts/venv.sh $(VENV) -e .
	@touch $@
