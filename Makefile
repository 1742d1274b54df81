PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
READY_DOCS := $(VENV)/.ready-docs

# Tests that send signals to their own process: in one that thousands of others ran in before, a signal ended the process.
INTERRUPTED := tests/train tests/hsi/test_fitting.py tests/predict/test_work.py

# A file's tests stay together (loadfile): its fixtures are made once, and two processes do not compile the same kernels.
# A process that crashes ends the suite: xdist waits without end where a test crashes the next one, too.
WORKERS := -n 2 --dist loadfile --max-worker-restart 0

.PHONY: bench coverage demo test test-all kills mutants check clean smoke docs

demo: $(READY)  ## generate pictures, train FCN-8s on them, score, predict, report: runs/demo
	$(BIN)/fullyconv demo --out runs/demo

test: $(READY)  ## the fast suite
	$(BIN)/pytest $(WORKERS) -m "not slow" $(INTERRUPTED)
	$(BIN)/pytest $(WORKERS) -m "not slow" $(addprefix --ignore=,$(INTERRUPTED))

coverage: $(READY)  ## the fast suite, with the share of lines that it runs: a third slower, for being watched
	$(BIN)/pytest $(WORKERS) -m "not slow" --cov --cov-report= $(INTERRUPTED)
	$(BIN)/pytest $(WORKERS) -m "not slow" --cov --cov-append --cov-report=term $(addprefix --ignore=,$(INTERRUPTED))

test-all: $(READY) $(READY_DOCS)  ## the fast suite and the long tests, notebooks too: once a week
	$(BIN)/pytest -n 2 --max-worker-restart 0

kills: $(READY)  ## kill runs 200 times at random instants and resume them: all must end with the same weights
	KILLS=200 $(BIN)/pytest tests/train/test_kills.py --log-cli-level=WARNING

mutants: $(READY)  ## change the code in one place at a time: a test has to notice (hours; MUTANTS="geometry tiles --most 60")
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[mutants]'
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/mutants.py $(MUTANTS)

bench: build/peers/.ready  ## ours and other libraries on the same inputs, in turns; appends to benchmarks/results.md (ROWS="vgg head")
	build/peers/bin/python benchmarks/compare.py $(if $(ROWS),--only $(ROWS))

check: $(READY)  ## format, lint, types, import contract
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

smoke: $(READY)  ## build the wheel, install it in a fresh environment, try it outside the repository
	rm -rf build/smoke && mkdir -p build/smoke/work
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir build/smoke .
	$(PYTHON) -m venv build/smoke/venv
	PYTHONPATH= build/smoke/venv/bin/python -m pip install --quiet --constraint constraints.txt build/smoke/*.whl
	cd build/smoke/work && PYTHONPATH= ../venv/bin/python -P ../../../.ci/smoke.py
	cd build/smoke/work && ../../../$(BIN)/mypy --strict --python-executable ../venv/bin/python ../../../.ci/typed.py

docs: $(READY) $(READY_DOCS)  ## the site, with every link checked: site/index.html
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	$(BIN)/python docs/check_links.py site

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "fullyconv needs Python 3.11 or newer: make PYTHON=python3.12 …")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $(READY)

build/peers/.ready: pyproject.toml constraints.txt benchmarks/peers.txt
	$(PYTHON) -m venv build/peers
	build/peers/bin/python -m pip install --quiet --constraint constraints.txt --editable .
	build/peers/bin/python benchmarks/install.py benchmarks/peers.txt constraints.txt
	touch build/peers/.ready

$(READY_DOCS): $(READY)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[docs]'
	touch $(READY_DOCS)

clean:
	rm -rf $(VENV) runs site
