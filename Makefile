# Two commands: `make quickstart` sets up and runs the main job, `make test` sets up and passes the tests.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: quickstart test test-long browser test-browser servers test-servers unit lint clean

quickstart: $(READY)
	$(BIN)/python -m orchestrator run quickstart

test: $(READY)
	$(BIN)/python -m pytest -m "not servers and not long and not browser" -n 2 --dist worksteal

test-long: $(READY) # students of several processes, students killed, the benchmark of the papers' claims
	$(BIN)/python -m pytest -m long -n 2 --dist worksteal

browser: $(READY) # a Chromium, where there is none
	tests/browser/install $(BIN)

test-browser: $(READY) browser # the inspector's page, in it
	$(BIN)/python -m pytest tests/browser

servers: # real vLLM and SGLang servers for a CPU, in .servers
	PYTHON=$(PYTHON) tests/servers/install .servers

test-servers: $(READY) servers
	$(BIN)/python -m pytest tests/servers

unit: $(READY)
	$(BIN)/python -m pytest tests/unit

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "peripatos needs Python 3.11 or newer: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[dev]'
	touch $(READY)

clean:
	rm -rf .venv build dist .pytest_cache .ruff_cache .hypothesis
