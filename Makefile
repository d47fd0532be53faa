# `make demo` and `make test` set up a virtual environment in .venv and run; nothing else is needed than Python >= 3.10.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

# processes that the tests run in
JOBS ?= 2

.PHONY: demo test test-all check results setup setup-dev clean

demo: setup
	$(BIN)/tag2mask demo

test: setup-dev
	$(BIN)/python -m pytest -m "not slow" -n $(JOBS) --dist loadfile

test-all: setup-dev
	$(BIN)/python -m pytest

check: setup-dev
	$(BIN)/ruff check src tests benchmarks examples
	$(BIN)/ruff format --check src tests benchmarks examples
	$(BIN)/pyright --pythonpath $(BIN)/python

# hours; it goes on where it was interrupted: make results DATA=... RESULTS="--train-split train_small --seeds 0 1 2"
results: setup-dev
	$(if $(DATA),,$(error give the data set: make results DATA=folder))
	$(BIN)/python benchmarks/results.py $(DATA) --out $(or $(RUNS),results) $(RESULTS)

setup: $(VENV)/.ready

setup-dev: $(VENV)/.ready-dev

$(VENV)/.ready: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "tag2mask needs Python 3.10 or newer: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet $(TORCH) || $(BIN)/python -m pip install --quiet 'torch>=2.6' 'torchvision>=0.21'
	$(BIN)/python -m pip install --quiet -e '.[fast,demo]'
	touch $@

$(VENV)/.ready-dev: $(VENV)/.ready
	$(BIN)/python -m pip install --quiet -e '.[dev]'
	touch $@

# The versions the tests ran with; where they do not exist (an older Python), any the package admits.
# A smaller CPU-only build: make test TORCH='torch torchvision --index-url https://download.pytorch.org/whl/cpu'
TORCH ?= torch==2.14.1 torchvision==0.29.1

clean:
	rm -rf $(VENV) demo
