# The two commands of the README: `make quickstart` and `make test`. Everything runs in an environment made on demand:
# .venv, or .venv-3.12 with PYTHON=python3.12 and the like.
PYTHON ?= python3
ifeq ($(origin PYTHON), file)
VENV ?= .venv
else
# In quotation marks, a shell leaves ~ as it is.
override PYTHON := $(patsubst ~/%,$(HOME)/%,$(PYTHON))
VERSION := $(shell { "$(PYTHON)" -c 'import sys; print("%d.%d" % sys.version_info[:2])'; } 2>/dev/null)
VENV ?= .venv-$(VERSION)
endif
# Targets lie in it, and make takes a blank for the end of a target.
ifneq ($(words $(VENV)), 1)
$(error VENV='$(VENV)': wanted one path without blanks; choose another folder)
endif
PY := $(VENV)/bin/python
WORKDIR ?= runs/quickstart

.DEFAULT_GOAL := help
.PHONY: help bench-gpu quickstart test test-all test-here test-fast test-faults test-extras test-gpu smoke lint clean

help:  ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

# Says in its first line what is wanted where this Python or machine will not do.
INSTALL = @command -v "$(PYTHON)" >/dev/null || { echo "error: wanted a Python; $(PYTHON) is not on PATH" >&2; exit 1; }; \
	"$(PYTHON)" launch/environment.py $(VENV)

$(VENV)/run.stamp: requirements.txt
	$(INSTALL) -r requirements.txt
	@touch $@

$(VENV)/smoke.stamp: $(VENV)/run.stamp requirements-dev.txt
	$(INSTALL) -c requirements-dev.txt beartype pytest pytest-timeout pytest-xdist setuptools wheel
	@touch $@

$(VENV)/dev.stamp: $(VENV)/run.stamp requirements-dev.txt
	$(INSTALL) -r requirements-dev.txt
	@touch $@

# Only setup.py names the packages of the extras. Installing the extras themselves would install a copy of hbi_jax too.
EXTRAS := demo plan search
$(VENV)/extras.stamp: $(VENV)/dev.stamp setup.py
	$(INSTALL) -c requirements.txt $$($(PY) -c 'import runpy, setuptools, sys; \
		setuptools.setup = lambda extras_require, **_: print(*(line for name in sys.argv[1:] for line in extras_require[name])); \
		runpy.run_path("setup.py")' $(EXTRAS))
	@touch $@

# On Linux, memory that a step gives back is kept for the next one: the kernel would clear it anew every time.
KEEP_MEMORY := MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=8589934592 MALLOC_TOP_PAD_=268435456 MALLOC_ARENA_MAX=1

quickstart: $(VENV)/run.stamp  ## render the embedded data set, train, evaluate, show the result (four to five minutes on two cores)
	$(KEEP_MEMORY) $(PY) -m hbi_jax.main --config=configs/quickstart.py --workdir="$(WORKDIR)"
	@echo
	@echo "Try next:"
	@echo "  $(PY) -m hbi_jax.search index my.index --checkpoint='$(WORKDIR)' '$(WORKDIR)/data/videos'"
	@echo "  $(PY) -m hbi_jax.search find my.index 'a large yellow triangle appears' --html=result.html"
	@echo "  $(PY) -m hbi_jax.main --config=quickstart_caption --workdir=runs/captions --config.init='$(WORKDIR)'"

test: test-here  ## the whole test suite, then a short run of everything on every other Python that is found
	@$(PY) launch/pythons.py smoke smoke.stamp

test-all: test-here  ## the whole test suite on every Python that is found
	@$(PY) launch/pythons.py test-here dev.stamp

test-here: $(VENV)/dev.stamp  ## the whole test suite on one Python: slow tests too, but not the longest jobs (test-faults)
	$(PY) -m pytest

test-fast: $(VENV)/dev.stamp  ## the suite without the tests marked slow
	$(PY) -m pytest -m "not slow"

test-faults: $(VENV)/dev.stamp  ## jobs of several processes, killed, stopped and compared with one; failing storage, memory
	HBI_JAX_FAULTS=1 $(PY) -m pytest -n 0 tests/faults

test-extras: $(VENV)/extras.stamp  ## what needs the extras demo, plan and search: the page, plans for TPUs, LanceDB (installs them)
	$(PY) -m pytest tests/plan/test_tpu.py tests/search/test_lance.py tests/search/test_serve.py

smoke: $(VENV)/smoke.stamp  ## everything once, from the wheel: train, resume, evaluate, ask, caption, convert, export
	$(PY) -m pytest tests/smoke.py tests/models/test_golden.py

test-gpu: $(VENV)/dev.stamp  ## on the GPU that JAX sees: the tests of the interaction, the models, the losses and the metrics
	JAX_PLATFORMS=cuda,cpu JAX_DEFAULT_MATMUL_PRECISION=highest XLA_PYTHON_CLIENT_PREALLOCATE=false $(PY) -m pytest -n 4 tests/banzhaf tests/metrics tests/models \
		tests/test_clustering.py tests/test_losses.py

bench-gpu: $(VENV)/run.stamp  ## the step and the interaction on the accelerator that JAX sees: time, memory, MFU, profile
	$(PY) -m benchmarks.bench_gpu --out benchmarks/results --profile runs/profile

lint: $(VENV)/dev.stamp  ## ruff over the tree
	$(PY) -m ruff check .

clean:  ## remove the environments and the caches
	rm -rf .venv .venv-* build dist *.egg-info .pytest_cache .ruff_cache
