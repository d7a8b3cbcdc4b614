# Everything a newcomer, a developer and CI run. `make demo` is the place to start.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
INSTALL := $(BIN)/python scripts/install.py
# The address of an index with another build of torch, such as the one for CPUs, a tenth of the size (see README.md).
TORCH_INDEX ?=

# A process for each core. One that is done takes half of what another has left, from its end.
PYTEST := $(BIN)/python -m pytest -n auto --dist worksteal

.PHONY: help demo test test-unit test-slow gpu-test check resolve ui format clean

help:
	@echo "make demo    the whole study in miniature, on this machine's CPU"
	@echo "make ui      the Dagster UI on 127.0.0.1:3000"
	@echo "make test-unit  the fast tests, of single parts"
	@echo "make test    all tests but the slow ones and those that need a GPU"
	@echo "make test-slow  whole runs beyond the demo, and heavy simulations"
	@echo "make gpu-test  the tests that need an NVIDIA GPU"
	@echo "make check   ruff and mypy"
	@echo "make resolve  whether constraints.txt resolves for every supported Python that is installed"
	@echo "make format  format the code and fix what ruff can fix"
	@echo "make clean   remove the virtual environment and the default home"

# constraints.txt pins every version; torch comes first, so that no other package chooses its build.
$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c "import sys; v = sys.version.split()[0]; (3, 11) <= sys.version_info < (3, 14) or sys.exit(f'Python {v} is not supported; name one of 3.11 to 3.13: make PYTHON=python3.12 ...')"
	@echo "Making the virtual environment $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip --disable-pip-version-check install --quiet "pip>=25.1" 2>$(VENV)/install.log
	@echo "Installing PyTorch$(if $(TORCH_INDEX), from $(TORCH_INDEX),: about 3 GB with CUDA; TORCH_INDEX takes the CPU build (README.md))"
	@$(INSTALL) --index "$(TORCH_INDEX)" -c constraints.txt torch
	@echo "Installing Dagster, transformers and what else constraints.txt names"
	@$(INSTALL) -c constraints.txt --group dev -e .
	@touch $@

demo: $(INSTALLED)
	$(BIN)/synthpost demo

ui: $(INSTALLED)
	$(BIN)/synthpost ui

# The long tests come first, the many short ones fill the other cores beside them.
test: $(INSTALLED)
	$(PYTEST) -m "not slow" tests/integration tests/faults tests/unit tests/simulation

test-unit: $(INSTALLED)
	$(PYTEST) -m "not slow" tests/unit

test-slow: $(INSTALLED)
	$(PYTEST) -m slow

gpu-test: $(INSTALLED)
	$(BIN)/python -m pytest tests/gpu -m gpu -rs

check: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

resolve: $(INSTALLED)
	$(BIN)/python scripts/resolve.py

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) .synthpost
