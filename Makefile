PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test test-all kills mutants check clean

demo: $(READY)  ## generate pictures, train FCN-8s on them, score, predict, report: runs/demo
	$(BIN)/fullyconv demo --out runs/demo

test: $(READY)  ## the fast suite
	$(BIN)/pytest -n 2 -m "not slow"

test-all: $(READY)  ## the fast suite and the long tests
	$(BIN)/pytest -n 2

kills: $(READY)  ## kill runs 200 times at random instants and resume them: all must end with the same weights
	KILLS=200 $(BIN)/pytest tests/train/test_kills.py --log-cli-level=WARNING

mutants: $(READY)  ## change the code in one place at a time: a test has to notice (hours; MUTANTS="geometry tiles --most 60")
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[mutants]'
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/mutants.py $(MUTANTS)

check: $(READY)  ## format, lint, types, import contract
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "fullyconv needs Python 3.11 or newer: make PYTHON=python3.12 …")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $(READY)

clean:
	rm -rf $(VENV) runs
