#!/usr/bin/env bash
# Runs a command as a pod's first process and forwards SIGTERM to it. A training run that saved a
# checkpoint after SIGTERM exits with 0 although it is not finished: the pod then exits with 143, so
# that it counts as failed and is restarted.
#
#   launch/pod.sh blip-jax train --config configs/pretrain.py --workdir gs://BUCKET/pretrain \
#       --config.data.mixture=gs://BUCKET/mixture.json
set -euo pipefail

child="" terminated=""
forward_term() { [[ -z "$child" ]] || kill -TERM "$child" 2>/dev/null || true; }
trap 'terminated=143; forward_term' TERM
"$@" &
child=$!
[[ -z "$terminated" ]] || forward_term  # the signal came before the command had started

status=0
while true; do  # a signal interrupts `wait`, but not the command
  wait "$child" && status=0 || status=$?
  kill -0 "$child" 2>/dev/null || break
done
exit "${terminated:-$status}"
