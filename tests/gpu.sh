#!/usr/bin/env bash
# What a machine with a GPU is asked, in some eight minutes: the tests marked gpu, then training steps of classification,
# detection and segmentation beside timm and torchvision (ms, images/s, memory). Its words go to the second:
# tests/gpu.sh --batch 64 --compile --json steps.json
# Without a GPU it times the CPU; tests/gpu.sh --scale 0.1 --batch 2 --runs 1 tries it in a minute.
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-.venv/bin/python}
if "$PYTHON" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    "$PYTHON" -m pytest -m gpu -W ignore tests/tasks
else
    echo "no GPU: its tests are left out"
fi
"$PYTHON" tests/benchmarks/training_steps.py "$@"
