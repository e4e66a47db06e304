#!/usr/bin/env bash
# Runs a command on all workers of a TPU, and resumes it after a preemption.
#
#   export NAME=blip ZONE=us-east5-a TYPE=v5p-64
#   launch/tpu_run.sh blip-jax train --config configs/pretrain.py --workdir gs://BUCKET/pretrain \
#       --config.data.mixture=gs://BUCKET/mixture.json
#   launch/tpu_run.sh --dry-run COMMAND…    prints what it would do
#
# Creates the TPU unless it exists (launch/tpu.sh lists the variables: SPOT=1, QUEUE=, PROJECT …),
# copies this checkout to its workers, installs it, and starts the command there in tmux. Prints
# the log of worker 0; the exit status is the command's. Ctrl-C or a lost connection leaves the
# command running: the same line attaches to it again and starts nothing twice.
#   launch/tpu_stop.sh     stops the command, which saves first
#   launch/tpu_delete.sh   deletes the TPU; nothing else does, and until then it is billed
# Needs gcloud and, once, `ssh-add ~/.ssh/google_compute_engine`. The workdir must outlive the
# machines (gs://…). Environment variables for the command: tpu_run.sh env HF_TOKEN=… blip-jax …
set -euo pipefail

EXTRAS="${EXTRAS:-tpu,gcs}"  # extras of setup.py to install
FILES="${FILES:-blip_jax configs launch setup.py pyproject.toml README.md LICENSE}"  # files to copy
RESTARTS="${RESTARTS:-100}"  # largest number of restarts

if [[ "${1:-}" == --dry-run ]]; then
  DRY_RUN=1
  shift
fi
# shellcheck source=launch/tpu.sh
source "$(dirname "${BASH_SOURCE[0]}")/tpu.sh"
if [[ "${1:-}" == --help ]]; then usage; exit; fi
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=launch/tpu_steps.sh
source launch/tpu_steps.sh
need NAME ZONE TYPE
(( $# )) || fail "no command; for example: $0 blip-jax train --config configs/pretrain.py …"

COMMAND="$(printf ' %q' "$@")"

if [[ -n "$DRY_RUN" ]]; then
  tpus queued-resources describe "$NAME" --format="value(state.state)"
  tpus tpu-vm describe "$NAME" --format="value(state)"
  create_tpu
  begin
  worker 0 follow
  worker all await
  echo "# after a preemption: this, then all of the above again:"
  tpus queued-resources delete "$NAME" --force
  exit
fi

for (( attempt = 0; attempt <= RESTARTS; attempt++ )); do
  make_ready "$attempt"
  if begin && follow; then
    exit 0
  fi
  (( again )) || exit "$status"
  echo "$NAME: interrupted; restarting the same command from its checkpoint" >&2
  sleep "$POLL"
done
fail "interrupted $RESTARTS times; set RESTARTS=… to allow more"
