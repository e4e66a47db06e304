#!/usr/bin/env bash
# A `gcloud` for tests/fake_cloud.py: TPUs are files in $FAKE, their workers folders beside them.
#   calls            every command line
#   node, queued     state of the TPU and of its queued resource; no file: there is none. A state
#                    a line: each look takes the first away, and the last one stays.
#   waits            what a created queued resource goes through; ACTIVE makes the TPU
#   refuse           the sub-commands that fail, as in "tpu-vm create", and how often
set -euo pipefail
cd "$FAKE"
echo "$*" >>calls

worker="" command="" next=0
for argument in "$@"; do
  case "$argument" in
    --worker=*) worker="${argument#*=}" ;;
    --command=*) command="${argument#*=}" ;;
  esac
done
[[ "$worker" != all ]] || worker="$(seq -s ' ' 0 "$((WORKERS - 1))")"

state() {
  if [[ ! -e "$1" ]]; then
    echo "ERROR: (gcloud) NOT_FOUND: Resource 'projects/p/$1' was not found" >&2
    exit 1
  fi
  head -n 1 "$1"
  [[ "$(wc -l <"$1")" == 1 ]] || sed -i 1d "$1"
}

away() {  # the machines with all that is on them
  local worker running
  for worker in worker*; do
    export TMUX_TMPDIR="$SOCKETS/$worker"
    for running in $(tmux -L blip list-panes -a -F '#{pane_pid}' 2>/dev/null); do
      kill -KILL -- "-$running" || true
    done
    rm -rf "$worker" "${SOCKETS:?}/$worker"
  done
  rm -f node
}

on() {  # WORKER: runs the command as its shell would
  mkdir -p "worker$1" "$SOCKETS/worker$1"
  cd "worker$1"
  HOME="$PWD" HOSTNAME="t1v-n-0a1b2c3d-w-$1" TMUX_TMPDIR="$SOCKETS/worker$1" bash -c "$command"
}

if [[ -s refuse ]] && grep -qx "$3 $4" refuse; then
  sed -i 1d refuse
  echo "ERROR: (gcloud) There is no more capacity in the zone" >&2
  exit 1
fi
case "$3 $4" in
  "tpu-vm describe") state node ;;
  "queued-resources describe")
    state queued
    # In this order a resource that somebody deletes meanwhile, queued first, stays deleted.
    [[ -e node || -e taken || "$(cat queued)" != ACTIVE ]] || echo READY >node
    ;;
  "tpu-vm create") echo READY >node ;;
  "queued-resources create")
    rm -f taken
    cp waits queued
    ;;
  "tpu-vm delete") away ;;
  "queued-resources delete")
    away
    rm -f queued
    ;;
  "tpu-vm scp")
    for next in $worker; do
      mkdir -p "worker$next"
      cp "$5" "worker$next/${6#*:}"
    done
    ;;
  "tpu-vm ssh")
    ended=() status=0
    for next in $worker; do
      (on "$next") &
      ended+=("$next:$!")
    done
    for next in "${ended[@]}"; do
      wait "${next#*:}" || {
        last=$?
        echo "##### Command execution on worker ${next%:*} failed with exit status $last." >&2
        (( status )) || status=$last
      }
    done
    exit "$status"
    ;;
  *)
    echo "ERROR: (gcloud) Invalid choice: '$3 $4'" >&2
    exit 2
    ;;
esac
