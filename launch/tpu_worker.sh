#!/usr/bin/env bash
# The part of tpu_run.sh that runs on each worker, called with one of
#
#   install EXTRAS      creates .venv with this repository
#   start COMMAND...    runs it in tmux, after stopping an earlier run of it
#   running COMMAND...  exit status 0 if this same command is running
#   follow              prints the log as it grows, until the command ends
#   await               waits for the end and prints "worker N ended with STATUS"
#   stop                Ctrl-C for the command, which saves and ends
set -euo pipefail

EVERY="${EVERY:-5}"               # seconds between two checks
RUN="${RUN:-$HOME/blip_jax_run}"  # holds the command, its log and its exit status
WORKER="${HOSTNAME##*-w-}"        # TPU VMs are named t1v-n-0a1b2c3d-w-N

cd "$(dirname "${BASH_SOURCE[0]}")/.."
mkdir -p "$RUN"

# The command may outlive tmux while it saves a checkpoint after SIGTERM: `session` holds the lock.
alive() {
  tmux -L blip has-session -t blip 2>/dev/null || ! flock --shared --nonblock "$RUN/lock" true
}
leader() { cat "$RUN/leader"; }  # of the command's process group

install() {
  # shellcheck source=launch/venv.sh
  source launch/venv.sh
  if ! command -v tmux >/dev/null || ! find_python >/dev/null 2>&1; then
    sudo apt-get -o DPkg::Lock::Timeout=300 update -qq
    sudo apt-get -o DPkg::Lock::Timeout=300 install -qq tmux python3.11 python3.11-venv
  fi
  use_venv "$1"
}

start() {
  if alive && ! running "$@"; then
    echo "error: worker $WORKER runs another command:$(cat "$RUN/command");" \
      "end it with launch/tpu_stop.sh" >&2
    exit 2
  fi
  stop
  rm -f "$RUN/status"
  [[ ! -e "$RUN/log" ]] || mv "$RUN/log" "$RUN/log.before"
  printf ' %q' "$@" >"$RUN/command"
  tmux -L blip new-session -d -P -F '#{pane_pid}' -s blip \
    "bash launch/tpu_worker.sh session$(cat "$RUN/command")" >"$RUN/leader"
}

running() { alive && [[ "$(cat "$RUN/command")" == "$(printf ' %q' "$@")" ]]; }

# In tmux. When the machine is shut down, all processes get SIGTERM and those in tmux SIGHUP too,
# which must not interrupt the saving of a checkpoint. A training run that saved exits with 0
# although it is not finished: the recorded status is then 143.
session() {
  local status=0 terminated=""
  exec 9>"$RUN/lock"
  flock 9
  trap '' HUP
  trap 'terminated=143' TERM
  trap : INT
  export PATH="$PWD/.venv/bin:$PATH"
  "$@" >>"$RUN/log" 2>&1 </dev/null 9>&- || status=$?
  echo "${terminated:-$status}" >"$RUN/status.new"
  mv "$RUN/status.new" "$RUN/status"
}

follow() {
  local running
  touch "$RUN/log"
  alive && running="$(leader)" || running=""
  tail -n 20 ${running:+-s "$EVERY" --pid="$running" -F} "$RUN/log" 2>/dev/null
}

await() {
  local status
  while alive; do sleep "$EVERY"; done
  status="$(cat "$RUN/status" 2>/dev/null || echo 75)"  # no status: the machine went down
  if [[ "$status" != 0 ]]; then
    tail -n 20 "$RUN/log" | sed "s/^/worker $WORKER: /" >&2
  fi
  echo "worker $WORKER ended with $status"
}

stop() {  # a process that hangs because other workers are gone is killed after five minutes
  local attempt
  alive || return 0
  kill -INT -- "-$(leader)" || return 0
  for (( attempt = 0; attempt < 60; attempt++ )); do
    alive || return 0
    sleep "$EVERY"
  done
  kill -KILL -- "-$(leader)"
}

VERB="$1"
trap 'status=$?; (( status == 0 )) ||
  echo "error: worker $WORKER: $VERB failed with status $status" >&2' EXIT
"$@"
