# The two commands of the README: `make quickstart` and `make test`. Everything runs in .venv, made on demand.
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
WORKDIR ?= runs/quickstart

.DEFAULT_GOAL := help
.PHONY: help quickstart test test-fast lint clean

help:  ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

$(VENV)/run.stamp: requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "hbi_jax needs Python 3.11 or newer; found $$($(PYTHON) --version). Try: make PYTHON=python3.12 ..."; exit 1; }
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

$(VENV)/dev.stamp: $(VENV)/run.stamp requirements-dev.txt
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@

# On Linux, memory that a step gives back is kept for the next one: the kernel would clear it anew every time.
KEEP_MEMORY := MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=8589934592 MALLOC_TOP_PAD_=268435456 MALLOC_ARENA_MAX=1

quickstart: $(VENV)/run.stamp  ## render the embedded data set, train, evaluate, show the result (8 minutes on two cores)
	$(KEEP_MEMORY) $(PY) -m hbi_jax.main --config=configs/quickstart.py --workdir=$(WORKDIR)

test: $(VENV)/dev.stamp  ## the whole test suite, slow tests included
	$(PY) -m pytest

test-fast: $(VENV)/dev.stamp  ## the suite without the tests marked slow
	$(PY) -m pytest -m "not slow"

lint: $(VENV)/dev.stamp  ## ruff over the tree
	$(PY) -m ruff check .

clean:  ## remove the environment and the caches
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache
