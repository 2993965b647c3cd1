# Set-up and the few commands of daily work. TORCH_INDEX names another package index for torch, e.g. a CPU-only one.
PYTHON ?= python3.11
VENV ?= .venv
BIN := $(VENV)/bin
OUT ?= runs/demo
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: demo test test-slow check format setup docs clean

demo: setup
	$(BIN)/corella-edge demo --out $(OUT)

# A file's tests stay together, since they share what they train; a few processes more take much memory.
test: setup
	$(BIN)/python -m pytest -n logical --maxprocesses 4 --dist loadfile

# What takes minutes, one after the other, and the property tests with more examples.
test-slow: setup
	$(BIN)/python -m pytest -m "slow or hypothesis" --hypothesis-profile thorough

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python docs/generate.py --check

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: setup
	$(BIN)/python docs/generate.py

setup: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt runtime/corella_edge_runtime/machine/wheel.py
	@echo "Installing into $(VENV): first the compiler (zig, 100 MB) and llama.cpp, built for every kind of CPU: 10 to"
	@echo "20 minutes on 2 cores, once a user. Then torch: on a Linux PC the default wheel is the CUDA one, several GB;"
	@echo "TORCH_INDEX=URL names another index."
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet -c constraints.txt -e '.[build]'
	@# The wheel comes in with its dependencies; then once more by itself, since pip keeps an earlier build of its version.
	wheel=$$($(BIN)/corella-edge wheel --out $(VENV)/wheels) && \
		$(PIP) install --quiet -c constraints.txt torch $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) && \
		$(PIP) install --quiet -c constraints.txt --find-links $(VENV)/wheels --only-binary llama-cpp-python \
			-e '.[build,cpu,llm,serve,sign,report,export,parquet,ray,dev]' && \
		$(PIP) install --quiet --no-deps --force-reinstall "$$wheel"
	$(BIN)/corella-edge doctor || echo "Goes on: what does not compute is left out, and said again where it is wanted."
	touch $@

clean:
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis dist
