# Sourced by tpu_run.sh after tpu.sh: the steps from no TPU to the end of COMMAND.
# shellcheck shell=bash disable=SC2034,SC2154
# The steps leave `status`, the exit status, and `again`: 1 if it was an interruption.

worker() {  # WORKER VERB: see tpu_worker.sh
  ssh_to "$1" "bash blip_jax/launch/tpu_worker.sh $2"
}

# make_ready ATTEMPT: returns when the TPU is there, made anew if it was taken away. From the
# second attempt on, gcloud's refusals (no chips left, no connection) are waited out.
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
      *) fail "$NAME is $state; look with 'gcloud compute tpus queued-resources describe $NAME'" \
        "or delete it with launch/tpu_delete.sh" ;;
    esac
    sleep "$POLL"
  done
}

begin() {  # copies, installs and starts, unless this very command is running on all workers
  status=0 again=0
  if [[ -z "$DRY_RUN" ]] && worker all "running$COMMAND" >/dev/null 2>&1; then
    echo "$NAME: the command is running; following it" >&2
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

# Prints worker 0's log until all workers have ended or the TPU is gone. The connections have
# process groups of their own: a hanging one is ended with all its processes.
follow() {
  local state log end lost=0
  set -m
  worker 0 follow </dev/null &
  log=$!
  worker all await </dev/null >"$SCRATCH/ended" &
  end=$!
  set +m
  trap 'hang_up "$log" "$end"
    echo "$NAME: the command runs on; the same line follows it again" >&2
    exit 130' INT TERM HUP
  while kill -0 "$end" 2>/dev/null; do
    state="$(tpu_state)" || state=READY  # gcloud has no answer: that says nothing of the TPU
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
  judge "$lost"
}

hang_up() {  # PROCESS...: ends their groups
  local process
  for process in "$@"; do
    kill -KILL -- "-$process" 2>/dev/null
  done
}

# judge LOST: from what the workers reported, if no connection was lost. 143 is a SIGTERM and 75
# a run that vanished: a machine went down, and what the others died of then is no failure.
judge() {
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
