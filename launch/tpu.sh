# Sourced by the tpu_*.sh scripts: which TPU, and the gcloud commands that make and remove it.
# shellcheck shell=bash

NAME="${NAME:-}"        # of the TPU, and of its queued resource
ZONE="${ZONE:-}"        # such as us-east5-a
TYPE="${TYPE:-}"        # v4-32, v5e-64 (Google's v5litepod-64), v5p-64, v6e-64
VERSION="${VERSION:-}"  # of the machines' software; empty: the one for TYPE
PROJECT="${PROJECT:-}"  # empty: gcloud's own
SPOT="${SPOT:-}"        # 1: cheaper, and may be taken away at any time
QUEUE="${QUEUE-1}"      # 1: waits in the queue for free chips; empty: now or never
OPTIONS="${OPTIONS:-}"  # further options of gcloud's create, such as --service-account=…
POLL="${POLL:-30}"      # seconds between two looks at the TPU's state
DRY_RUN="${DRY_RUN:-}"  # 1: prints the commands, runs none

TYPE="${TYPE/#v5e-/v5litepod-}"
SCRATCH="$(mktemp -d)"
trap 'rm -rf "$SCRATCH"' EXIT

fail() {  # what a person can mend: one line, status 2
  echo "error: $*" >&2
  exit 2
}

need() {  # VARIABLE...: those without which nothing can be done
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

run() {  # COMMAND...: runs it, or prints it so that a shell can read it
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

ssh_to() {  # WORKER (a number or all) COMMAND: a dead connection is noticed within a minute
  tpus tpu-vm ssh "$NAME" --worker="$1" --command="$2" \
    --ssh-flag=-oServerAliveInterval=15 --ssh-flag=-oServerAliveCountMax=4
}

look() {  # KIND FIELD: prints the state of a resource, nothing if it does not exist
  if ! tpus "$1" describe "$NAME" --format="value($2)" 2>"$SCRATCH/errors"; then
    grep -q NOT_FOUND "$SCRATCH/errors" && return
    cat "$SCRATCH/errors" >&2
    return 1
  fi
}

# Prints NONE, WAITING, READY, GONE (taken away: has to be deleted and made anew), DELETING,
# or a state that a person has to look into. Fails if gcloud cannot tell.
tpu_state() {
  local node queued
  queued="$(look queued-resources state.state)" || return  # first: once ACTIVE, the TPU is there
  node="$(look tpu-vm state)" || return
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
  queued="$(look queued-resources state.state)" || return
  node="$(look tpu-vm state)" || return
  if [[ -n "$queued" ]]; then
    tpus queued-resources delete "$NAME" --force
  elif [[ -n "$node" ]]; then
    tpus tpu-vm delete "$NAME"
  fi
}
