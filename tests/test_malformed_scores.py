"""Scores, provenance, manifests, indices and rules that are not what they should be: one line."""

import errno
import json
import os
import pathlib
import shutil
from unittest import mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import scored_dataset
import tiny_dataset
from array_record.python.array_record_module import ArrayRecordWriter

from blip_jax.capfilt import image_index, provenance, storage
from blip_jax.capfilt.inputs import CapFiltInput
from blip_jax.capfilt.selection import SelectionRules
from blip_jax.capfilt.work_queue import ShardQueue
from blip_jax.cli.main import main
from blip_jax.data.mixture import Component, load_mixture, save_mixture
from blip_jax.runtime.errors import UserError
from blip_jax.runtime.lock import folder_lock


@pytest.fixture(scope="module")
def web(tmp_path_factory):
    return scored_dataset.build(tmp_path_factory.mktemp("web"))


def one_line(function, named: str) -> str:
    with pytest.raises(UserError) as error:
        function()
    message = str(error.value)
    assert "\n" not in message and named in message, message
    return message


def assemble(folder, scores, *options) -> int:
    argv = ["assemble", f"--workdir={folder}", f"--config.scores={scores}"]
    return main([*argv, "--config.gallery_images=0", *(f"--config.{x}" for x in options)])


# Scores.


def rows(**changes) -> list[dict]:
    """Two images with a text each; `changes` are of the second one's."""
    rng, found = np.random.default_rng(0), []
    for row in range(2):
        text = scored_dataset.entry(f"text {row}", row, rng, True, False, 1)
        text |= changes if row else {}
        found.append({"key": f"key {row}", "status": "ok", "texts": [text]})
    return found


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"p_match": np.float32([1.5])}, "1 values of p_match outside 0 to 1, as 1.5"),
        ({"p_match": np.float32([-0.25])}, "1 values of p_match outside 0 to 1, as -0.25"),
        ({"p_match": np.float32([np.inf])}, "1 values of p_match outside 0 to 1, as inf"),
        ({"cosine": np.float32([3])}, "1 values of cosine outside -1.01 to 1.01, as 3"),
        (
            {"p_match": np.float32([np.nan])},
            "filter 'judge' gave 1 texts no score (NaN); check whether the model diverged",
        ),
    ],
)
def test_scores_out_of_range_are_refused_where_they_are_read(tmp_path, changes, named):
    scores = scored_dataset.write_scores(tmp_path / "scores", rows(**changes), ("judge",))
    message = one_line(lambda: storage.read(scores, "train"), named)
    assert scores in message


def test_a_number_of_filters_out_of_range_is_refused(web, tmp_path):
    folder = shutil.copytree(web.scores, tmp_path / "scores")
    text = (folder / "features.json").read_text()
    assert '"1"' in text
    (folder / "features.json").write_text(text.replace('"1"', '"1000000000000"'))
    with pytest.raises(UserError, match="claims scores of 1000000000000 filters"):
        storage.read(str(folder), "train")


def test_an_empty_text_without_a_score_is_no_fault(tmp_path):
    nothing = {"text": " ... ", "p_match": np.float32([np.nan])}
    scores = scored_dataset.write_scores(tmp_path / "scores", rows(**nothing), ("judge",))
    assert storage.skipped(storage.read(scores, "train")) == {"empty text": 1}


@pytest.mark.parametrize("what", ["empty", "junk", "other columns"])
def test_rows_that_are_no_scores_are_refused(tmp_path, what):
    scores = scored_dataset.write_scores(tmp_path / "scores", rows(), ("judge",))
    (shard,) = pathlib.Path(scores).glob("*array_record*")
    record = {"empty": b"", "junk": b"\xff" * 20}.get(what)
    if record is None:
        images = {"key": "a", "image": b"", "texts": ["a"], "truth": ""}
        record = tiny_dataset.FEATURES.serialize_example(images)
    writer = ArrayRecordWriter(str(shard), "group_size:1")
    writer.write(record)
    writer.write(record)
    writer.close()
    named = "holds rows that are no scores" if what == "other columns" else "row 0 cannot be read"
    one_line(lambda: storage.read(scores, "train"), named)


# What tells where scores come from.


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[" * 200_000, "is not a JSON file: nested too deeply"),
        ("[]", "is damaged (expected an object); run capfilt again"),
        ("{}", "is damaged (dataset is None)"),
        ('{"dataset": 5}', "is damaged (dataset is 5)"),
        ('{"dataset": "a", "split": []}', "is damaged (split is [])"),
        ('{"dataset": "a", "command": 7}', "is damaged (command is 7)"),
        ('{"dataset": "a", "filters": {}}', "is damaged (filters is {})"),
        ('{"dataset": "a", "filters": [{"name": 3}]}', "filters has {'name': 3}"),
        ('{"dataset": "a", "captioners": ["x"]}', "captioners has 'x'"),
    ],
)
def test_a_malformed_provenance_is_one_line(tmp_path, text, named):
    path = tmp_path / provenance.FILE
    path.write_text(text)
    assert str(path) in one_line(lambda: provenance.read(str(tmp_path)), named)


@pytest.mark.parametrize(
    "text", ["{", "[" * 200_000, '{"records_read": "x"}', '{"records_read": 1, "rows": 1}',
             '{"records_read": 1, "rows": 1, "skipped": {"a": "<b>"}}'],
)  # fmt: skip
def test_a_malformed_manifest_is_one_line(tmp_path, text):
    (tmp_path / provenance.MANIFEST).write_text(text)
    one_line(lambda: provenance.manifest(str(tmp_path)), str(tmp_path / provenance.MANIFEST))


def test_a_manifest_of_something_else_is_passed_over(tmp_path):
    (tmp_path / provenance.MANIFEST).write_text('{"settings": {"source": 5, "colour": 1}}')
    prepared = provenance.manifest(str(tmp_path))
    assert provenance.commands("d", prepared, {"command": "blip-jax x"})[0] == "blip-jax x"
    (tmp_path / provenance.MANIFEST).write_text("[1]")
    assert provenance.manifest(str(tmp_path)) == {}


def test_an_index_of_other_types_is_one_line(web, tmp_path):
    table = pa.parquet.read_table(pathlib.Path(web.images) / image_index.FILE)
    words = pa.array(["far"] * len(table))
    table = table.set_column(table.column_names.index("distance"), "distance", words)
    pa.parquet.write_table(table, tmp_path / image_index.FILE)
    one_line(lambda: image_index.read(str(tmp_path), len(table)), "has other columns (")


@pytest.mark.parametrize("text", ["[]", "5", '{"owner": 7}', "[" * 200_000, "{"])
def test_a_malformed_claim_does_not_stop_a_host(tmp_path, text):
    paths = [tmp_path / "scores-0", tmp_path / "scores-1"]
    with ShardQueue(paths, 0.3) as shards:
        (tmp_path / "shards" / "00000.json").write_text(text)
        done = []
        for number in shards.claim_shards(lambda: False):
            paths[number].touch()
            shards.finished(number, {"rows": 1})
            done.append(number)
        assert sorted(done) == [0, 1]


# A mixture of an earlier round.


def test_an_earlier_round_that_does_not_fit_is_one_line(web, tmp_path):
    def mixture(**changes) -> str:
        path = str(tmp_path / "mixture.json")
        component = {"name": "c", "dataset": web.images, "scores": web.scores, **changes}
        save_mixture(path, [Component(**component)])
        return path

    assert len(CapFiltInput(mixture(), "", 1)) == scored_dataset.ROWS
    one_line(lambda: CapFiltInput(mixture(scores=web.images), "", 1), "holds no scores of texts")
    few = scored_dataset.write_scores(tmp_path / "few", rows(), ("judge",))
    one_line(lambda: CapFiltInput(mixture(scores=few), "", 1), "have 2 rows, dataset")
    records = [{"key": f"other {n}", "image": b"", "texts": [], "truth": ""} for n in range(2)]
    images = tiny_dataset.write(str(tmp_path / "images"), records)
    own = CapFiltInput(mixture(dataset=images, scores=few), "", 1)
    one_line(lambda: own[0], "row 0 is 'other 0' in ")
    np.save(tmp_path / "s.npy", np.array([[0, 9]], np.int32))
    own = CapFiltInput(mixture(selected="s.npy"), "", 1)
    one_line(lambda: own[0], "s.npy selects text 9 of row 0, which has 2")


# Rules.


@pytest.mark.parametrize(
    ("option", "named"),
    [
        ("selection.thresholds.web=nan", "thresholds.web is nan; give a finite number"),
        ("selection.thresholds.synthetic=inf", "thresholds.synthetic is inf"),
        ("selection.min_cosine=nan", "min_cosine is nan"),
        ("selection.source_weights=laion=nan", "source_weights has 'laion=nan'"),
        ("human_fraction=nan", "human_fraction is nan; give a finite number"),
        ("human_fraction=1.5", "human_fraction is 1.5; expected 0 to 1"),
        ("threshold_sweep=0.5,nan", "threshold_sweep[1] is nan"),
        ("gallery_images=-1", "gallery_images is -1; it must be 0 or more"),
        ("seed=-1", "seed is -1 (int); give a whole number from 0 to 4294967295"),
        ("human_dataset=/nowhere", "no dataset in /nowhere"),
    ],
)
def test_rules_out_of_range_are_one_line(web, tmp_path, capsys, option, named):
    out = tmp_path / "out"
    assert assemble(out, web.scores, option) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and named in error
    assert not out.exists()


@pytest.mark.parametrize(
    "fit",
    [5, {}, {"p_match": [], "true_share": []}, {"p_match": [0.1, 0.2], "true_share": [0.5]},
     {"p_match": ["a"], "true_share": [0.5]}, {"p_match": [0.5, 0.1], "true_share": [0, 1]},
     {"p_match": [float("nan")], "true_share": [0.5]}, {"p_match": [0.5], "true_share": [2]}],
)  # fmt: skip
def test_a_calibration_that_is_none_is_one_line(web, tmp_path, capsys, fit):
    one_line(lambda: SelectionRules(calibration={"web": fit}), "the calibration of 'web' texts")
    file = tmp_path / "statistics.json"
    file.write_text(json.dumps({"selection": {"calibration": {"web": fit, "synthetic": fit}}}))
    assert assemble(tmp_path / "out", web.scores, f"selection.calibration={file}") == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_rules_that_are_nan_are_one_line():
    one_line(lambda: SelectionRules({"web": float("nan")}), "the threshold of web is NaN")
    one_line(lambda: SelectionRules(min_cosine=float("nan")), "min_cosine is NaN")


@pytest.mark.parametrize("option", ["threshold=nan", "human_fraction=-0.5"])
def test_capfilts_rules_are_looked_at_before_it_runs(web, tmp_path, capsys, option):
    argv = ["capfilt", f"--workdir={tmp_path / 'out'}", f"--config.dataset={web.images}"]
    assert main([*argv, "--config.filters=/nowhere", f"--config.{option}"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and option.partition("=")[0] + " is " in error
    assert not (tmp_path / "out").exists()


def test_capfilt_with_a_model_in_the_wrong_place_leaves_nothing(world, tmp_path, capsys):
    captioner = tiny_dataset.trained(world, 0, "", "captioner")
    path = tiny_dataset.save(captioner, str(tmp_path / "model"))
    argv = ["capfilt", f"--workdir={tmp_path / 'out'}", f"--config.dataset={world.web}"]
    assert main([*argv, f"--config.filters={path}"]) == 2
    message = "blip-jax capfilt: filter 'model': a captioner model cannot match; load a pretrain "
    assert capsys.readouterr().err.splitlines()[-1].startswith(message)
    assert os.listdir(tmp_path) == ["model"]


def test_sources_of_nearly_equal_weight_have_names_of_their_own(web, tmp_path):
    option = "selection.source_weights=laion=1.0000001"
    assert assemble(tmp_path, web.scores, option) == 0
    names = [component.name for component in load_mixture(str(tmp_path / "mixture.json"))]
    assert names == ["web x 1.0000001", "web x 1.0"]


def test_two_assemblies_do_not_write_into_one_folder(web, tmp_path, capsys):
    with folder_lock(tmp_path, "assemble"):
        assert assemble(tmp_path, web.scores) == 2
        assert "is in use by process" in capsys.readouterr().err
        assert os.listdir(tmp_path) == [".lock"]
    assert assemble(tmp_path, web.scores) == 0
    assert (tmp_path / "mixture.json").exists() and not (tmp_path / ".lock").exists()


FULL = "No space left on device"


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, FULL, "a\nb"),
        PermissionError(errno.EACCES, "Permission denied", "a\nb"),
        RuntimeError(f"close failed: {FULL}"),
    ],
)
def test_a_full_disk_is_one_line_and_the_same_command_goes_on(
    web, tmp_path, capsys, monkeypatch, error
):
    with monkeypatch.context() as patch:
        patch.setattr("blip_jax.capfilt.assemble.write_json", mock.Mock(side_effect=error))
        assert assemble(tmp_path / "out", web.scores) == 2
    found = capsys.readouterr().err
    assert found.count("\n") == 1 and "then rerun the same command" in found
    assert assemble(tmp_path / "out", web.scores) == 0
