# Sourced by tpu_run.sh after tpu.sh: the steps from creating the TPU to the end of COMMAND.
# shellcheck shell=bash disable=SC2034,SC2154
# The steps set `status`, the exit status, and `again`: 1 after an interruption.

worker() {  # WORKER VERB: see tpu_worker.sh
  ssh_to "$1" "bash blip_jax/launch/tpu_worker.sh $2"
}

# make_ready ATTEMPT: returns when the TPU is ready, created again after a preemption. From the
# second attempt on, errors of gcloud (no chips left, no connection) are retried.
make_ready() {
  local state before=""
  while true; do
    state="$(tpu_state)" || { (( $1 )) && state=UNKNOWN; } || exit
    [[ "$state" == "$before" ]] || echo "$NAME: $state" >&2
    before="$state"
    case "$state" in
      READY) return ;;
      NONE) create_tpu || (( $1 )) || exit ;;
      GONE) delete_tpu || echo "$NAME: not deleted yet; trying again" >&2 ;;
      WAITING | DELETING | UNKNOWN) ;;
      *) fail "$NAME is $state; inspect it with 'gcloud compute tpus queued-resources describe $NAME'" \
        "or delete it with launch/tpu_delete.sh" ;;
    esac
    sleep "$POLL"
  done
}

begin() {  # copies, installs and starts, unless the same command is already running on all workers
  status=0 again=0
  if [[ -z "$DRY_RUN" ]] && worker all "running$COMMAND" >/dev/null 2>&1; then
    echo "$NAME: the command is already running; following its log" >&2
    return
  fi
  copy && worker all "install $EXTRAS" && worker all "start$COMMAND" && return
  status=$?
  [[ "$(tpu_state)" == READY ]] || again=1
  return 1
}

copy() {
  # shellcheck disable=SC2086  # a list
  run tar -czf "$SCRATCH/blip_jax.tar.gz" --exclude=__pycache__ $FILES &&
    tpus tpu-vm scp "$SCRATCH/blip_jax.tar.gz" "$NAME:blip_jax.tar.gz" --worker=all &&
    ssh_to all "mkdir -p blip_jax && cd blip_jax && rm -rf $FILES && tar -xzf ../blip_jax.tar.gz"
}

# Prints worker 0's log until all workers have ended or the TPU is gone. Each connection has its
# own process group, so that a hanging one is killed with all its processes.
follow() {
  local state log end lost=0
  set -m
  worker 0 follow </dev/null &
  log=$!
  worker all await </dev/null >"$SCRATCH/ended" &
  end=$!
  set +m
  trap 'hang_up "$log" "$end"
    echo "$NAME: the command keeps running; rerun the same line to follow it" >&2
    exit 130' INT TERM HUP
  while kill -0 "$end" 2>/dev/null; do
    state="$(tpu_state)" || state=READY  # no answer from gcloud says nothing about the TPU
    [[ "$state" == READY || "$state" == WAITING ]] || break
    sleep "$POLL"
  done
  if kill -0 "$end" 2>/dev/null; then
    lost=1
    hang_up "$end"
  else
    wait "$end" || lost=1
  fi
  (( lost )) && hang_up "$log"
  wait "$log" "$end" 2>/dev/null
  trap - INT TERM HUP
  report_end "$lost"
}

hang_up() {  # PROCESS...: kills their process groups
  local process
  for process in "$@"; do
    kill -KILL -- "-$process" 2>/dev/null
  done
}

# report_end LOST: sets `again` and `status` from the workers' exit statuses; LOST is 1 if a
# connection was lost. 143 (SIGTERM) and 75 (the run vanished) mean that a machine went down: other
# workers' failures are then a consequence and are not reported.
report_end() {
  local state number ended failures=""
  again="$1"
  state="$(tpu_state)" || state=READY
  [[ "$state" != NONE && "$state" != DELETING ]] || fail "$NAME was deleted"
  while read -r number ended; do
    case "$ended" in
      0) ;;
      75 | 143) again=1 ;;
      *)
        failures+="error: worker $number:$COMMAND ended with status $ended"$'\n'
        (( status )) || status="$ended"
        ;;
    esac
  done < <(sed -n 's/^worker \(.*\) ended with \([0-9]*\)$/\1 \2/p' "$SCRATCH/ended" | sort -n)
  [[ -z "$failures" || "$state" == READY ]] || again=1
  (( again )) && return 1
  printf %s "$failures" >&2
  return "$status"
}
