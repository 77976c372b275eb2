# The two commands of the README are `make demo` and `make test`; each sets up what it needs in .venv first.
# Left out: anything a verb of `bottega` does.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
EXTRAS := data,docs,office,lang,pii,report,sql,track,quant,studio,serve,postgres,dev

.PHONY: setup demo test test-all check format bench lock clean

setup: $(STAMP)

# torch first and pinned: an unpinned torch brings gigabytes of CUDA packages to a machine that has no GPU.
$(STAMP): pyproject.toml requirements.lock
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check "$$(grep -i '^torch==' requirements.lock)"
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint requirements.lock --editable ".[$(EXTRAS)]"
	touch $@

demo: setup
	$(BIN)/bottega demo --out demo-out

test: setup
	$(BIN)/python -m pytest

test-all: setup
	sh tests/servers.sh
	$(BIN)/python -m pytest -m "slow or not slow"

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: setup
	$(BIN)/python benchmarks/cpu.py

# Pins what the working environment holds. Run it after a change of pyproject.toml, then `make test`.
lock: setup
	$(BIN)/pip freeze --exclude-editable | grep -viE "^(bottega|pip|setuptools|wheel)[=@ ]" | sed 's/+cpu//' > requirements.lock

clean:
	rm -rf $(VENV) demo-out .pytest_cache .mypy_cache .ruff_cache
