# Everything a newcomer, a developer and CI run. `make demo` is the place to start.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
PIP := $(BIN)/python -m pip --disable-pip-version-check

# A process for each core. One that is done takes half of what another has left, from its end.
PYTEST := $(BIN)/python -m pytest -n auto --dist worksteal

.PHONY: help demo test test-unit test-slow gpu-test check ui format clean

help:
	@echo "make demo    the whole study in miniature, on this machine's CPU"
	@echo "make ui      the Dagster UI on 127.0.0.1:3000"
	@echo "make test-unit  the fast tests: single parts, and simulations of the statistics"
	@echo "make test    all tests but the slow ones and those that need a GPU"
	@echo "make test-slow  whole runs beyond the demo, and heavy simulations"
	@echo "make gpu-test  the tests that need an NVIDIA GPU"
	@echo "make check   ruff and mypy"
	@echo "make format  let ruff mend what it can"
	@echo "make clean   remove the virtual environment and the default home"

# constraints.txt names the exact version of everything; torch first, so that nothing else chooses its build.
$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet "pip>=25.1"
	$(PIP) install --quiet -c constraints.txt torch
	$(PIP) install --quiet -c constraints.txt --group dev -e .
	@touch $@

demo: $(INSTALLED)
	$(BIN)/synthpost demo

ui: $(INSTALLED)
	$(BIN)/synthpost ui

# The long tests come first, the many short ones fill the other cores beside them.
test: $(INSTALLED)
	$(PYTEST) -m "not slow" tests/graph tests/faults tests/unit tests/simulation

test-unit: $(INSTALLED)
	$(PYTEST) -m "not slow" tests/unit tests/simulation

test-slow: $(INSTALLED)
	$(PYTEST) -m slow

gpu-test: $(INSTALLED)
	$(BIN)/python -m pytest tests/gpu -m gpu -rs

check: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) .synthpost
