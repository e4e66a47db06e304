# Sourced by the tpu_*.sh scripts: which TPU, and the gcloud commands that create and delete it.
# shellcheck shell=bash

NAME="${NAME:-}"        # name of the TPU and of its queued resource
ZONE="${ZONE:-}"        # such as us-east5-a
TYPE="${TYPE:-}"        # v4-32, v5e-64 (Google's v5litepod-64), v5p-64, v6e-64
VERSION="${VERSION:-}"  # software version of the TPU VMs; empty: the default for TYPE
PROJECT="${PROJECT:-}"  # empty: gcloud's default project
SPOT="${SPOT:-}"        # 1: spot (cheaper, can be preempted at any time)
QUEUE="${QUEUE-1}"      # 1: waits in the queue for free chips; empty: fails unless chips are free now
OPTIONS="${OPTIONS:-}"  # more options for gcloud's create, such as --service-account=…
POLL="${POLL:-30}"      # seconds between two checks of the TPU's state
DRY_RUN="${DRY_RUN:-}"  # 1: prints the commands without running them

TYPE="${TYPE/#v5e-/v5litepod-}"
SCRATCH="$(mktemp -d)"
trap 'rm -rf "$SCRATCH"' EXIT

fail() {  # a user error: one line, status 2
  echo "error: $*" >&2
  exit 2
}

need() {  # VARIABLE...: fails unless these are set
  local variable
  for variable in "$@"; do
    [[ -n "${!variable}" ]] || fail "$variable is not set; for example: NAME=blip" \
      "ZONE=us-east5-a TYPE=v5p-64 $0 …"
  done
  [[ -n "$DRY_RUN" ]] || command -v gcloud >/dev/null ||
    fail "gcloud is not on the PATH; install it: https://cloud.google.com/sdk/docs/install"
  case "$TYPE" in
    v5litepod-*) VERSION="${VERSION:-v2-alpha-tpuv5-lite}" ;;
    v5p-*) VERSION="${VERSION:-v2-alpha-tpuv5}" ;;
    v6e-*) VERSION="${VERSION:-v2-alpha-tpuv6e}" ;;
    *) VERSION="${VERSION:-tpu-ubuntu2204-base}" ;;
  esac
}

usage() {  # prints the comment at the top of the script that was called
  sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//p}' "$0"
}

run() {  # COMMAND...: runs it, or prints it quoted for a shell
  if [[ -n "$DRY_RUN" ]]; then
    printf '%q ' "$@"
    echo
  else
    "$@"
  fi
}

tpus() {  # gcloud compute tpus …
  run gcloud compute tpus "$@" --zone="$ZONE" ${PROJECT:+--project="$PROJECT"} --quiet
}

ssh_to() {  # WORKER (a number or all) COMMAND: a dead connection is detected within a minute
  tpus tpu-vm ssh "$NAME" --worker="$1" --command="$2" \
    --ssh-flag=-oServerAliveInterval=15 --ssh-flag=-oServerAliveCountMax=4
}

resource_state() {  # KIND FIELD: prints the state of a resource, nothing if it does not exist
  if ! tpus "$1" describe "$NAME" --format="value($2)" 2>"$SCRATCH/errors"; then
    grep -q NOT_FOUND "$SCRATCH/errors" && return
    cat "$SCRATCH/errors" >&2
    return 1
  fi
}

# Prints NONE, WAITING, READY, GONE (preempted: has to be deleted and created again), DELETING,
# or a state that needs a person's attention. Fails if gcloud gives no answer.
tpu_state() {
  local node queued
  queued="$(resource_state queued-resources state.state)" || return  # asked first: once it is ACTIVE, the TPU exists
  node="$(resource_state tpu-vm state)" || return
  case "$node/$queued" in
    */SUSPEND* | PREEMPTED/* | TERMINATED/* | /ACTIVE) echo GONE ;;
    READY/*) echo READY ;;
    /) echo NONE ;;
    DELETING/* | */DELETING) echo DELETING ;;
    /FAILED) echo FAILED ;;
    /* | CREATING/* | STARTING/* | RESTARTING/* | REIMAGING/* | REPAIRING/*) echo WAITING ;;
    *) echo "$node" ;;
  esac
}

create_tpu() {
  local -a options
  read -ra options <<<"--accelerator-type=$TYPE ${SPOT:+--spot} $OPTIONS"
  if [[ -n "$QUEUE" ]]; then
    tpus queued-resources create "$NAME" --node-id="$NAME" --runtime-version="$VERSION" \
      "${options[@]}"
  else
    tpus tpu-vm create "$NAME" --version="$VERSION" "${options[@]}"
  fi
}

delete_tpu() {  # the queued resource with its TPU, or the TPU alone
  local queued node
  queued="$(resource_state queued-resources state.state)" || return
  node="$(resource_state tpu-vm state)" || return
  if [[ -n "$queued" ]]; then
    tpus queued-resources delete "$NAME" --force
  elif [[ -n "$node" ]]; then
    tpus tpu-vm delete "$NAME"
  fi
}
