# make run    a file system on this machine: five servers, mounted at ./mnt, until ^C
# make test   everything: check, and the tests on real processes and real mounts
# make check  what is quick: format, lint, types, storeys, and all tests but live ones
# make soak   the tests that run for minutes       make bench   how fast it is
# make sim    simulated clusters under every kind of fault, on SEEDS=20 seeds
# make format black, over everything               make clean   remove what make made
#
# A fresh machine needs python3 and make; .ci/setup gets the rest.  SEED=N repeats a test run.

SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv/bin/python
SOURCES := zdfs tests $(wildcard bench)
PYTEST := $(VENV) -m pytest $(if $(SEED),--seed $(SEED))

.PHONY: run test check lint live sim soak bench docs format clean
.NOTPARALLEL:

.venv/.ready: setup.cfg .ci/setup
	@PYTHON=$(PYTHON) .ci/setup

run: .venv/.ready
	@exec $(VENV) -m zdfs.up $(if $(FAULTS),--faults)

test: check live

check: lint
	$(PYTEST) -q tests/test_house.py
	$(PYTEST) -q -m "not soak" --ignore tests/live --ignore tests/test_house.py

lint: .venv/.ready
	$(VENV) -m black -q --check --line-length 100 $(SOURCES) || \
	  { echo "format: say 'make format'"; exit 1; }
	$(VENV) -m flake8 $(SOURCES)
	$(VENV) -m mypy
	.venv/bin/lint-imports

live: .venv/.ready
	$(PYTEST) -m "not soak" tests/live

soak: .venv/.ready
	$(PYTEST) -m soak --timeout 3600 tests

sim: .venv/.ready
	$(VENV) -m tests.sim $(or $(SEEDS),20) $(SEED)

bench: .venv/.ready
	$(VENV) -m bench

docs: .venv/.ready
	$(VENV) -m zdfs.describe

format: .venv/.ready
	$(VENV) -m black -q --line-length 100 $(SOURCES)

# ./mnt and ./zdfs-store stay: they are yours
clean:
	rm -rf .venv build dist *.egg-info .hypothesis .mypy_cache .pytest_cache .import_linter_cache
	find zdfs tests -name __pycache__ -type d -prune -exec rm -rf {} +
