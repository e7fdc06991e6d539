# Each target sets itself up: a virtual environment, the packages that constraints.txt names, then the work.
PYTHON ?= python3
BIN := .venv/bin

FUZZ_SECONDS ?= 600
# A process per core, of which four are enough; all tests of a file run in one, so that they share what it sets up.
SIDE_BY_SIDE := -n logical --maxprocesses 4 --dist loadfile

.PHONY: demo test test-code test-dags test-dataflow test-stores bench fuzz lint airflow airflow-up lmms-eval clean

demo: .venv/demo.installed
	$(BIN)/lavabeam demo

test: lint test-code

# One thread for each: a process per core has the cores.
test-code: .venv/dev.installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(SIDE_BY_SIDE)

# Airflow's own environment, apart from .venv: its packages pin others than ours.
airflow: .venv-airflow/installed

airflow-up: .venv-airflow/installed .venv/demo.installed
	PATH="$(CURDIR)/.venv-airflow/bin:$(CURDIR)/$(BIN):$$PATH" dags/up.sh

# lmms-eval's own environment, for `lavabeam evaluate --via lmms-eval`: 140 packages.
lmms-eval: .venv-lmms-eval/installed

test-dags: .venv-airflow/installed .venv/dev.installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(SIDE_BY_SIDE) tests/dags/airflow

# Jobs for Dataflow, executed by local workers: apache-beam[gcp] has an environment of its own.
test-dataflow: .venv-dataflow/installed
	.venv-dataflow/bin/python -m pytest tests/dataflow

# Writers at once on stand-ins of gs:// and s3://.
test-stores: .venv-stores/installed
	.venv-stores/bin/python -m pytest tests/stores --rounds 200

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

.venv-airflow/installed: constraints-airflow.txt
	$(PYTHON) -m venv .venv-airflow
	.venv-airflow/bin/pip install --quiet -c constraints-airflow.txt apache-airflow
	touch $@

# decord: lmms-eval's llava_hf imports it and does not ask for it. torchvision: from PyPI a CUDA build, which cannot be
# imported beside torch for the CPU, and which nothing here needs.
.venv-lmms-eval/installed: constraints-lmms-eval.txt
	test -x .venv-lmms-eval/bin/pip || $(PYTHON) -m venv .venv-lmms-eval
	.venv-lmms-eval/bin/pip install --quiet -c constraints-lmms-eval.txt lmms-eval decord
	.venv-lmms-eval/bin/pip uninstall --quiet --yes torchvision
	touch $@

.venv-dataflow/installed: pyproject.toml constraints.txt
	test -x .venv-dataflow/bin/pip || $(PYTHON) -m venv .venv-dataflow
	.venv-dataflow/bin/pip install --quiet -c constraints.txt -e ".[gcp]" pytest hypothesis
	touch $@

.venv-stores/installed: pyproject.toml constraints.txt
	test -x .venv-stores/bin/pip || $(PYTHON) -m venv .venv-stores
	.venv-stores/bin/pip install --quiet -c constraints.txt -e ".[s3]" gcsfs "moto[s3]" flask flask-cors pytest hypothesis
	touch $@

clean:
	rm -rf .venv .venv-airflow .venv-lmms-eval .venv-dataflow .venv-stores .airflow demo
