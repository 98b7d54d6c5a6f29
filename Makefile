# Everything a checkout can do. Needs make and Python 3.11 or newer; the rest is set up in .venv.
#   make run ARGS="--port 9000"     make test     make check     make test-engines
# Another interpreter: make PYTHON=python3.13 run

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --no-input --disable-pip-version-check -qq
JOBS ?= 4
ARGS ?=
# The tests wait more than they work, and those that wait longest come first.
TESTS := -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder
# Even where the environment says otherwise: compiling all anew costs every process its while.
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.PHONY: help run test check format lint test-engines test-gpu compiled wheel-compiled test-compiled models clean

help:
	@echo "make run           start the gateway on 127.0.0.1:8000 (options: ARGS=\"--port 9000\")"
	@echo "make test          run the tests"
	@echo "make check         format, lint, types, tests: what has to pass before a commit"
	@echo "make format        put the sources into shape"
	@echo "make test-engines  drive real engines (llama.cpp, vLLM on the CPU) through the gateway"
	@echo "make test-gpu      the GPU readings beside nvidia-smi, on a host with a GPU"
	@echo "make wheel-compiled  a wheel that is compiled where requests pass, in dist/ (needs gcc)"
	@echo "make compiled      the same unpacked in .compiled, to be measured beside the plain one"
	@echo "make test-compiled the tests, against the compiled build"
	@echo "make models        write the generated files again"
	@echo "make bench         what the gateway costs beside its peers (bench-peers installs them)"
	@echo "make bench-fleet   what it makes of engines with caches and queues, beside other routers"
	@echo "make soak          minutes of abuse, then everything must be back where it began"
	@echo "make profile       where the microseconds go"
	@echo "make clean         remove the environment and all that was built"

$(VENV)/.made:
	@command -v $(PYTHON) >/dev/null || { \
	  echo "There is no '$(PYTHON)' here. Install Python 3.11 or newer, or name one: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Portico needs Python 3.11 or newer; '$(PYTHON)' is $$($(PYTHON) -V 2>&1). Name another: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { \
	  echo "No virtual environment could be made. On Debian and Ubuntu, install python3-venv and try again." >&2; exit 1; }
	@touch $@

# The demo's engine is a wheel that not every platform has: the gateway runs without it.
$(VENV)/.run: $(VENV)/.made pyproject.toml
	@echo "setting up $(VENV) (once)"
	@$(PIP) --only-binary xllamacpp -e '.[demo]' || { \
	  echo "The demo engine cannot be installed here; going on without it."; $(PIP) -e .; }
	@touch $@

# After .run, so that two of them never install at the same time.
$(VENV)/.dev: $(VENV)/.run
	@echo "setting up the tools for tests in $(VENV) (once)"
	@$(PIP) -e '.[demo,dev]'
	@touch $@

run: $(VENV)/.run
	@$(BIN)/portico serve --demo $(ARGS)

test: $(VENV)/.dev
	@$(BIN)/python $(TESTS) $(ARGS)

lint: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

check: lint
	$(BIN)/python $(TESTS)

format: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# The suite is not collected by a plain pytest run, hence options of its own.
test-engines: $(VENV)/.dev
	@$(BIN)/python tests/engines/install.py
	$(BIN)/python -m pytest -o addopts="-q --strict-markers" -p no:xdist tests/engines $(ARGS)

test-gpu: $(VENV)/.run
	@$(BIN)/python -m tests.gpu.compare

$(VENV)/.compile: $(VENV)/.run
	@$(PIP) -e '.[compile]'
	@touch $@

# What was built before is no part of it: setuptools would pack modules that are gone by now.
wheel-compiled: $(VENV)/.compile
	rm -rf build/lib.*
	PORTICO_COMPILE=1 $(BIN)/python -m pip wheel --no-build-isolation --no-deps -w dist .

# A checkout whose gateway is the compiled wheel's.
COMPILED := .compiled
compiled: $(COMPILED)/.made

$(COMPILED)/.made: $(VENV)/.compile setup.py pyproject.toml $(shell find gateway backends -name '*.py')
	rm -rf $(COMPILED) build/lib.*
	PORTICO_COMPILE=1 $(BIN)/python -m pip wheel --no-build-isolation --no-deps -w $(COMPILED) .
	$(BIN)/python -m zipfile -e $(COMPILED)/*.whl $(COMPILED)
	@touch $@

# The tests as they are, beside the compiled gateway instead of the sources.
test-compiled: $(COMPILED)/.made $(VENV)/.dev
	@cp -r *.md LICENSE Makefile .dockerignore pyproject.toml setup.py bench deploy docs tests tools $(COMPILED)
	cd $(COMPILED) && PYTHONPATH=$(abspath $(COMPILED)) $(abspath $(BIN))/python $(TESTS) $(ARGS)

models: $(VENV)/.run
	$(BIN)/python tools/models_table.py
	$(BIN)/python tools/config_schema.py
	$(BIN)/python tools/config_reference.py

clean:
	rm -rf $(VENV) $(COMPILED) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .bench
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# What the gateway costs beside its peers (bench/README.md). Options: ARGS="--rounds 1 --details"
.PHONY: bench bench-peers bench-fleet soak profile
SECONDS ?= 180

bench: $(VENV)/.run
	@$(BIN)/python -m bench.run $(ARGS)

bench-peers: $(VENV)/.run
	@$(BIN)/python -m bench.install $(ARGS)

# Routers before a simulated fleet. Options: ARGS="--quick" or ARGS="--cells conv:4:1.0:slow"
bench-fleet: $(VENV)/.run
	@$(BIN)/python -m bench.fleet.run $(ARGS)

soak: $(VENV)/.run
	@$(BIN)/python -m bench.soak --seconds $(SECONDS) $(ARGS)

profile: $(VENV)/.run
	@$(BIN)/python -m bench.profile $(ARGS)
