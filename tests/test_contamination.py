"""Evaluation on images that a model was trained on: found, refused, or marked."""

import dataclasses
import hashlib
import io
import json

import numpy as np
import pytest
import tiny_dataset
from PIL import Image
from training_fixture import tiny_run

from blip_jax.checkpoints import sources, training_data
from blip_jax.checkpoints.training_data import TrainingDataset, find_overlap
from blip_jax.cli.main import main
from blip_jax.data import image_digests
from blip_jax.data.datasets import open_dataset
from blip_jax.data.mixture import Component, save_mixture
from blip_jax.data.synthetic.builder import make_record
from blip_jax.runtime.errors import UserError
from blip_jax.tasks.captioning import GREEDY, CaptioningConfig
from blip_jax.tasks.contamination import check_contamination
from blip_jax.tasks.evaluate import EvaluateConfig, evaluate
from blip_jax.tasks.retrieval import RetrievalConfig
from blip_jax.train import loop
from blip_jax.train import training_data as of_training

NAMES = ("dataset", "split", "digest", "images")


def human(row, split="train", **changes):
    return {**make_record(row, split, tiny_dataset.HUMAN), **changes}


def digest(data: bytes) -> int:
    return int.from_bytes(hashlib.sha256(data).digest()[:8], "big")


# Digests.


def test_digests_are_the_first_bytes_of_the_hashes_of_the_images(world):
    images = [human(row)["image"] for row in range(12)]
    found = image_digests.image_digests(world.human, "train")
    assert found.dtype == np.uint64 and found.tolist() == sorted(map(digest, images))
    some = image_digests.image_digests(world.human, "train", np.array([3, 1, 3]))
    assert some.tolist() == sorted(digest(images[row]) for row in (1, 3))
    sliced = image_digests.image_digests(world.human, "train[4:6]")
    assert sliced.tolist() == sorted(digest(images[row]) for row in (4, 5))


@pytest.mark.parametrize("size", [0, 8])
def test_an_import_knows_the_images_as_they_were_found(tmp_path, size, monkeypatch):
    """By its index, and by the records where a split is cut; also if images were scaled down."""
    files, folder = [], tmp_path / "images"
    folder.mkdir()
    for row in range(5):
        image = Image.fromarray(np.full((20, 20, 3), 40 * row, np.uint8))
        stream = io.BytesIO()
        image.save(stream, "PNG")
        files.append(stream.getvalue())
        (folder / f"{row}.png").write_bytes(files[-1])
        (folder / f"{row}.txt").write_text("a plain square")
    options = [f"--config.resize={size}"] if size else []
    out = str(tmp_path / "data")
    assert main(["prepare", f"--workdir={out}", f"--config.source={folder}", *options]) == 0
    found = image_digests.image_digests(out, "train")
    assert found.tolist() == sorted(map(digest, files))
    # Rows are in the order of the file names.
    one = image_digests.image_digests(out, "train", np.array([2]))
    assert one.tolist() == image_digests.image_digests(out, "train[2:3]").tolist()
    monkeypatch.setattr(image_digests, "INDEX", "nowhere.parquet")
    assert image_digests.image_digests(out, "train").tolist() == found.tolist()
    same = [record["image"] for record in open_dataset(out, "train")]
    assert (sorted(map(digest, same)) == found.tolist()) == (size == 0)


def test_of_a_pair_both_images_count(tmp_path):
    features = tiny_dataset.tfds.features
    records = [{"key": "a", "image": b"left", "second_image": b"right", "sha256": "0" * 64}]
    pair = features.FeaturesDict({
        "key": features.Text(), "image": features.Image(), "second_image": features.Image(),
        "sha256": features.Text(),
    })  # fmt: skip
    folder = tiny_dataset.write(str(tmp_path / "pairs"), records, pair)
    found = image_digests.image_digests(folder, "train")
    assert found.tolist() == sorted(map(digest, (b"left", b"right")))


# What a checkpoint knows, against what is evaluated.


def test_images_are_found_in_other_datasets_and_splits(world, tmp_path):
    known = [of_training.training_dataset(Component("human", world.human))]
    assert (known[0].images, known[0].complete, len(known[0].image_digests)) == (12, True, 12)
    check_contamination(known, world.human, "test")
    check_contamination(known, world.web, "train")
    mixed = [human(0, "test"), human(5, key="other"), human(1, "test")]
    other = tiny_dataset.write(str(tmp_path / "other"), mixed)
    with pytest.raises(UserError) as error:
        check_contamination(known, other, "train", model="runs/x")
    assert str(error.value) == (
        f"runs/x was trained on 1 of the 3 images of {other}, split train (from {world.human}, "
        "split train); evaluate on other images, or give --config.allow_training_images=True to "
        "get results that are marked with this number"
    )
    assert check_contamination(known, other, "train", allow=True).images == 1
    assert check_contamination(known, other, "train", limit=1).images == 0


def test_only_what_is_selected_was_trained_on(world, tmp_path):
    np.save(tmp_path / "selected.npy", np.array([[3, 0], [3, 1], [7, 0]], np.int32))
    component = Component("human", world.human, selected=str(tmp_path / "selected.npy"))
    known = [of_training.training_dataset(component)]
    assert known[0].images == 2
    check_contamination(known, world.human, "train[:3]")
    assert check_contamination(known, world.human, "train", allow=True).images == 2
    # Another slice of the same split is another set of images.
    sliced = [of_training.training_dataset(Component("human", world.human, "train[:6]"))]
    check_contamination(sliced, world.human, "train[6:]")
    assert check_contamination(sliced, world.human, "train[5:]", allow=True).images == 1


def test_a_large_dataset_is_known_by_a_part_of_its_images_and_by_its_name(world, monkeypatch):
    monkeypatch.setattr(of_training, "MAX_DIGESTS", 5)
    (known,) = [of_training.training_dataset(Component("human", world.human))]
    assert (known.images, known.complete, len(known.image_digests)) == (12, False, 4)
    assert check_contamination([known], world.human, "train[:2]", allow=True).images == 2
    assert check_contamination([known], world.human, "test").images == 0


def test_overlap_by_hand():
    digests = np.array([1, 4, 9, 16], np.uint64)

    def entry(name, *numbers, **changes):
        stored = np.array(numbers, np.uint64)
        return TrainingDataset(name, "train", f"of {name}", 9, stored, **changes)

    complete = [entry("a", 4, 5, complete=True), entry("b", 4, 16, complete=True)]
    found = find_overlap(complete, "a", "train", "of a", digests)
    assert (found.images, found.total) == (2, 4)
    assert found.places == ("a, split train", "b, split train")
    # Of an incomplete one the same dataset and split count whole; another split does not.
    assert find_overlap([entry("a", 4)], "moved", "train[2:]", "of a", digests).images == 4
    assert find_overlap([entry("a", 4)], "moved", "test", "of a", digests).images == 1
    assert find_overlap([entry("a")], "a", "train", "of another", digests).images == 0
    # By its path where a checkpoint has no digest.
    assert (
        find_overlap([TrainingDataset("/x/a", "train")], "/x/a/", "train", "", digests).images == 4
    )
    assert find_overlap([], "a", "train", "of a", digests).images == 0


# The whole: training, fine-tuning, conversion, evaluation.


@pytest.fixture(scope="module")
def run(world, tmp_path_factory):
    """The workdir of a captioner that was trained for a step on the human pairs."""
    folder = tmp_path_factory.mktemp("runs")
    save_mixture(str(folder / "human.json"), [Component("human", world.human)])
    loop.train(run_config(world, folder / "human.json"), str(folder / "first"))
    return folder / "first"


def run_config(world, mixture, **changes):
    return tiny_run(
        folder_of(world), "captioning",
        **{
            "data.mixture": str(mixture), "tokenizer": f"{world.folder}/tokenizer", "steps": 1,
            "task.decoding": GREEDY, "task.max_length": 16, "task.decoding.max_length": 16,
            **changes,
        },
    )  # fmt: skip


def folder_of(world):
    import pathlib

    return pathlib.Path(world.folder)


def test_a_run_writes_what_it_is_trained_on(world, run):
    (known,) = training_data.read(run)
    assert (known.dataset, known.split, known.images) == (world.human, "train", 12)
    wanted = image_digests.image_digests(world.human, "train")
    np.testing.assert_array_equal(known.image_digests, wanted)
    _, metadata = sources.load_state_items(str(run), ())
    assert metadata.trained_on == [known.names()] and set(metadata.trained_on[0]) == set(NAMES)


TASK = CaptioningConfig(decoding=dataclasses.replace(GREEDY, max_length=16))


def test_an_evaluation_is_refused_or_marked(world, run, tmp_path, capsys):
    pytest.importorskip("pycocoevalcap")
    config = EvaluateConfig(str(run), world.human, "train", TASK)
    with pytest.raises(UserError, match="trained on 12 of the 12 images of"):
        evaluate(config, str(tmp_path / "refused"))
    assert not (tmp_path / "refused").exists()
    evaluate(dataclasses.replace(config, split="test"), str(tmp_path / "test"))
    assert "training_images" not in (tmp_path / "test" / "metrics.json").read_text()
    command = [
        "evaluate", "--config=evaluate:captioning", f"--workdir={tmp_path / 'marked'}",
        f"--config.model={run}", f"--config.dataset={world.human}", "--config.split=train",
        "--config.task.decoding.method=greedy", "--config.task.decoding.max_length=16",
        "--config.task.decoding.min_length=1", "--config.task.java_metrics=False",
    ]  # fmt: skip
    assert main(command) == 2
    assert "--config.allow_training_images=True" in capsys.readouterr().err
    assert main([*command, "--config.allow_training_images=True"]) == 0
    out, err = capsys.readouterr()
    assert "training images" in out and "results are marked" in err
    stored = json.loads((tmp_path / "marked" / "metrics.json").read_text())
    assert {entry["training_images"] for entry in stored.values()} == {12}


def test_fine_tuning_inherits_and_training_refuses_its_own_images(world, run, tmp_path):
    """The fine-tuning sees two images of the test split, the run that it starts from others."""
    tuned = tiny_dataset.write(str(tmp_path / "tuned"), [human(0, "test"), human(1, "test")])
    save_mixture(str(tmp_path / "mixture.json"), [
        Component("tuned", tuned), Component("unused", world.web, weight=0),
    ])  # fmt: skip
    changes = {"init.run": str(run), "batch_size": 8}
    config = run_config(world, tmp_path / "mixture.json", **changes)
    evaluating = {"eval.every": 1, "eval.dataset": world.human}
    refused = run_config(
        world, tmp_path / "mixture.json", **changes, **evaluating, **{"eval.split": "train"}
    )
    with pytest.raises(UserError, match=r"^this run was trained on 12 of the 12.*config\.eval\."):
        loop.train(refused, str(tmp_path / "run"))
    assert not list((tmp_path / "run").glob("checkpoints/*"))
    loop.train(config, str(tmp_path / "run"))
    known = training_data.read(tmp_path / "run")
    assert [entry.images for entry in known] == [2, 12]
    assert check_contamination(known, world.human, "test", allow=True).images == 2
    # A resumed run does not read the images again.
    assert loop.train(config, str(tmp_path / "run")).step == 1
    (tmp_path / "run" / "trained_on.json").unlink()
    names = sources.read_training_data(str(tmp_path / "run"))
    assert [entry.image_digests for entry in names] == [None, None]
    assert check_contamination(names, world.human, "train", allow=True).images == 12
    assert check_contamination(names, world.human, "test").images == 0


def test_a_checkpoint_that_is_given_away_has_no_paths_of_this_machine():
    names = ("/data/coco/", "gs://bucket/vg", "/data/shapes/human/1.0.0", "coco")
    expected = ["coco", "vg", "shapes/human/1.0.0", "coco"]
    assert [training_data.public_name(name) for name in names] == expected


@pytest.mark.parametrize("target", ["model.pth", "model.safetensors", "hf"])
def test_conversion_keeps_it(world, run, tmp_path, target):
    if target.endswith(".pth"):
        pytest.importorskip("torch")
    there, back = str(tmp_path / target), str(tmp_path / "back")
    assert main(["convert", str(run), there]) == 0
    assert main(["convert", there, back, f"--tokenizer={run}/tokenizer", "--to=jax"]) == 0
    (wanted,) = training_data.read(run)
    for source in (there, back):
        (known,) = sources.read(source).trained_on
        assert known.names() == wanted.names() | {"dataset": training_data.public_name(world.human)}
        np.testing.assert_array_equal(known.image_digests, wanted.image_digests)
        assert known.complete and sources.read_training_data(source)[0].names() == known.names()


def test_a_model_that_does_not_say_is_evaluated(world, model, tmp_path):
    path = tiny_dataset.save(model("pretrain"), str(tmp_path / "old"))
    assert sources.read(path).trained_on is None
    task = RetrievalConfig(rerank_k=0)
    assert evaluate(EvaluateConfig(path, world.human, "train", task))["itc/r@1"] >= 0
    (tmp_path / "old" / "trained_on.json").write_text('{"datasets": [{"images": "x"}]}')
    with pytest.raises(UserError, match=r"trained_on.json is damaged \(.*\); copy it again"):
        sources.read(path)
