"""Which texts the rules keep, and why the others are not."""

import dataclasses
import pathlib

import numpy as np
import pyarrow as pa
import pytest
import scored_dataset

from blip_jax.capfilt import image_index, mixture, provenance, selection, storage
from blip_jax.capfilt.selection import DECISIONS, SelectionRules
from blip_jax.capfilt.table import TextTable
from blip_jax.runtime.errors import UserError

nan = np.nan
COPIES = image_index.Images(
    pa.table({
        "source": ["a", "b", "a", "c"], "license": [None] * 4, "duplicate_of": [-1, 0, 0, -1],
        "distance": pa.array([-1, 0, 2, -1], pa.int8()),
    })
)  # fmt: skip


def table(p_match, origin="ws" * 9, row=None, cosine=None, text=None, filters=("judge",)):
    """Texts of images 0, 1, …, of the origins' first letters; p_match [M] or [M, F]."""
    p_match = np.asarray(p_match, np.float32).reshape(len(p_match), -1)
    names = {"w": "web", "s": "synthetic"}
    origin = pa.array([names[letter] for letter in origin[: len(p_match)]]).dictionary_encode()
    row = np.arange(len(p_match), dtype=np.int32) if row is None else np.array(row, np.int32)
    index = np.array([row[:i].tolist().count(r) for i, r in enumerate(row)], np.int32)
    cosine = p_match if cosine is None else np.asarray(cosine, np.float32).reshape(p_match.shape)
    text = [f"text {i}" for i in range(len(p_match))] if text is None else list(text)
    status = pa.array(["ok"] * (row.max() + 1)).dictionary_encode()
    none = pa.array([""] * len(p_match)).dictionary_encode()
    return TextTable(
        row, index, pa.array(text, pa.large_string()), origin, none, none, p_match, cosine,
        p_match[:, 0], index, pa.array([str(r) for r in set(row.tolist())], pa.large_string()),
        status, tuple(filters),
    )  # fmt: skip


def kept(found, *arguments):
    return np.flatnonzero(selection.select_texts(found, *arguments) == selection.KEPT).tolist()


@pytest.mark.parametrize(
    ("origins", "threshold", "wanted"),
    [
        (("web",), 0.5, [0]),
        (("web", "synthetic"), 0.5, [0, 3]),
        (("synthetic",), 0.05, [3, 4]),
        (("web",), None, [0, 1]),
        (("synthetic", "web"), 0.0, [0, 1, 3, 4]),
        ((), 0.0, []),
    ],
)
def test_keep_is_the_authors_rule(origins, threshold, wanted):
    found = table([0.5, 0.4999, nan, 0.9, 0.1, nan], "wwwsss")
    assert np.flatnonzero(mixture.select_by_threshold(found, origins, threshold)).tolist() == wanted
    assert SelectionRules() == SelectionRules({"web": 0.5, "synthetic": 0.5})


def test_each_origin_has_its_own_threshold():
    found = table([0.6, 0.6, 0.7, 0.7], "wsws")
    assert kept(found, SelectionRules({"web": 0.65, "synthetic": 0.5})) == [1, 2, 3]
    assert kept(found, SelectionRules({"web": 0.65})) == [2]


def test_a_share_keeps_the_best_of_each_length():
    """Of the short texts 0.9 and 0.8, of the long ones 0.3; the web's by the threshold alone."""
    texts = ["a b", "c d", "e f", "g h i", "j k l", "m n", "o p q"]
    found = table([0.8, 0.7, 0.9, 0.3, 0.2, 0.6, 0.4], "sssssww", text=texts)
    rules = SelectionRules({"web": 0.5, "synthetic": None}, shares={"synthetic": 0.5})
    assert kept(found, rules) == [0, 2, 3, 5]
    decision = selection.select_texts(found, rules)
    assert DECISIONS[decision[1]] == "not in the best share of its length"
    for share, wanted in ((0.0, [5]), (0.1, [2, 3, 5]), (1.0, [0, 1, 2, 3, 4, 5])):
        assert kept(found, dataclasses.replace(rules, shares={"synthetic": share})) == wanted
    # A share is of what the other rules leave, and of equal scores the first text is kept.
    limited = dataclasses.replace(rules, maximums={"judge": 0.85})
    assert kept(found, limited) == [0, 3, 5]
    equal = table([0.5, 0.5, 0.5, nan], "ssss", text=["a b", "c d", "e f", "g h"])
    assert kept(equal, SelectionRules({"synthetic": None}, shares={"synthetic": 0.5})) == [0, 1]
    with pytest.raises(UserError, match="a share is 1.5; expected 0 to 1"):
        SelectionRules(shares={"web": 1.5})


def test_thresholds_are_of_the_calibrated_score():
    """0.5 is then what is true half the time; other origins keep what the filter says."""
    fit = {"p_match": [0.2, 0.9], "true_share": [0.1, 0.55]}
    found = table([0.6, 0.9, 0.99, 0.6, 0.9, nan], "wwwssw")
    assert kept(found, SelectionRules(calibration={"web": fit})) == [1, 2, 3, 4]
    p_match = selection.probability(found, SelectionRules(calibration={"web": fit}))
    np.testing.assert_allclose(p_match[[1, 2]], 0.55, atol=1e-6)
    assert np.isnan(p_match[5])
    assert 0.1 < p_match[0] < 0.55 and p_match[3] == np.float32(0.6)


def test_the_best_of_an_image_are_kept():
    found = table([0.6, 0.9, 0.8, 0.3, 0.7, 0.7, 0.7], row=[0, 0, 0, 0, 2, 2, 2])
    assert kept(found, SelectionRules(max_texts_per_image=1)) == [1, 4]  # of equals the first
    assert kept(found, SelectionRules(max_texts_per_image=2)) == [1, 2, 4, 5]
    nine = SelectionRules(max_texts_per_image=9)
    assert kept(found, nine) == [0, 1, 2, 4, 5, 6]  # 0.3 stays below the threshold


def test_a_text_that_is_there_twice_is_one_of_the_best_once():
    found = table([0.6, 0.9, 0.9, 0.7, 0.9], row=[0, 0, 0, 0, 1], text="abbcb")
    assert kept(found, SelectionRules(max_texts_per_image=2)) == [1, 3, 4]
    assert kept(found, SelectionRules()) == [0, 1, 2, 3, 4]


def test_the_cosine_has_a_minimum():
    found = table([0.9, 0.9, 0.1], cosine=[0.3, 0.2999, 0.9])
    decision = selection.select_texts(found, SelectionRules(min_cosine=0.3))
    assert [DECISIONS[code] for code in decision] == [
        "kept", "cosine below the minimum", "P(match) below the threshold",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("judge", "wanted"), [("mean", [0, 1]), ("min", [0]), ("large", [0, 2]), ("small", [0, 1])]
)
def test_one_of_several_filters_or_all_decide(judge, wanted):
    found = table([[0.6, 0.6], [0.3, 0.8], [0.55, 0.4], [nan, 0.9]], filters=("large", "small"))
    assert kept(found, SelectionRules(filter_reduction=judge)) == wanted + [3] * (judge == "small")


@pytest.mark.parametrize(("kind", "wanted"), [("keep", 4), ("exact", 3), ("near", 2)])
def test_duplicates_leave_their_original(kind, wanted):
    found = kept(table([0.9] * 4), SelectionRules(duplicates=kind), COPIES)
    assert len(found) == wanted and found[0] == 0 and found[-1] == 3


def test_sources_of_weight_0_are_left_out():
    config = SelectionRules(source_weights={"a": 0, "c": 0.1})
    assert kept(table([0.9] * 4), config, COPIES) == [1, 3]
    assert COPIES.weights({"c": 0.1}).tolist() == [1, 1, 1, 0.1]


def test_the_first_reason_is_said():
    found = table([0.9, 0.1, nan, 0.9, nan], "wwwss", row=[0, 0, 1, 1, 2])
    aside = pa.array(["ok", "ok", "no bytes"]).dictionary_encode()
    found = dataclasses.replace(found, status=aside)
    decision = selection.select_texts(found, SelectionRules({"web": 0.5}))
    assert [DECISIONS[code] for code in decision] == [
        "kept", "P(match) below the threshold", "empty text", "origin left out",
        "image cannot be used",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: SelectionRules({"webb": 0.5}), "unknown origin 'webb'; expected web, synthetic"),
        (lambda: SelectionRules(max_texts_per_image=-1), "max_texts_per_image is -1"),
        (
            lambda: SelectionRules(duplicates="all"),
            "duplicates is 'all'; expected one of keep, exact",
        ),
        (lambda: SelectionRules(source_weights={"a": -1.0}), "weight of source 'a' is -1.0"),
        (
            lambda: kept(table([1]), SelectionRules(filter_reduction="big")),
            "no filter 'big'; expected one of mean, min, judge",
        ),
        (lambda: kept(table([1]), SelectionRules(duplicates="near")), "need index.parquet"),
    ],
)
def test_a_wrong_rule_is_named(make, named):
    with pytest.raises(UserError, match=named):
        make()


# What they are read from.


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return scored_dataset.build(tmp_path_factory.mktemp("scored"), ("large", "small"), 2)


def test_columns_are_what_was_written(world):
    found = storage.read(world.scores, "train")
    assert found.filters == ("large", "small") and found.p_match.shape == (718, 2)
    assert len(found.key) == scored_dataset.ROWS and found.key[5].as_py() == "web-train-0000005"
    assert found.index.tolist()[:4] == [0, 1, 2, 0]
    assert found.where("origin", "web").sum() == scored_dataset.ROWS
    assert found.where("model", "writer").sum() == found.where("method", "nucleus").sum() == 478
    assert not found.where("model", "nobody").any()
    assert (np.isnan(found.log_probability) == found.where("origin", "web")).all()
    logits = np.log(found.p_match / (1 - found.p_match))
    np.testing.assert_allclose(found.cosine, np.tanh(logits / 4), atol=1e-3)
    assert (~found.scored).sum() == 4
    assert storage.skipped(found) == {"undecodable image: no bytes": 1, "empty text": 3}
    lengths = [len(text.split()) + 2 for text in found.text.to_pylist()]
    assert found.tokens.tolist() == lengths


def test_an_image_without_texts_is_a_row(tmp_path):
    rows = [{"key": "a", "status": "ok", "texts": []}, {"key": "b", "status": "ok", "texts": []}]
    found = storage.read(
        scored_dataset.write_scores(tmp_path / "scores", rows, ("judge",)), "train"
    )
    assert found.key.to_pylist() == ["a", "b"] and found.p_match.shape == (0, 1)
    assert kept(found, SelectionRules(max_texts_per_image=1)) == []
    assert storage.skipped(found) == {}


def test_where_scores_come_from(world, tmp_path):
    found = provenance.read(world.scores)
    assert found["dataset"] == world.images and found["filters"][1]["name"] == "small"
    assert provenance.read(str(tmp_path)) == {}
    (tmp_path / provenance.FILE).write_text("{")
    with pytest.raises(UserError, match="provenance.json is not a JSON file"):
        provenance.read(str(tmp_path))


def test_what_holds_no_scores_is_named(world):
    with pytest.raises(UserError, match="web holds no scores"):
        storage.read(world.images, "train")


def test_a_source_that_no_image_has_is_named(world):
    image_index.check_sources(world.images, ["laion", "cc12m"])
    with pytest.raises(UserError, match="no image has source 'd'; sources: laion, cc12m"):
        image_index.check_sources(world.images, ["laion", "d"])


@pytest.mark.parametrize(
    ("table", "named"),
    [({"key": ["a"]}, "cannot be read|has no column"), (None, "score the dataset that this index")],
)
def test_a_wrong_index_is_named(world, tmp_path, table, named):
    path = tmp_path / image_index.FILE
    if table is None:
        path.write_bytes((pathlib.Path(world.images) / image_index.FILE).read_bytes())
    else:
        pa.parquet.write_table(pa.table(table), path)
    with pytest.raises(UserError, match=named):
        image_index.read(str(tmp_path), 1)
