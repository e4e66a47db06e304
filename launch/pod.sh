#!/usr/bin/env bash
# Runs a command as a pod's first process, and passes SIGTERM on to it. A training that saved upon
# SIGTERM ends with 0, though it is not done: the pod then ends with 143, so that it counts as
# failed and is started again.
#
#   launch/pod.sh blip-jax train --config configs/pretrain.py --workdir gs://BUCKET/pretrain
set -euo pipefail

child="" terminated=""
pass_on() { [[ -z "$child" ]] || kill -TERM "$child" 2>/dev/null || true; }
trap 'terminated=143; pass_on' TERM
"$@" &
child=$!
[[ -z "$terminated" ]] || pass_on  # it came before the command was there

status=0
while true; do  # a signal ends `wait`, but not the command
  wait "$child" && status=0 || status=$?
  kill -0 "$child" 2>/dev/null || break
done
exit "${terminated:-$status}"
