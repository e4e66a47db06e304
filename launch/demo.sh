#!/usr/bin/env bash
# BLIP's whole circle on the embedded world, with no download of data: pre-train, fine-tune
# captioner and filter, CapFilt, pre-train again, evaluate both, report.
#
#   launch/demo.sh                                 into runs/shapes
#   WORKDIR=/tmp/try launch/demo.sh                somewhere else (local or gs://)
#   launch/demo.sh --config.FIELD=VALUE            extra arguments go to blip-jax
# Run it again after an interruption and it goes on where it stopped.
set -euo pipefail

WORKDIR="${WORKDIR:-runs/shapes}"

if [[ "$WORKDIR" != *://* && "$WORKDIR" != /* ]]; then
  WORKDIR="$PWD/$WORKDIR"
fi
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/venv.sh
use_venv metrics

echo "the report will be $WORKDIR/report.html"
exec blip-jax bootstrap --config configs/shapes.py --workdir "$WORKDIR" "$@"
