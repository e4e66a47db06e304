#!/usr/bin/env bash
# Deletes a TPU of tpu_run.sh, its queued resource too, and all that is on its disks.
#
#   NAME=blip ZONE=us-east5-a launch/tpu_delete.sh [--dry-run]
set -euo pipefail

[[ "${1:-}" != --dry-run ]] || DRY_RUN=1
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=launch/tpu.sh
source launch/tpu.sh
need NAME ZONE

delete_tpu
