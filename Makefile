# Two commands: `make demo` runs the whole pipeline, `make test` the tests. Both set up a .venv of their own first.
PYTHON ?= python3
PY := .venv/bin/python
export HF_HUB_OFFLINE ?= 1
export TOKENIZERS_PARALLELISM ?= false

.PHONY: setup demo test test-slow lint format clean

demo: export OMP_NUM_THREADS ?= $(shell nproc 2>/dev/null || echo 2)

demo: setup
	$(PY) -m nsdrive.cli demo --out out/demo --overwrite

test test-slow: export OMP_NUM_THREADS ?= 1

test: setup
	$(PY) -m pytest -n auto --dist loadfile

test-slow: setup
	$(PY) -m pytest -m slow

lint: setup
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m mypy

format: setup
	$(PY) -m ruff format .
	$(PY) -m ruff check --fix .

setup: .venv/.ready

# torch first and pinned: with it installed, no later package drags in another torch
.venv/.ready: pyproject.toml constraints.txt
	test -x $(PY) || $(PYTHON) -m venv .venv
	$(PY) -m pip install --quiet --disable-pip-version-check "$$(grep '^torch==' constraints.txt)"
	$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[train,dev]'
	touch $@

clean:
	rm -rf .venv out build dist *.egg-info
