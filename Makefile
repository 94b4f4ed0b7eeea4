# make setup · demo · test · check · bench. Every target sets up what it needs in .venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SAMPLE ?= sample_tiles/s2_eastern_shore.tif
READY := $(VENV)/.ready

.PHONY: setup demo test check bench clean

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: setup
	mkdir -p demo
	$(BIN)/landcover predict $(SAMPLE) --out demo/map.tif --overwrite
	$(BIN)/landcover vectorize demo/map.tif --out demo/polygons.gpkg --min-area 0.5ha --simplify 10 --overwrite > /dev/null
	$(BIN)/landcover preview demo/map.tif --scene $(SAMPLE) --out demo/picture.png --overwrite
	@echo
	@$(BIN)/landcover stats demo/map.tif
	@echo
	@echo "map:      demo/map.tif"
	@echo "polygons: demo/polygons.gpkg"
	@echo "picture:  demo/picture.png"

test: setup
	$(BIN)/python -m pytest

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest

bench: setup
	$(BIN)/python benchmarks/bench.py

clean:
	rm -rf $(VENV) demo
