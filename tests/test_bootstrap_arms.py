"""Arms of a bootstrap run: the texts that each stands for, and how arms are compared."""

import json

import numpy as np
import pytest
from test_bootstrap import SIX, WEB, minute_config

from blip_jax.capfilt import storage
from blip_jax.capfilt.bootstrap import results, run
from blip_jax.capfilt.bootstrap.arms import ARMS
from blip_jax.capfilt.bootstrap.paper import ORDERS, compare_orders, verdict
from blip_jax.data.datasets import open_dataset
from blip_jax.data.mixture import load_mixture
from blip_jax.data.synthetic.grammar import parse_text
from blip_jax.data.synthetic.oracle import is_true_of
from blip_jax.data.synthetic.scenes import Scene
from blip_jax.reports.sections import ARM_NAMES
from blip_jax.runtime.errors import UserError


def test_arms_train_on_the_texts_they_stand_for(tmp_path):
    """Every third text of either origin passes; the last row's image does not decode."""
    bootstrap_run = run.BootstrapRun(minute_config(threshold=0.5), str(tmp_path), 0, {})
    bootstrap_run.data = {name: bootstrap_run.build(name) for name in ("human", "web")}
    bootstrap_run.kept["none"] = {"web": WEB, "synthetic": 0}
    rows = [
        {"key": f"web-train-{row:07d}", "status": "ok", "texts": [
            {"text": "a", "origin": origin, "model": "", "method": "",
             "itm_logits": np.zeros((1, 2), np.float32),
             "p_match": np.float32([0.9 if (row + place) % 3 == 0 else 0.4]),
             "cosine": np.zeros(1, np.float32), "log_probability": 0.0, "tokens": 3}
            for place, origin in enumerate(storage.ORIGINS)
        ]} for row in range(WEB)
    ]  # fmt: skip
    rows[-1]["status"] = "undecodable image: no bytes"
    for entry in rows[-1]["texts"]:
        entry["p_match"] = np.float32([np.nan])
    (tmp_path / "scores").mkdir()
    storage.write_shard(storage.shard_path(str(tmp_path / "scores"), "train", 0, 1), rows)
    storage.finish(str(tmp_path / "scores"), "train", [WEB], "")
    counts = {arm: bootstrap_run.mixture(arm) for arm in SIX if arm != "none"}
    assert counts == {
        "filter": {"web": 13, "synthetic": 0},
        "captioner": {"web": WEB - 1, "synthetic": WEB - 1},
        "both": {"web": 13, "synthetic": 13},
        "random": {"web": 13, "synthetic": 0},
        "human": {"web": 0, "synthetic": 0},
    }
    assert bootstrap_run.mixture("share_none") == {"web": WEB, "synthetic": 0}

    def selected(arm):
        return load_mixture(str(tmp_path / f"mixtures/{arm}.json"))[-1].selected

    pairs = {
        arm: {tuple(pair) for pair in np.load(selected(arm)).tolist()}
        for arm in ("filter", "captioner", "both", "random")
    }
    assert pairs["filter"] == {(row, 0) for row in range(0, WEB - 1, 3)}
    assert pairs["filter"] < pairs["both"] < pairs["captioner"]
    assert pairs["random"] != pairs["filter"] and (WEB - 1, 0) not in pairs["random"]
    for arm in counts:
        weights = {
            entry.name: entry.weight
            for entry in load_mixture(str(tmp_path / f"mixtures/{arm}.json"))
        }
        assert weights == ({"human": 1.0} if arm == "human" else {"human": 0.25, "web": 0.75})


def test_perfect_texts_are_of_the_web_images(tmp_path):
    perfect = run.BootstrapRun(minute_config(), str(tmp_path), 0, {})
    web, full = (open_dataset(perfect.build(name), "train") for name in ("web", "perfect"))
    assert len(web) == len(full) == WEB
    for row in range(WEB):
        assert web[row]["image"] == full[row]["image"]
        truth = json.loads(full[row]["truth"])
        statement = parse_text(full[row]["texts"][0].decode())
        scene = Scene.from_dict(truth["scene"])
        assert is_true_of(statement, scene) and len(statement.phrases) == len(scene.objects)
    with pytest.raises(UserError, match="arm 'perfect' needs true texts of all web images"):
        minute_config(arms=("perfect",), web_dataset="data/mine")


def test_differences_are_of_the_same_seed():
    class FakeRun:
        def __init__(self, base, gain):
            self.found = {"filter": {"cider": base}, "both": {"cider": base + gain}}

    runs = [FakeRun(10.0, 1.0), FakeRun(30.0, 3.0)]
    (row,) = results.paired_differences(("filter", "both"), runs)
    assert row == {"arm": "both", "CIDEr": (pytest.approx(2.0), pytest.approx(1.0))}
    assert results.paired_differences(("filter", "both"), runs[:1]) == []
    assert results.paired_differences(("both",), runs) == []


def test_orders_of_the_paper_are_told():
    def seed(both, filter, beam):
        arms = {"both": both, "filter": filter, "both_beam": beam}
        return {arm: {"itc/r@1": value, "cider": 0.0} for arm, value in arms.items()}

    rows = compare_orders([seed(50.0, 40.0, 60.0), seed(52.0, 41.0, 61.0), seed(54.0, 44.0, 47.0)])
    assert [(row["table"], row["better"], row["worse"]) for row in rows] == [
        ("1", "both", "filter"),
        ("2", "both", "both_beam"),
    ]
    first, second = rows
    assert first["ITC R@1"] == (pytest.approx(31 / 3), pytest.approx((1 / 9) ** 0.5))
    assert first["ITC R@1, paper"] == pytest.approx((80.6 - 79.1 + 63.1 - 61.5) / 2)
    assert first["ITC R@1, order"] == "reproduced" and second["ITC R@1, order"] == "undecided"
    assert verdict(-3.0, 1.0) == "reversed" and verdict(0.0, 0.0) == "undecided"
    assert compare_orders([seed(1.0, 2.0, 3.0)]) == []
    assert {name for order in ORDERS for name in (order.better, order.worse)} <= set(ARMS)


def test_the_report_has_a_name_for_each_arm():
    assert set(ARM_NAMES) == set(ARMS)
    assert len(set(ARM_NAMES.values())) == len(ARMS)
