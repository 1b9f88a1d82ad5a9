# `make demo` and `make test` set up their own virtual environment; neither needs root, a hub or a GPU.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# The GPU extra brings onnxruntime-gpu and bitsandbytes: make EXTRA=gpu demo
EXTRA ?= cpu

.PHONY: demo up down test lint bench constraints clean

demo: $(VENV)/ready
	$(BIN)/attar run demo

# Ports and the like: make up UP="--prefect-port 4300"
up: $(VENV)/ready
	$(BIN)/attar up $(UP)

down:
	$(BIN)/attar down

test: $(VENV)/ready
	$(BIN)/python -m pytest -n 2 --dist loadfile

lint: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/pyright

bench: $(VENV)/ready
	$(BIN)/python benchmarks/orchestration.py

$(VENV)/ready: pyproject.toml docker/constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint docker/constraints.txt --editable '.[$(EXTRA),dev]'
	touch $@

# After an upgrade that passed the tests: pin what is installed now.
constraints:
	(head -1 docker/constraints.txt; $(BIN)/pip freeze --exclude-editable | sed 's/+cpu//') > docker/constraints.new
	mv docker/constraints.new docker/constraints.txt

clean:
	rm -rf $(VENV) .attar
