# Set-up and the few commands of daily work. TORCH_INDEX names another package index for torch, e.g. a CPU-only one.
PYTHON ?= python3.11
VENV ?= .venv
BIN := $(VENV)/bin
OUT ?= runs/demo
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: demo test test-slow check format setup docs clean

demo: setup
	$(BIN)/corella-edge demo --out $(OUT)

test: setup
	$(BIN)/python -m pytest

test-slow: setup
	$(BIN)/python -m pytest -m slow

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

$(VENV)/.installed: pyproject.toml constraints.txt
	@echo "Installing into $(VENV). Downloads torch (on a Linux PC the default wheel is the CUDA one, several GB;"
	@echo "TORCH_INDEX=URL names another index) and builds llama-cpp-python from source (about 7 minutes on 2 cores)."
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet -c constraints.txt torch $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX))
	$(PIP) install --quiet -c constraints.txt -e '.[cpu,llm,serve,sign,report,export,dev]'
	touch $@

clean:
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis dist
