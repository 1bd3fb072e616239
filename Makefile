# From a fresh clone: `make serve` or `make test`. Needs Python 3.11 or newer, with pip.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed

.PHONY: serve test check format screenshots bench bench-overload soak clean

serve: $(INSTALLED) photos
	$(BIN)/batchserve serve config.yaml

test: $(INSTALLED)
	$(BIN)/pytest

check: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

screenshots: $(INSTALLED)
	SCREENSHOTS=docs/images $(BIN)/pytest tests/e2e/test_browser.py

bench: $(INSTALLED)
	$(BIN)/python benchmarks/shipped_model.py

bench-overload: $(INSTALLED)
	$(BIN)/python benchmarks/overload.py

soak: $(INSTALLED)
	$(BIN)/python benchmarks/soak.py

photos: | $(INSTALLED)
	$(BIN)/python -m batchserve.demo photos

# Several GB the first time, torch above all; nothing afterwards, until pyproject.toml changes.
$(INSTALLED): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "batchserve needs Python 3.11 or newer; name one: make PYTHON=python3.12")'
	@echo "Installing into $(VENV): torch and the demonstration model take a few minutes once."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --disable-pip-version-check -e '.[demo,dev]'
	@touch $@

clean:
	rm -rf $(VENV) photos
