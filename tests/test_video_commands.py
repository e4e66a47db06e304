"""Clips from the command line: a dataset is made, a model is trained on it and evaluated."""

import json

import pytest
import tiny
import tiny_dataset

from blip_jax.cli.main import main
from blip_jax.data.mixture import Component, save_mixture

DATASET = {"train": 8, "val": 0, "test": 3, "frames": 4, "world.image_size": tiny.IMAGE}


def flags(values: dict) -> list[str]:
    return [f"--config.{name}={value}" for name, value in values.items()]


def test_clips_are_made_trained_on_and_evaluated(world, model, tmp_path, capsys):
    pytest.importorskip("av")
    data, run, out = (str(tmp_path / name) for name in ("clips", "run", "eval"))
    assert main(["prepare", "--config", "shapes:clips", "--workdir", data, *flags(DATASET)]) == 0
    start = tiny_dataset.save(model("vqa"), str(tmp_path / "vqa"))
    save_mixture(str(tmp_path / "mixture.json"), [Component("clips", data)])
    sizes = {f"model.vit.{name}": value for name, value in {
        "image_size": tiny.IMAGE, "patch_size": 8, "width": 16, "depth": 2, "heads": 4,
        "drop_path": 0.0,
    }.items()}  # fmt: skip
    sizes |= {f"model.med.{name}": value for name, value in {
        "width": 16, "depth": 2, "heads": 4, "mlp_dim": 32, "max_length": tiny_dataset.LENGTH,
    }.items()}  # fmt: skip
    settings = {
        "init.run": start, "tokenizer": f"{world.folder}/tokenizer", "batch_size": 8, "steps": 1,
        "data.mixture": tmp_path / "mixture.json", "task.num_frames": 2, "task.max_length": 16,
        "model.embed_dim": 8, "model.scan_unroll": 1,
    }  # fmt: skip
    arguments = flags(sizes | settings)
    assert main(["train", "--config", "video_qa", "--workdir", run, *arguments]) == 0
    asked = {"model": run, "dataset": data, "split": "test", "task.num_frames": 4}
    arguments = flags(asked)
    assert main(["evaluate", "--config", "evaluate:video_qa", "--workdir", out, *arguments]) == 0
    assert "accuracy" in capsys.readouterr().out
    metrics = json.loads((tmp_path / "eval" / "metrics.json").read_text())
    assert metrics["accuracy"]["n"] == 3
    lines = (tmp_path / "eval" / "predictions.jsonl").read_text().splitlines()
    assert {json.loads(line)["image"] for line in lines} == {
        f"clips-test-{number:07d}" for number in range(3)
    }
