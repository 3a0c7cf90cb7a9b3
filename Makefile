# make demo, make test: everything from a machine with Python 3.11 and make.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Say DEMO="trainer.max_epochs=1" for a shorter demo.
DEMO ?=

# Bytecode is written even where the environment forbids it: without it each process compiles all that it imports.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: setup test test-long test-all test-browser test-lowest lint demo

setup: $(VENV)/installed

$(VENV)/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is " + sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --constraints constraints.txt --editable '.[export,openvino,shards,timm,track,tune,web,test,dev]'
	@# Bytecode of what the tools import, which their first commands would write for 20 s of CPU.
	NO_ALBUMENTATIONS_UPDATE=1 $(BIN)/python -c "import tasks.training.fit, tasks.evaluate, tasks.predict, tasks.describe, \
		albumentations, matplotlib.figure, onnxruntime, torchvision.transforms.v2"
	@touch $@

# Each behaviour once, in minutes. Whole runs, converters, the README's commands and some further networks are in
# test-long; CI runs both at one go, since they share fixtures. All other repetitions are in test-all alone.
TESTS ?= not slow and not long and not browser
test: setup
	$(BIN)/python -m pytest -n auto -m "$(TESTS)"

test-long: setup
	$(BIN)/python -m pytest -n auto -m "long and not slow and not browser"

test-all: setup
	$(BIN)/python -m pytest -n auto -m "not browser"

# In headless Chromium, with the packages of its pages: python tools/doctor.py fetch=web. Fails where either is missing.
test-browser: setup
	$(BIN)/python -m pytest -m browser

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy

# Draws the demo data, trains on it, evaluates, predicts, exports, measures; the pictures are in demo/.
demo: setup
	$(BIN)/python tools/train.py task=segmentation backbone=mnv3_large output_dir=demo/run overwrite=true $(DEMO)
	$(BIN)/python tools/evaluate.py checkpoint=demo/run/best.ckpt output_dir=demo/evaluation
	$(BIN)/python tools/predict.py checkpoint=demo/run/best.ckpt output_dir=demo/predictions \
		source=data/demo/cityscapes/leftImg8bit/val/demo
	$(BIN)/python tools/describe.py backbone=mnv3_large task=segmentation image_size=[128,256]
	$(BIN)/python tools/export.py checkpoint=demo/run/best.ckpt export.formats=[onnx,executorch] output_dir=demo/export overwrite=true
	$(BIN)/python tools/benchmark.py checkpoint=demo/run/best.ckpt image_size=[128,256] output_dir=demo/benchmark again=true \
		runtimes=[eager,fused,onnx,executorch]
	@echo "look at demo/run/curves.png, demo/run/predictions.png, demo/predictions/ and demo/benchmark/benchmark.png"

# A few tests against the lowest versions that pyproject.toml declares, in an environment of their own.
LOWEST ?= .venv-lowest
SMOKE := tests/test_mobile_dense.py tests/tools/test_doctor.py tests/tasks/deploy/test_export.py \
	tests/tasks/transforms/test_segmentation.py tests/tasks/detection/test_coco_scores.py tests/backbones/test_timm.py
test-lowest: setup
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python $(LOWEST)
	$(BIN)/uv pip install --quiet --python $(LOWEST)/bin/python --resolution lowest-direct --editable '.[export,shards,timm,test]'
	$(LOWEST)/bin/python -m pytest -n auto -m "not slow" $(SMOKE)
