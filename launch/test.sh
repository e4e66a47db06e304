#!/usr/bin/env bash
# Checks style and runs the tests, in a virtual environment that it creates (.venv).
#
#   launch/test.sh                        everything that needs no PyTorch
#   launch/test.sh tests/test_logger.py   extra arguments go to pytest
#   TORCH=2.13.0 launch/test.sh           also the comparisons with PyTorch
#   TPU=1 launch/test.sh                  also compiling for TPUs (no TPU needed; Linux, x86-64)
set -euo pipefail

if [[ "${1:-}" == --help ]]; then  # prints the comment above
  sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//p}' "$0"
  exit
fi

TORCH="${TORCH:-}"  # version of PyTorch to install; empty: none, and tests that need it skip
TPU="${TPU:-}"  # anything: install the TPU compiler that jax pins; empty: tests that need it skip

cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/venv.sh
use_venv "test${TPU:+,tpu}" ${TORCH:+"torch==$TORCH"}

python -m ruff check .
python -m ruff format --check .
python -m vulture
exec python -m pytest -n auto --maxprocesses 4 --dist loadfile "$@"
