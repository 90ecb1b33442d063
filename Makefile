# Everything a developer or CI runs. Each target first brings .venv up to date (nothing to do: well under a second).
# FLOVER_TORCH_INDEX names another package index for torch; PYTHON another Python 3.11.
PYTHON ?= python3
BIN := .venv/bin
PYTEST := $(BIN)/python -m pytest
# Two processes: tests that share servers in one, others beside them (tests/conftest.py).
SPREAD := -n 2 --dist loadscope

.DEFAULT_GOAL := help
.PHONY: help setup demo serve test test-all test-gpu sanitize-gpu lint format docs fuzz fuzz-live bench bench-gpu bench-faults soak perf genai-perf clean distclean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /  make \1	/p' $(MAKEFILE_LIST) | expand -t 22

setup: ## make .venv and install everything, pinned
	@$(PYTHON) scripts/setup.py

demo: setup ## watch 24 questions fuse in a real Triton server
	@$(BIN)/flover demo

serve: setup ## serve the bundled model until Ctrl-C
	@$(BIN)/flover serve

test: setup ## the whole test suite
	@$(PYTEST) $(SPREAD) -m "not slow"

test-all: setup ## the same, and many more random examples of what it checks
	@$(PYTEST) $(SPREAD)

test-gpu: setup ## all tests that need or profit from an NVIDIA GPU; without one they skip and say so
	@TRITON_INTERPRET=0 $(PYTEST) -rs tests/*_gpu

sanitize-gpu: setup ## small tests of the kernels under NVIDIA's compute-sanitizer
	@$(BIN)/python scripts/sanitize_gpu.py

lint: setup ## ruff, its formatter, mypy
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/mypy --python-version 3.10 flover_backend

format: setup ## format the code, fix what ruff can fix
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

docs: setup ## write docs/configuration.md, docs/metrics.md and the Grafana dashboard from the code
	@$(BIN)/python scripts/reference.py
	@$(BIN)/python scripts/dashboard.py

bench: setup ## fused against one after another, on this machine's CPU
	@$(BIN)/flover bench ratios

bench-gpu: setup ## each line of docs/performance.md on this machine's GPU, with its bar
	@$(BIN)/flover bench engine

fuzz: setup ## malformed input, found by coverage (atheris) for all that reads untrusted bytes
	@$(BIN)/python tests/fuzz/fuzz.py

fuzz-live: setup ## 21,000 malformed requests to a live server: gRPC, HTTP, the engine's socket
	@$(BIN)/python tests/fuzz/bombard.py

perf: setup ## perf_analyzer in each of its modes on a server with the bundled model: tables and pictures in out/
	@$(BIN)/python -m benchmarks.perf_analyzer all

bench-faults: setup ## overload, silent clients, deadlines, deaths: what they cost, held against the bars
	@$(BIN)/python -m benchmarks.faults $(FLAGS)

soak: setup ## 30 minutes of mixed traffic, cancels, bad requests, overload and faults; every accepted request accounted for
	@$(BIN)/python -m benchmarks.soak $(FLAGS)

genai-perf: setup ## make .venv-genai-perf: genai-perf, and a perf_analyzer for it (docs/measuring.md)
	@$(BIN)/python scripts/genai_perf.py

clean: ## remove caches and output, keep .venv
	rm -rf .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist out
	find . -name __pycache__ -not -path './.venv*/*' -prune -exec rm -rf {} +

distclean: clean ## remove .venv and downloads too
	rm -rf .venv .venv-genai-perf .cache *.egg-info
