"""launch/tpu_run.sh and its siblings against a fake gcloud: from no TPU to the end of a command."""

import os
import shutil
import signal
import subprocess

import pytest
from fake_cloud import TRAIN, project

NEEDS_TMUX = pytest.mark.skipif(not shutil.which("tmux"), reason="needs tmux")


@pytest.fixture
def cloud(tmp_path):
    yield from project(tmp_path)


BEGIN = ["tpu-vm scp", "ssh all tar", "ssh all install", "ssh all start"]
FOLLOW = ["ssh 0 follow", "ssh all await"]


def rounds(calls: list[str]) -> list[str]:
    """The two connections of `follow` begin at the same time: in a fixed order."""
    for i, pair in enumerate(zip(calls, calls[1:])):
        if set(pair) == set(FOLLOW):
            calls[i : i + 2] = FOLLOW
    return calls


@NEEDS_TMUX
def test_creates_installs_and_runs_on_all_workers(cloud):
    cloud.write("training", 'echo "$HOSTNAME: $*" | tee -a "$FAKE/ran"; pwd')
    status, out, err = cloud.call("tpu_run.sh", *TRAIN, QUEUE="", SPOT="1", PROJECT="p")
    assert status == 0, err
    assert rounds(cloud.calls()) == ["tpu-vm create", "ssh all running", *BEGIN, *FOLLOW]
    for option in "--accelerator-type=v5p-64 --version=v2-alpha-tpuv5 --spot --project=p".split():
        assert option in cloud.options("tpu-vm create")
    said = " ".join(TRAIN[1:])  # the comma and all
    assert sorted(cloud.read("ran").splitlines()) == [
        f"t1v-n-0a1b2c3d-w-{worker}: {said}" for worker in (0, 1)
    ]
    # Only worker 0 is heard, and the command stands in the copied checkout.
    assert out.splitlines()[-2:] == [
        f"t1v-n-0a1b2c3d-w-0: {said}",
        f"{cloud.folder}/worker0/blip_jax",
    ]
    assert "w-1" not in out
    assert (cloud.folder / "worker1/blip_jax/configs/pretrain.py").exists()
    assert not (cloud.folder / "worker1/blip_jax/tests").exists()
    assert cloud.read("installed").count("-e .[tpu,gcs]") == 2
    assert cloud.read("node") == "READY\n"  # deleted on request only


@NEEDS_TMUX
def test_arguments_arrive_as_they_were_typed(cloud):
    cloud.write("node", "READY")
    cloud.write("training", 'printf "<%s>" "$@"')
    odd = ["a b", "it's", '"$HOME"', "*", "", "x;y", "ü"]
    status, out, err = cloud.call("tpu_run.sh", "blip-jax", *odd, WORKERS="1")
    assert (status, out.splitlines()[-1]) == (0, "".join(f"<{word}>" for word in odd)), err


@NEEDS_TMUX
def test_waits_in_the_queue(cloud):
    cloud.write("waits", "WAITING_FOR_RESOURCES\nWAITING_FOR_RESOURCES\nPROVISIONING\nACTIVE")
    status, _, err = cloud.call(
        "tpu_run.sh", *TRAIN, TYPE="v5e-64", OPTIONS="--network=n --reserved"
    )
    assert status == 0, err
    assert cloud.calls()[:2] == ["queued-resources create", "ssh all running"]
    created = cloud.options("queued-resources create")
    for option in (
        "create blip --node-id=blip --runtime-version=v2-alpha-tpuv5-lite",
        "--accelerator-type=v5litepod-64 --network=n --reserved",
    ):
        assert option in created
    assert "--spot" not in created
    assert "blip: NONE\nblip: WAITING\nblip: READY" in err


def test_a_failed_request_is_said(cloud):
    cloud.write("waits", "WAITING_FOR_RESOURCES\nFAILED")
    status, _, err = cloud.call("tpu_run.sh", *TRAIN)
    assert status == 2
    assert err.splitlines()[-1].startswith("error: blip is FAILED; inspect it with")
    assert cloud.calls() == ["queued-resources create"]


def test_no_chips_at_once_is_the_end(cloud):
    cloud.write("refuse", "tpu-vm create")
    status, _, err = cloud.call("tpu_run.sh", *TRAIN, QUEUE="")
    assert status == 1 and "no more capacity" in err
    assert cloud.calls() == ["tpu-vm create"]


def test_a_gcloud_that_cannot_look_makes_nothing(cloud):
    cloud.write("refuse", "tpu-vm describe")
    status, _, err = cloud.call("tpu_run.sh", *TRAIN)
    assert status == 1 and err.startswith("ERROR: (gcloud)")
    assert cloud.calls() == []


PREEMPTED = """
echo "$HOSTNAME" >>"$FAKE/ran"
if [[ ! -e "$FAKE/checkpoint" ]]; then
  while [[ "$(sort -u "$FAKE/ran" | wc -l)" -lt 2 ]]; do sleep 0.02; done
  [[ "$HOSTNAME" != *-w-0 ]] || { touch "$FAKE/checkpoint" "$FAKE/taken"; %s; }
  sleep 100
fi
echo goes on
"""


@NEEDS_TMUX
@pytest.mark.parametrize("queue", ["1", ""])
def test_starts_again_after_preemption(cloud, queue):
    taken = (
        "rm $FAKE/node; echo SUSPENDING >$FAKE/queued" if queue else "echo PREEMPTED >$FAKE/node"
    )
    cloud.write("training", PREEMPTED % taken)
    kind = "queued-resources" if queue else "tpu-vm"
    if not queue:  # and then there are no free chips at first
        cloud.write("training", "echo tpu-vm create >$FAKE/refuse;" + PREEMPTED % taken)
    status, out, err = cloud.call("tpu_run.sh", *TRAIN, QUEUE=queue)
    assert status == 0, err
    assert out.splitlines()[-1] == "goes on"
    once = ["ssh all running", *BEGIN, *FOLLOW]
    creates = [f"{kind} create"] * (1 if queue else 2)
    assert rounds(cloud.calls()) == [
        *[f"{kind} create", *once],
        *[f"{kind} delete", *creates, *once],
    ]
    assert len(cloud.read("ran").splitlines()) == 4
    assert ("--force" in cloud.read("calls")) == bool(queue)


@NEEDS_TMUX
def test_saved_at_sigterm_is_not_done(cloud):
    """systemd's shutdown: all processes get SIGTERM, and tmux ends before the command has saved."""
    cloud.write(
        "training",
        """
if [[ -e "$FAKE/saved" ]]; then echo goes on; exit; fi
trap 'sleep 1; touch "$FAKE/saved"; exit 0' TERM
echo "$$ $PPID" >>"$FAKE/processes"
while true; do sleep 0.05; done
""",
    )
    process = cloud.start("tpu_run.sh", *TRAIN, WORKERS="1")
    cloud.wait_for("processes", "\n")
    server = subprocess.run(
        ["tmux", "-L", "blip", "display-message", "-p", "#{pid}"],
        env=cloud.env | {"TMUX_TMPDIR": cloud.env["SOCKETS"] + "/worker0"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    for one in [*cloud.read("processes").split(), server]:
        os.kill(int(one), signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out.splitlines()[-1]) == (0, "goes on"), err
    assert (cloud.folder / "saved").exists()
    assert len(cloud.read("processes").splitlines()) == 1  # started again only after it had saved
    assert "interrupted; restarting the same command" in err


@NEEDS_TMUX
def test_a_worker_that_fails_is_named_and_its_status_passed_on(cloud):
    cloud.write("training", "echo half way; [[ $HOSTNAME != *-w-1 ]] || { echo why; exit 7; }")
    status, _, err = cloud.call("tpu_run.sh", *TRAIN)
    assert status == 7
    assert "worker 1: why" in err
    last = err.splitlines()[-1]
    assert last.startswith("error: worker 1: blip-jax train --config")
    assert last.endswith("ended with status 7")
    assert "worker 0:" not in err
    assert cloud.calls().count("ssh all start") == 1  # a failure is not tried again


@NEEDS_TMUX
def test_an_installation_that_fails_on_one_worker(cloud):
    status, _, err = cloud.call("tpu_run.sh", *TRAIN, BROKEN="1")
    assert status == 9
    assert "error: worker 1: install failed with status 9" in err
    assert cloud.calls()[-1] == "ssh all install"


@NEEDS_TMUX
def test_follows_a_running_command_stops_and_deletes_it(cloud):
    cloud.write(
        "training",
        'trap "echo saved; exit 130" INT; echo begun >>$FAKE/ran; while :; do sleep 0.05; done',
    )
    first = cloud.start("tpu_run.sh", *TRAIN)
    cloud.wait_for("ran", "begun\nbegun\n")
    cloud.wait_for("calls", "await")
    first.send_signal(signal.SIGINT)
    _, err = first.communicate(timeout=60)
    assert first.returncode == 130 and "the command keeps running" in err

    other, _, err = cloud.call("tpu_run.sh", "blip-jax", "evaluate")
    assert other == 2
    assert "error: worker 0 runs another command: blip-jax train" in err

    (cloud.folder / "calls").write_text("")
    second = cloud.start("tpu_run.sh", *TRAIN)
    cloud.wait_for("calls", "await")
    assert cloud.call("tpu_stop.sh")[0] == 0
    out, err = second.communicate(timeout=60)
    assert second.returncode == 130 and out.splitlines()[-1] == "saved"
    assert "following its log" in err and "ssh all start" not in cloud.calls()
    assert cloud.read("ran") == "begun\nbegun\n"

    assert cloud.call("tpu_delete.sh")[0] == 0
    assert "queued-resources delete blip --force" in cloud.read("calls")
    assert not cloud.read("node") and not cloud.read("queued")
    assert cloud.call("tpu_delete.sh")[0] == 0  # nothing there: nothing to do
    assert cloud.calls().count("queued-resources delete") == 1


@NEEDS_TMUX
def test_deleted_by_somebody_it_is_not_made_again(cloud):
    cloud.write("training", "rm $FAKE/queued $FAKE/node; sleep 100")
    status, _, err = cloud.call("tpu_run.sh", *TRAIN, WORKERS="1")
    assert (status, err.splitlines()[-1]) == (2, "error: blip was deleted")
    assert cloud.calls().count("queued-resources create") == 1
