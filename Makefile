# The only doors: everything else is called by these.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
SOURCES := server shard client protos tests scripts

.PHONY: demo test test-long stand walkthrough check protos dashboards locks images-check release-protos up bench bench-embed clean

demo: $(VENV)/installed
	$(BIN)/python -m vitrail.cli.demo $(if $(IMAGES),--images "$(IMAGES)")

up: $(VENV)/installed
	$(BIN)/vitrail up

test: $(VENV)/installed-dev
	$(BIN)/python -m pytest

test-long: $(VENV)/installed-dev
	$(BIN)/python -m pytest -m long
	$(BIN)/python -m tests.long.faults --out docs/faults.md $(ARGS)

stand: $(VENV)/installed-dev
	$(BIN)/python -m tests.stand.main --out docs/stand.md $(ARGS)

check: $(VENV)/installed-dev
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/buf lint
	$(BIN)/buf format --diff --exit-code
	$(BIN)/buf breaking --against protos/released.binpb
	$(BIN)/python scripts/protos.py
	$(BIN)/python scripts/dashboards.py
	$(BIN)/python scripts/locks.py
	$(BIN)/hadolint deploy/Dockerfile

walkthrough: $(VENV)/installed-dev
	$(BIN)/python -m tests.walkthrough $(PHOTOS) --out walkthrough $(ARGS)

protos: $(VENV)/installed-dev
	$(BIN)/buf format --write
	$(BIN)/python scripts/protos.py --write

dashboards: $(VENV)/installed-dev
	$(BIN)/python scripts/dashboards.py --write

locks: $(VENV)/installed-dev
	$(BIN)/python scripts/locks.py --write

images-check: $(VENV)/installed-dev
	$(BIN)/python -m pytest --timeout 1800 tests/deploy/check_images.py

release-protos: $(VENV)/installed-dev
	$(BIN)/buf build --output protos/released.binpb

bench: $(VENV)/installed-dev
	$(BIN)/python -m tests.bench.main $(ARGS)

bench-embed: $(VENV)/installed-dev
	$(BIN)/python -m tests.bench.embedding $(ARGS)

# A virtual environment is current while pyproject.toml has not changed since it was filled.
$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: pyproject.toml | $(VENV)/bin/python
	$(BIN)/pip install --editable '.[all,demo]'
	@touch $@

$(VENV)/installed-dev: pyproject.toml | $(VENV)/bin/python
	$(BIN)/pip install --editable '.[dev]'
	@touch $@ $(VENV)/installed

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache
