#!/usr/bin/env bash
# Ends the command that tpu_run.sh started: Ctrl-C on all workers, upon which a training saves.
#
#   NAME=blip ZONE=us-east5-a launch/tpu_stop.sh [--dry-run]
set -euo pipefail

[[ "${1:-}" != --dry-run ]] || DRY_RUN=1
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=launch/tpu.sh
source launch/tpu.sh
need NAME ZONE

ssh_to all "bash blip_jax/launch/tpu_worker.sh stop"
