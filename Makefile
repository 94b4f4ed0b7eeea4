# make setup · demo · test · check · bench. Every target sets up what it needs in .venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO ?= demo
SAMPLE ?= sample_tiles/s2_eastern_shore.tif
READY := $(VENV)/.ready

.PHONY: setup demo test check bench clean

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: setup
	mkdir -p $(DEMO)
	$(BIN)/landcover predict $(SAMPLE) --out $(DEMO)/map.tif --overwrite
	$(BIN)/landcover vectorize $(DEMO)/map.tif --out $(DEMO)/polygons.gpkg --min-area 0.5ha --simplify 10 --overwrite > /dev/null
	$(BIN)/landcover preview $(DEMO)/map.tif --scene $(SAMPLE) --out $(DEMO)/picture.png --overwrite
	@echo
	@$(BIN)/landcover stats $(DEMO)/map.tif
	@echo
	@echo "map:      $(DEMO)/map.tif"
	@echo "polygons: $(DEMO)/polygons.gpkg"
	@echo "picture:  $(DEMO)/picture.png"

test: setup
	$(BIN)/python -m pytest

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest

bench: setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[bench]'
	$(BIN)/python benchmarks/bench.py --write docs/performance.md

clean:
	rm -rf $(VENV) $(DEMO)
