"""Models pushed to a hub and fetched from it, against a stand-in of its API on loopback."""

import json
import os
import subprocess
import sys

import hub_server
import numpy as np
import pytest
import tiny_dataset

from blip_jax.cli.main import main
from blip_jax.runtime.errors import UserError

# Pushes a model by the command line, loads it, and pushes it again from Python.
CODE = """
import sys
from blip_jax import models
from blip_jax.cli.main import main
workdir = sys.argv[1]
assert main(["convert", workdir, "team/tiny", "--push", "--license=apache-2.0"]) == 0
first = models.load("team/tiny")
print(first.model_type, first.params["med"]["embeddings"]["word"][0, 0])
print(first.push_to_hub("team/tiny"))
assert main(["convert", "team/tiny@0123", "out"]) == 2
assert main(["convert", "team/nothing", "out"]) == 2
"""


def environment(hub, folder, **changes) -> dict[str, str]:
    values = {
        "HF_ENDPOINT": hub.url, "HF_HOME": str(folder), "HF_TOKEN": "secret", "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_TELEMETRY": "1", "XLA_FLAGS": "",
    }  # fmt: skip
    return os.environ | values | changes


def run(code, *argv, cwd, env):
    command = [sys.executable, "-c", code, *argv]
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True)


@pytest.fixture(scope="module")
def pushed(model, tmp_path_factory):
    """A hub after CODE, what that printed, and the model."""
    folder = tmp_path_factory.mktemp("hub")
    live = model("captioner")
    workdir = tiny_dataset.save(live, str(folder / "captioner"))
    report = {"step": 1, "loss": 2.0, "eval/cider": 1.25, "eval/bleu4": None}
    (folder / "captioner" / "metrics.jsonl").write_text(json.dumps(report) + "\n")
    (folder / "cwd").mkdir()
    with hub_server.serve() as hub:
        env = environment(hub, folder / "home")
        done = run(CODE, workdir, cwd=folder / "cwd", env=env)
        assert done.returncode == 0, done.stderr[-3000:]
        yield hub, done, live, folder


def test_a_pushed_model_is_loaded_again(pushed):
    hub, done, live, _ = pushed
    commits = hub.repositories["team/tiny"]
    assert len(commits) == 2
    lines = done.stdout.splitlines()
    assert lines[0] == f"{hub.url}/team/tiny/commit/{list(commits)[0]}"
    assert lines[2] == f"{hub.url}/team/tiny/commit/{list(commits)[1]}"
    name, number = lines[1].split()
    word = np.asarray(live.params["med"]["embeddings"]["word"])
    assert name == "captioner" and float(number) == pytest.approx(word[0, 0], rel=1e-6)


def test_what_is_fetched_is_said(pushed):
    hub, done, _, folder = pushed
    first = list(hub.repositories["team/tiny"])[0]
    said = [line for line in done.stderr.splitlines() if line.startswith("fetching")]
    assert said[0].startswith(f"fetching team/tiny, revision main (commit {first}): ")
    assert f" MB, from {hub.url} to {folder / 'home'}" in said[0]
    assert "team/tiny has no revision 0123; give one of its branches" in done.stderr
    assert "team/nothing is neither a local path nor a model" in done.stderr


def test_the_card_says_what_the_checkpoint_holds(pushed):
    hub = pushed[0]
    first, second = hub.repositories["team/tiny"].values()
    card = first["README.md"].decode()
    assert "license: apache-2.0" in card.split("---")[1]
    assert "library_name: transformers" in card and "pipeline_tag: image-to-text" in card
    assert "| cider | 1.25 |" in card and "bleu4" not in card
    assert "model of type `captioner` (caption, gradcam)" in card
    assert (
        "## Training data\n\nNot stored" in card and "Not stated." in second["README.md"].decode()
    )
    assert {"config.json", "model.safetensors", "vocab.txt"} <= first.keys()


def test_a_revision_is_pinned_and_offline_nothing_is_asked(pushed):
    """The first commit, from the cache alone, where the hub cannot be reached."""
    hub, _, _, folder = pushed
    first = list(hub.repositories["team/tiny"])[0]
    count = len(hub.requests)
    code = "import sys; from blip_jax import models; print(models.load(sys.argv[1]).model_type)"
    env = environment(hub, folder / "home", HF_HUB_OFFLINE="1")
    done = run(code, f"team/tiny@{first}", cwd=folder, env=env)
    assert done.stdout == "captioner\n", done.stderr[-2000:]
    assert "fetching" not in done.stderr and len(hub.requests) == count


def test_transformers_loads_it(pushed):
    pytest.importorskip("torch")
    hub, _, live, folder = pushed
    code = """
from transformers import BlipForConditionalGeneration, BlipProcessor
model, info = BlipForConditionalGeneration.from_pretrained("team/tiny", output_loading_info=True)
print(sorted(info["missing_keys"]), float(model.vision_model.post_layernorm.weight[0]))
"""
    done = run(code, cwd=folder, env=environment(hub, folder / "other"))
    assert done.returncode == 0, done.stderr[-2000:]
    missing, number = done.stdout.rsplit(maxsplit=1)
    scale = np.asarray(live.params["vit"]["norm"]["scale"])[0]
    assert missing == "[]" and float(number) == pytest.approx(scale, rel=1e-6)


def test_a_model_type_that_transformers_lacks(model):
    with pytest.raises(UserError, match="dialog"):
        model("dialog").push_to_hub("team/dialog")
    with pytest.raises(UserError, match="give ORG/NAME"):
        model("captioner").push_to_hub("captioner")


def test_arguments_that_do_not_go_together(tmp_path, capsys):
    for argv in (["--push", "--to=onnx"], ["--private"], ["--license=mit"]):
        assert main(["convert", "here", str(tmp_path / "out"), *argv]) == 2
        assert "--push" in capsys.readouterr().err
