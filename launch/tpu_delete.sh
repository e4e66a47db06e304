#!/usr/bin/env bash
# Deletes a TPU that tpu_run.sh created, its queued resource, and everything on its disks.
#
#   NAME=blip ZONE=us-east5-a launch/tpu_delete.sh [--dry-run]
set -euo pipefail

[[ "${1:-}" != --dry-run ]] || DRY_RUN=1
# shellcheck source=launch/tpu.sh
source "$(dirname "${BASH_SOURCE[0]}")/tpu.sh"
if [[ "${1:-}" == --help ]]; then usage; exit; fi
cd "$(dirname "${BASH_SOURCE[0]}")/.."
need NAME ZONE

delete_tpu
