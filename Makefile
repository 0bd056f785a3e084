# Two commands: `make demo` runs the whole pipeline, `make test` the tests. Both set up a .venv of their own first.
PYTHON ?= python3
PY := .venv/bin/python
export HF_HUB_OFFLINE ?= 1
export TOKENIZERS_PARALLELISM ?= false

.PHONY: setup demo faithfulness ablation test test-slow lint format clean

demo: export OMP_NUM_THREADS ?= $(shell nproc 2>/dev/null || echo 2)

demo: setup
	$(PY) -m nsdrive.cli demo --out out/demo --overwrite

# Every measure of faithfulness against predictors whose faithfulness is known, on 50 scenes and their edits
PLANTED := faithful shuffled_text ignores_text ignores_images blind post_hoc talks_only restless half_obeys stop_liar
faithfulness: setup
	$(PY) -m nsdrive.cli generate data/pairs --out out/faithfulness/pairs --workers 2 --overwrite
	for name in $(PLANTED); do $(PY) -m nsdrive.cli probe --planted $$name --data out/faithfulness/pairs \
	  --out out/faithfulness/$$name.jsonl --overwrite || exit 1; done
	$(PY) -m nsdrive.cli evaluate --probes $(PLANTED:%=out/faithfulness/%.jsonl) --data out/faithfulness/pairs \
	  --out out/faithfulness/evaluation --overwrite
	$(PY) -m nsdrive.cli report out/faithfulness/evaluation --out out/faithfulness/report --overwrite

# Does reasoning help? The same small model with trace level none, brief and detailed, on 3 and 8 cameras
ablation: setup
	$(PY) -m nsdrive.cli ablation ablation/cpu --out out/ablation --overwrite

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
