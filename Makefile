# make run    a file system on this machine: five servers, mounted at ./mnt, until ^C
# make test   everything: check, and the tests on real processes and real mounts
# make check  what is quick: format, lint, types, storeys, and all tests but live ones
# make soak   the tests that run for minutes       make bench   how fast it is
# make race   beside GlusterFS, MooseFS and the local disk, as root; SCALE=0.003 for a try
# make scale  how its cost grows; SCALE=0.01 for a try
# make sim    simulated clusters under every kind of fault, on SEEDS=20 seeds;
#             make replay SEED=N LIFE=KIND tells a life, make sim-coverage says what they reach
# make chaos  real faults on real processes, all of them; rewrites their table in docs/TESTING.md
# make fuzz   MINUTES=10 of messages that are nearly right, led by what they reach
# make mutants  plants mistakes in a copy and sees a test turn red, ONLY="7 14b" or all
# make man    manual pages and completions, in build/manual
# make deb    a Debian package of all of it, in build/deb
# make format black, over everything               make clean   remove what make made
#
# A fresh machine needs python3 and make; .ci/setup gets the rest, and takes the fastest of python3
# and /usr/bin/python3 unless told PYTHON=.  SEED=N repeats a test run.

SHELL := /bin/bash
VENV := .venv/bin/python
SOURCES := zdfs tests contrib $(wildcard bench)
PYTEST := $(VENV) -m pytest $(if $(SEED),--seed $(SEED))
LIVES := 60
# a test starts dozens of processes, and each would compile zdfs anew
export PYTHONDONTWRITEBYTECODE :=

.PHONY: run test check lint live sim replay sim-coverage mutants fuzz fuzz-corpus soak chaos bench race scale docs man deb format clean
.NOTPARALLEL:

.venv/.ready: setup.cfg .ci/setup
	@PYTHON="$(PYTHON)" .ci/setup

# what the live tests run on a mount
.venv/.programs: .venv/.ready .ci/setup
	@.ci/setup programs

# what races against zdfs
.venv/.peers: .venv/.ready .ci/setup
	@.ci/setup peers

run: .venv/.ready
	@exec $(VENV) -m zdfs.up $(if $(FAULTS),--faults)

test: LIVES := 120
test: check live

check: lint
	$(PYTEST) -q tests/test_house.py
	$(PYTEST) -q -n 2 --lives $(LIVES) -m "not soak" --ignore tests/live --ignore tests/test_house.py

lint: .venv/.ready
	$(VENV) -m black -q --check --line-length 100 $(SOURCES) || \
	  { echo "format: say 'make format'"; exit 1; }
	$(VENV) -m flake8 $(SOURCES)
	$(VENV) -m mypy
	.venv/bin/lint-imports

live: .venv/.programs
	$(PYTEST) -q -n 4 --dist loadfile --timeout 300 -m "not soak" tests/live

soak: .venv/.programs
	$(PYTEST) -m soak --timeout 3600 tests

chaos: .venv/.programs
	rm -rf build/faults
	$(PYTEST) -q -n $(or $(JOBS),3) --dist loadfile --timeout 1200 tests/live/chaos; \
	  status=$$?; $(VENV) -m tests.live.chaos.table && exit $$status

sim: .venv/.ready
	$(VENV) -m tests.sim run --seeds $(or $(SEEDS),20) $(if $(SEED),--first $(SEED)) \
	  $(if $(LIFE),--kind $(LIFE))

# WIRE=1: each message, too
replay: .venv/.ready
	@$(VENV) -m tests.sim replay $(SEED) $(if $(LIFE),--kind $(LIFE)) $(if $(WIRE),--wire)

sim-coverage: .venv/.ready
	$(VENV) -m tests.sim coverage --seeds $(or $(SEEDS),5) $(if $(SEED),--first $(SEED))

mutants: .venv/.ready
	$(VENV) -m tests.mutants $(ONLY)

# What breaks is saved in tests/fuzz/crashes, where a test plays it from then on.
.venv/.fuzz: .venv/.ready
	$(VENV) -m pip --disable-pip-version-check install -q --use-pep517 -e '.[fuzz]'
	@touch $@

fuzz: MINUTES := 10
fuzz: .venv/.fuzz
	$(VENV) -m tests.fuzz run decode --seconds $$(($(MINUTES) * 15))
	$(VENV) -m tests.fuzz run dispatch --seconds $$(($(MINUTES) * 45))

fuzz-corpus: .venv/.ready
	$(VENV) -m tests.fuzz corpus

bench: .venv/.ready
	$(VENV) -m bench

# ONLY="write-1 untar": these rows; the figures and a chart stay in build
race: .venv/.peers
	@mkdir -p build
	$(VENV) -m bench.race --json build/race.json --chart build/race.svg \
	  $(if $(ROUNDS),--rounds $(ROUNDS)) $(if $(SCALE),--scale $(SCALE)) $(if $(ONLY),--only $(ONLY))

# ONLY="directory clients": these series; rewrites their plots in docs/scale
scale: .venv/.ready
	$(VENV) -m bench.scale $(if $(SCALE),--scale $(SCALE)) $(ONLY)

docs: .venv/.ready
	$(VENV) -m zdfs.describe

man: .venv/.ready
	$(VENV) -m contrib.manual build/manual

# with the libraries of .venv, for its interpreter's version, which must be the distribution's
deb: .venv/.ready
	$(VENV) -m contrib.package build/deb

format: .venv/.ready
	$(VENV) -m black -q --line-length 100 $(SOURCES)

# ./mnt and ./zdfs-store stay: they are yours
clean:
	rm -rf .venv build dist *.egg-info .hypothesis .mypy_cache .pytest_cache .import_linter_cache
	find zdfs tests -name __pycache__ -type d -prune -exec rm -rf {} +
