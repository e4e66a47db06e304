#!/usr/bin/env bash
# Runs the full BLIP pipeline on the synthetic Shapes dataset, with no download of data: pre-train,
# fine-tune captioner and filter, CapFilt, pre-train again, evaluate every arm, write a report.
#
#   launch/demo.sh                                 writes to runs/shapes
#   WORKDIR=/tmp/try launch/demo.sh                writes elsewhere (local or gs://)
#   launch/demo.sh --config.FIELD=VALUE            extra arguments go to blip-jax
# After an interruption, rerun the same line to resume.
set -euo pipefail

WORKDIR="${WORKDIR:-runs/shapes}"

if [[ "${1:-}" == --help ]]; then  # prints the comment above
  sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//p}' "$0"
  exit
fi

if [[ "$WORKDIR" != *://* && "$WORKDIR" != /* ]]; then
  WORKDIR="$PWD/$WORKDIR"
fi
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/venv.sh
use_venv metrics

echo "the report will be $WORKDIR/report.html"
exec blip-jax bootstrap --config configs/shapes.py --workdir "$WORKDIR" "$@"
