# Every target that needs packages makes .venv by itself; nothing is installed twice.
PYTHON ?= python3
# Two workers on two cores; each file's tests stay together, so that what they share is made once.
PYTEST_WORKERS ?= 2

# The checks against TensorRT's Python bindings are part of `make check` where the bindings can be had: they are NVIDIA's,
# without the library, a few MB, under NVIDIA's licence, and go to build/tensorrt-bindings alone. `no` leaves them out.
TENSORRT_BINDINGS ?= yes

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.stamp
FAST := not gpu and not tensorrt and not slow
PYTEST := $(BIN)/python -m pytest -q -n $(PYTEST_WORKERS) --dist loadfile

# The demo's and the tests' models come from installed packages, never from the network.
export HF_HUB_OFFLINE := 1

.DEFAULT_GOAL := help
.PHONY: help demo check check-all check-tensorrt coverage patterns lint examples bench gpu gpu-test gpu-bench format clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /|/' | awk -F'|' '{printf "  %-14s %s\n", $$1, $$2}'

$(STAMP): pyproject.toml constraints.txt
	@echo "setting up $(VENV): the first time takes some minutes"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
# The two variables pin the build environment as well: older versions of pip read the first, newer ones the second.
	PIP_CONSTRAINT=constraints.txt PIP_BUILD_CONSTRAINT=constraints.txt \
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[torch,report,demo,dev]'
	@touch $@

demo: $(STAMP)  ## optimize all-MiniLM-L6-v2 and show its numbers and its speed
	$(BIN)/python examples/01_minilm.py

check: lint $(STAMP)  ## everything that a change must pass
	@test "$(TENSORRT_BINDINGS)" = no || $(BIN)/python -m tests.tensorrt_bindings.prepare --if-possible
	$(PYTEST) -m "$(FAST)"
	@$(MAKE) --no-print-directory examples

check-all: check  ## check, and the slow tests
	$(BIN)/python -m pytest -q -m "slow and not gpu and not tensorrt"

check-tensorrt: $(STAMP)  ## what calls TensorRT, against its Python bindings
	$(BIN)/python -m tests.tensorrt_bindings.prepare
	$(BIN)/python -m pytest -q tests/tensorrt_bindings

# Exports are kept under build/zoo: the first run takes tens of minutes, later ones a few.
coverage: $(STAMP)  ## export and check every family, and write docs/coverage.md
	$(BIN)/python -m tests.zoo --strict

patterns: $(STAMP)  ## trace the patterns of rules anew, with the installed exporters
	$(BIN)/python -m graphwright.tracing

lint: $(STAMP)  ## format, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

examples: $(STAMP)  ## run every example
	@for script in $(sort $(wildcard examples/[0-9]*.py)); do \
		echo "== $$script"; $(BIN)/python $$script > $(VENV)/example.log 2>&1 || { cat $(VENV)/example.log; exit 1; }; \
	done

bench: $(STAMP)  ## time the compiler and the models; results go to benchmarks/results
	@for script in $(sort $(wildcard benchmarks/[a-z]*.py)); do \
		name=$$(basename $$script .py); echo "== $$script"; \
		$(BIN)/python $$script --json > $(VENV)/$$name.json || exit 1; \
		mv $(VENV)/$$name.json benchmarks/results/$$name.json; \
	done

# These run on the system's Python, where the GPU's packages are: only the files with such tests are read, since others
# need more packages, and warnings are no errors, since the versions are not the pinned ones.
GPU_TESTS = $(shell grep -rlE 'mark\.(gpu|tensorrt)' tests --include='test_*.py')
GPU_RESULTS := benchmarks/results/hars_gpu.json

gpu: gpu-test gpu-bench  ## what needs an NVIDIA GPU: its tests, then the benchmark; installs nothing

# pytest answers 5 where it finds no such test.
gpu-test:
	PYTHONPATH=. $(PYTHON) -m pytest -q -W default -m "gpu or tensorrt" --durations=5 $(GPU_TESTS) || test $$? -eq 5

gpu-bench:
	PYTHONPATH=. $(PYTHON) benchmarks/gpu/hars.py --json > $(GPU_RESULTS).new
	@if grep -q '"measured": true' $(GPU_RESULTS).new || ! test -e $(GPU_RESULTS); \
	then mv $(GPU_RESULTS).new $(GPU_RESULTS); else rm $(GPU_RESULTS).new; echo "the old results stay"; fi

format: $(STAMP)  ## rewrite the sources as lint wants them
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:  ## take away what the other targets made
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist
	find graphwright tests examples benchmarks -name __pycache__ -prune -exec rm -rf {} +
