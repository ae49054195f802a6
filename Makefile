# Everything runs in .venv, which the first target that needs it makes.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: setup browser demo test lint bench clean

setup: $(VENV)/ready

# The browser tests' Chromium and frontends; without apt they skip and say so.
browser: $(VENV)/ready
	tools/install_chromium.sh
	tools/install_frontends.sh $(BIN)/python

# Torch goes in first and pinned: nothing that follows may then choose another build of it.
$(VENV)/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) --upgrade pip
	$(PIP) --constraint constraints.txt torch
	$(PIP) --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: setup
	$(BIN)/ldmsid synth astronaut --ratio 250 --iso 1600 --overwrite -o out/astronaut.dng
	$(BIN)/ldmsid enhance out/astronaut.dng --ratio 250 --overwrite -o out
	$(BIN)/ldmsid score out/astronaut.dng out/astronaut.png out/astronaut_truth.png \
		--sheet out/sheet.png --overwrite
	@echo "Look at out/sheet.png: naively amplified | enhanced | truth."

test: lint browser
	$(BIN)/python -P -m pytest

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: setup
	$(BIN)/python benchmarks/raw_load.py
	$(BIN)/python benchmarks/haar.py
	$(BIN)/python benchmarks/enhance_12mp.py
	$(BIN)/python benchmarks/comfy_pack.py
	$(BIN)/python benchmarks/convert.py
	$(BIN)/python benchmarks/step_sd21.py
	$(BIN)/python benchmarks/decode_sd21.py
	$(BIN)/python benchmarks/work.py
	$(BIN)/python benchmarks/seams.py --short
	$(BIN)/python benchmarks/bounded.py --megapixels 12
	$(BIN)/python benchmarks/crops.py --short
	$(BIN)/python benchmarks/steps.py --short
	$(BIN)/python benchmarks/frame_sizes.py --short
	$(BIN)/python benchmarks/released_quality.py --steps 10
	$(BIN)/python benchmarks/data_loading.py --short
	$(BIN)/python benchmarks/training_step.py --short
	$(BIN)/python benchmarks/training_memory.py --short --latent 32
	$(BIN)/python benchmarks/training_cost.py
	$(BIN)/python benchmarks/gpu.py

clean:
	rm -rf $(VENV) out build *.egg-info
