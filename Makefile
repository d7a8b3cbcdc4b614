# Everything a newcomer, a developer and CI run. `make demo` is the place to start.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: help demo test gpu-test check ui format clean

help:
	@echo "make demo    the whole study in miniature, on this machine's CPU"
	@echo "make ui      the Dagster UI on 127.0.0.1:3000"
	@echo "make test    all tests"
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

# What needs one core goes by as many as there are; the rest has processes of its own.
test: $(INSTALLED)
	$(BIN)/python -m pytest -n auto tests/unit tests/simulation
	$(BIN)/python -m pytest tests/faults tests/graph

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
