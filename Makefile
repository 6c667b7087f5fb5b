# Every target sets up what it needs: python3 (3.11 or newer) and make are enough.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: test demo bench soak lint types format clean

# By files, so that each worker starts what a file shares once; the longest come first in the alphabet.
test: lint types  ## everything that must hold: style, types, tests
	"$(BIN)/python" -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder

demo: $(STAMP)  ## bookinfo on loopback: services, mesh, live table; under a minute
	"$(BIN)/python" -m examples.bookinfo

bench: $(STAMP)  ## ratios against bare httpx and Envoy; prints a table, writes JSON
	"$(BIN)/python" -m tests.benchmarks

soak: $(STAMP)  ## long runs under faults, not part of the tests
	"$(BIN)/python" -m pytest -q -m soak -o addopts="--strict-markers" --timeout=900

lint: $(STAMP)
	"$(BIN)/ruff" format --check .
	"$(BIN)/ruff" check .

types: $(STAMP)
	"$(BIN)/mypy"

format: $(STAMP)
	"$(BIN)/ruff" format .
	"$(BIN)/ruff" check --fix .

$(STAMP): pyproject.toml
	"$(PYTHON)" -m venv "$(VENV)"
	"$(BIN)/python" -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch "$(STAMP)"

clean:
	rm -rf "$(VENV)" .mypy_cache .pytest_cache .ruff_cache .hypothesis
