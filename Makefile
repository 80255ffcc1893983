# `make help` lists the targets. Everything made here goes to .venv/ and build/.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PACKAGES := cli engine reports workloads
CHROMIUM := /usr/bin/chromium

# More arguments for pytest: make test ARGS='-k order'
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help setup demo test crash draws scenarios lint typing-links bench browser services clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' Makefile

setup: $(VENV)/dev.stamp ## make .venv with the project and its development tools, pinned

demo: $(VENV)/core.stamp ## run the example pipeline over 200,000 events, then a load scenario; report
	@mkdir -p build/demo
	$(BIN)/python examples/demo/make_events.py
	@rm -f build/demo/dead-letters.jsonl
	@# 4 means: done, with dead letters. The demo has some to show.
	$(BIN)/millstream run examples/demo/handlers.py:pipeline build/demo/events.jsonl \
		--order key --output build/demo/out.jsonl --dead-letter build/demo/dead-letters.jsonl \
		--result build/demo/run.json || test $$? -eq 4
	@# 7 means: this machine was too busy for the generator to keep its schedule.
	$(BIN)/millstream bench feed --rate 2000 --duration 5s --runs build/demo/runs \
		--result build/demo/bench.json || test $$? -eq 7
	@# One page of both; open it in a browser.
	$(BIN)/millstream report build/demo/run.json build/demo/bench.json -o build/demo/report.html

test: setup ## run the tests, without the benchmarks
	$(BIN)/pytest -n auto --dist loadgroup -rs -p no:benchmark --ignore=tests/benchmarks tests $(ARGS)

crash: setup ## kill runs some hundred times, and go on with them
	MILLSTREAM_CRASH=all $(BIN)/pytest -n auto -p no:benchmark tests/crash $(ARGS)

draws: setup ## measure ten thousand drawn sequences, and as they are defined
	HYPOTHESIS_PROFILE=ci $(BIN)/pytest -n auto -p no:benchmark tests/engine/test_audit.py $(ARGS)

scenarios: setup ## run each load scenario over 200,000 events, under each order and with faults
	MILLSTREAM_SCENARIO_EVENTS=200000 $(BIN)/pytest -n auto -p no:benchmark --timeout 900 \
		tests/workloads/test_scenarios.py $(ARGS)

lint: setup typing-links ## check style, types and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache --no-logo

# Type checkers do not follow an editable install's mapping of folders to packages.
typing-links: ## show the folders to type checkers as build/typing/millstream
	@mkdir -p build/typing/millstream
	@for package in $(PACKAGES); do \
		ln -sfn ../../../$$package build/typing/millstream/$$package; \
	done

bench: $(VENV)/bench.stamp ## measure, beside the peers
	$(BIN)/python tests/benchmarks/run.py

browser: $(VENV)/browser.stamp ## open reports of each kind in a headless Chromium (make services gets it)
	MILLSTREAM_BROWSER=needed $(BIN)/pytest -n auto -p no:benchmark tests/browser $(ARGS)

services: ## install what tests need from the system: Chromium, by apt-get, as root
	@if test -x $(CHROMIUM); then \
		echo "$(CHROMIUM) is there; nothing else is needed."; \
	elif test "$$(id -u)" = 0 && command -v apt-get >/dev/null; then \
		apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends chromium; \
	else \
		echo "$(CHROMIUM) is missing: install your system's package chromium, or run this as root on Debian." >&2; \
		exit 1; \
	fi

clean: ## remove what was built; keep .venv
	rm -rf build dist *.egg-info .hypothesis .ruff_cache .pytest_cache .benchmarks
	find $(PACKAGES) tests examples -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "millstream needs Python 3.11 or newer; name one: make setup PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)

# An extra holds all that the smaller ones hold, so it stamps them too.
$(VENV)/core.stamp: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install -q -c constraints.txt -e .
	@touch $@

$(VENV)/dev.stamp: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[dev]'
	@touch $(VENV)/core.stamp $@

$(VENV)/bench.stamp: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[dev,bench]'
	@touch $(VENV)/core.stamp $(VENV)/dev.stamp $@

$(VENV)/browser.stamp: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[dev,browser]'
	@touch $(VENV)/core.stamp $(VENV)/dev.stamp $@
