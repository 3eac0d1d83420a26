# Everything a newcomer needs: Python 3.11 and make. Each target installs what it needs into .venv first.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
BIN := $(VENV)/bin
WORKERS ?= 2

.PHONY: help demo test check docs bench smoke audit clean
help:  ## list the targets
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(BIN)/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

$(BIN)/.installed-dev: $(BIN)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: $(BIN)/.installed  ## draw clips, train a side network on them, evaluate, predict: minutes on two cores
	$(BIN)/side4video demo

test: $(BIN)/.installed-dev  ## the whole test suite
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup

check: $(BIN)/.installed-dev  ## format, lint, types, import contract, spelling
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/lint-imports
	$(BIN)/codespell

$(BIN)/.installed-docs: $(BIN)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	touch $@

docs: $(BIN)/.installed-docs  ## build the documentation into site/
	$(BIN)/mkdocs build --strict

$(BIN)/.installed-bench: $(BIN)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[bench]'
	touch $@

bench: $(BIN)/.installed-bench  ## measure decoding and training speed; results in benchmarks/results/
	$(BIN)/python benchmarks/decode.py
	$(BIN)/python benchmarks/train_step.py
	$(BIN)/python benchmarks/peers.py
	$(BIN)/python benchmarks/floor.py

smoke: $(BIN)/.installed  ## real photographs, real weights: needs downloads; PHOTOS=DIR for photographs of your own
	$(BIN)/python scripts/fetch_smoke_inputs.py --into .smoke $(if $(PHOTOS),--weights-only)
	$(BIN)/python benchmarks/camera_motion.py --work .smoke $(if $(PHOTOS),--photos "$(PHOTOS)")

$(BIN)/.installed-audit: $(BIN)/.installed-dev
	$(BIN)/python -m pip install --quiet --disable-pip-version-check 'pip-audit>=2.9'
	touch $@

audit: $(BIN)/.installed-audit  ## check the dependencies: pins, licences, known vulnerabilities
	$(BIN)/python scripts/audit_dependencies.py --advisories

clean:  ## remove the virtual environment and caches
	rm -rf $(VENV) .pytest_cache .ruff_cache .import_linter_cache build dist site
