# From a fresh clone: `make serve` or `make test`. Needs Python 3.11 or newer, with pip.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed

# Of an accelerator for which a pass costs 8 ms, and 2 ms more for each input.
SIMULATE = $(BIN)/batchserve simulate docs/simulated.yaml --forward-ms 1:10,32:72 --seconds 4

.PHONY: serve test check format docs links pictures screenshots bench bench-quick bench-gpu bench-shipped bench-overload soak clean

serve: $(INSTALLED) photos
	$(BIN)/batchserve serve config.yaml

# Each process takes whole files, in order: what a file starts, it starts once.
test: $(INSTALLED)
	$(BIN)/pytest --numprocesses=logical --maxprocesses=4 --dist=loadfile --no-loadscope-reorder

check: $(INSTALLED) docs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --num-workers=auto

# Into site/. A link, an anchor or a picture that is not there is an error.
docs: $(INSTALLED)
	$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going --conf-dir docs . site

# Asks the hosts of others, which takes a network.
links: $(INSTALLED)
	$(BIN)/sphinx-build --quiet --builder linkcheck --conf-dir docs . site/links

pictures: $(INSTALLED)
	$(SIMULATE) --rate 0.5x --against fixed:8:20 --plot docs/images/half-load.svg
	$(SIMULATE) --rate 0.7x --arrivals bursty --burst 3:0.2:2 --against fixed:8:2 --plot docs/images/bursts.svg
	$(SIMULATE) --rate 1.5x --against fixed:8:2 --plot docs/images/overload.svg

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

screenshots: $(INSTALLED)
	SCREENSHOTS=docs/images $(BIN)/pytest tests/e2e/test_browser.py

# Installs the peers first; then an hour and a half. A part of it: benchmarks/compare.py run --help
bench: $(INSTALLED)
	$(BIN)/python benchmarks/compare.py run
	$(BIN)/python benchmarks/compare.py publish

bench-quick: $(INSTALLED)
	$(BIN)/python benchmarks/compare.py quick

# On a machine with a GPU; into benchmarks/results/gpu-DEVICE.json.
bench-gpu: $(INSTALLED)
	$(BIN)/python benchmarks/gpu.py

bench-shipped: $(INSTALLED)
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
	rm -rf $(VENV) photos site
