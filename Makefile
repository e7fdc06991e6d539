# Each target sets itself up: a virtual environment, the packages that constraints.txt names, then the work.
PYTHON ?= python3
BIN := .venv/bin

FUZZ_SECONDS ?= 600

.PHONY: demo test bench fuzz lint clean

demo: .venv/demo.installed
	$(BIN)/lavabeam demo

test: .venv/dev.installed lint
	$(BIN)/python -m pytest

lint: .venv/dev.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: .venv/dev.installed
	$(BIN)/python bench/all.py

# All fuzz benches, one after the other, FUZZ_SECONDS seconds each; ends with an error when one finds a fault.
fuzz: .venv/dev.installed
	@failed=0; for file in bench/fuzz_*.py; do name=$$(basename $$file .py); echo "== $$name"; \
	$(BIN)/python -m bench.$$name --seconds $(FUZZ_SECONDS) || failed=1; done; exit $$failed

.venv/bin/pip:
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'lavabeam needs Python 3.11 or newer: make PYTHON=...')"
	$(PYTHON) -m venv .venv

.venv/%.installed: pyproject.toml constraints.txt | .venv/bin/pip
	$(BIN)/pip install --quiet -c constraints.txt -e ".[$*]"
	touch $@

clean:
	rm -rf .venv demo
