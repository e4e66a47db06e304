"""Values of the original PyTorch code: weights, losses, gradients and three steps of training."""

import pathlib

import golden
import numpy as np
import pytest

GOLDENS = pathlib.Path(__file__).parent / "goldens"


@pytest.mark.parametrize(
    "name",
    [
        "captioner", "features", "gradcam_answer", "gradcam_caption", "gradcam_match", "nlvr",
        "pretrain_step", "pretrain_trajectory", "retrieval", "vqa",
    ],
)  # fmt: skip
def test_golden_values_are_met(name, capsys):
    assert golden.main([str(GOLDENS / f"{name}.npz")]) == 0
    assert ", 0 past 1e-4" in capsys.readouterr().out


def test_a_weight_that_differs_is_noticed(tmp_path, capsys):
    with np.load(GOLDENS / "features.npz") as file:
        arrays = dict(file)
    name = next(name for name in arrays if name.endswith("attn.qkv.weight"))
    arrays[name][0, 0] += 0.1
    path = tmp_path / "changed.npz"
    np.savez(path, **arrays)
    assert golden.main([str(path)]) == 1
    assert "past 1e-4" in capsys.readouterr().out
