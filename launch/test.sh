#!/usr/bin/env bash
# Checks style and runs the tests, in an environment it makes itself (.venv).
#
#   launch/test.sh                        everything that needs no PyTorch
#   launch/test.sh tests/test_logger.py   extra arguments go to pytest
#   TORCH=2.13.0 launch/test.sh           also the comparisons with PyTorch
#   TPU=1 launch/test.sh                  also compiling for TPUs (no TPU needed; Linux, x86-64)
set -euo pipefail

TORCH="${TORCH:-}"  # version of PyTorch to install; empty: none, and its tests skip
TPU="${TPU:-}"  # anything: install the TPU compiler that jax pins; empty: its tests skip

cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/venv.sh
use_venv "test${TPU:+,tpu}" ${TORCH:+"torch==$TORCH"}

python -m ruff check .
python -m ruff format --check .
exec python -m pytest -n auto --maxprocesses 4 --dist loadfile "$@"
