#!/usr/bin/env bash
# Stops the command that tpu_run.sh started: Ctrl-C on all workers; a training run saves first.
#
#   NAME=blip ZONE=us-east5-a launch/tpu_stop.sh [--dry-run]
set -euo pipefail

[[ "${1:-}" != --dry-run ]] || DRY_RUN=1
# shellcheck source=launch/tpu.sh
source "$(dirname "${BASH_SOURCE[0]}")/tpu.sh"
if [[ "${1:-}" == --help ]]; then usage; exit; fi
cd "$(dirname "${BASH_SOURCE[0]}")/.."
need NAME ZONE

ssh_to all "bash blip_jax/launch/tpu_worker.sh stop"
