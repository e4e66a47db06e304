"""Datasets of downstream tasks: made by one command, read back, and one vocabulary for all."""

import json
import pathlib

import pytest
import tensorflow_datasets as tfds

from blip_jax.cli import config_files
from blip_jax.cli.main import main
from blip_jax.data.datasets import open_dataset
from blip_jax.data.images import decode
from blip_jax.data.synthetic import answers, grammar
from blip_jax.data.synthetic.builder import ShapesConfig, make_record, prepare
from blip_jax.data.synthetic.dataset import ShapesDatasetConfig, prepare_dataset
from blip_jax.data.synthetic.scenes import World
from blip_jax.data.tokenizer import train_wordpiece
from blip_jax.data.vocabulary import record_texts, training_texts
from blip_jax.runtime.errors import UserError

KINDS = ("vqa", "pairs", "dialog")
SIZES = {"train": 6, "val": 2, "test": 0}


@pytest.mark.parametrize("kind", KINDS)
def test_the_command_makes_a_dataset_that_reads_back(kind, tmp_path, capsys):
    folder = tmp_path / kind
    arguments = [f"--config.{split}={count}" for split, count in SIZES.items()]
    command = ["prepare", "--config", f"shapes:{kind}", "--workdir", str(folder), *arguments]
    assert main(command) == 0
    assert capsys.readouterr().out == f"{kind}: {folder}\n"
    config = config_files.load(f"shapes:{kind}")[0].builder_config()
    for split in ("train", "val"):
        stored = open_dataset(str(folder), split, ("key", "fields"))
        assert len(stored) == SIZES[split]
        for index, record in enumerate(stored):
            made = make_record(index, split, config)
            assert set(record) == set(made)
            for name, value in made.items():
                found = record[name]
                if name == "texts":
                    assert [text.decode() for text in found] == value
                else:
                    assert found == (value if isinstance(value, bytes) else value.encode())
            for name in {"image", "second_image"} & set(record):
                assert decode(record[name]).shape == (32, 32, 3)
    before = {file.name: file.stat().st_mtime_ns for file in folder.iterdir()}
    assert {"features.json", "dataset_info.json", "config.json"} < set(before)
    assert main(command) == 0  # made already
    assert {file.name: file.stat().st_mtime_ns for file in folder.iterdir()} == before
    assert main([*command, "--config.seed=1"]) == 2
    assert "holds another dataset; choose another --workdir" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ("human", "web", *KINDS))
def test_blank_images_change_no_other_value(kind):
    seen, blank = (
        make_record(3, "train", ShapesConfig(kind=kind, blank_images=value))
        for value in (False, True)
    )
    for name in seen:
        if "image" in name:
            assert decode(seen[name]).std() > 0 and decode(blank[name]).std() == 0
        else:
            assert seen[name] == blank[name]


def test_several_questions_of_an_image_are_one_record(tmp_path):
    config = ShapesDatasetConfig(train=4, val=0, test=0, questions_per_image=3)
    prepare_dataset(config, str(tmp_path / "vqa"))
    numbers = [
        len(json.loads(record["fields"])["questions"])
        for record in open_dataset(str(tmp_path / "vqa"), "train")
    ]
    assert len(numbers) == 4 and max(numbers) == 3


def test_an_unfinished_dataset_leaves_nothing(tmp_path, monkeypatch):
    def fail(*args):
        raise UserError("no space")

    monkeypatch.setattr("blip_jax.data.synthetic.dataset.prepare", fail)
    with pytest.raises(UserError, match="no space"):
        prepare_dataset(ShapesDatasetConfig(), str(tmp_path / "vqa"))
    assert not list(tmp_path.iterdir())


def test_a_folder_with_other_files_is_left_alone(tmp_path):
    (tmp_path / "notes").touch()
    with pytest.raises(UserError, match="exists already; choose another path"):
        prepare_dataset(ShapesDatasetConfig(), str(tmp_path))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config", "shapes:qa"], "config shapes has no variant 'qa'"),
        (["--config", "shapes:vqa", "--config.rounds=0", "--config.kind=dialog"], "rounds is 0"),
        (["--config", "shapes:pairs", "--config.templates=bot"], "no template 'bot'"),
    ],
)
def test_wrong_settings_are_one_line(arguments, message, tmp_path, capsys):
    assert main(["prepare", *arguments, "--workdir", str(tmp_path / "x")]) == 2
    error = capsys.readouterr().err
    assert message in error and len(error.splitlines()) == 1


def test_the_variants_have_the_world_of_the_pipeline():
    world = config_files.load("shapes")[0].world
    for kind in KINDS:
        config = config_files.load(f"shapes:{kind}")[0]
        assert config.kind == kind and config.train is None
        names = ("shapes", "colours", "cells", "max_objects", "jitter", "image_size")
        assert all(getattr(config.world, name) == getattr(world, name) for name in names)


def test_one_vocabulary_has_the_words_of_all_kinds(tmp_path):
    world = World(shapes=4, colours=5)
    sizes = {"train": 150, "val": 0, "test": 0}
    folders = [
        prepare(str(tmp_path), ShapesConfig(kind=kind, world=world, **sizes))
        for kind in ("human", "web", *KINDS)
    ]
    tokenizer = train_wordpiece(training_texts(folders), str(tmp_path / "words"), 400)
    words = {
        word for text in training_texts(folders[2:]) for word in text.replace("?", " ").split()
    }
    assert {"square", "how", "many", "none", "neither", "other", "crimson"} < words
    tokens = {word: tokenizer.encode([word], 16)[1].sum() - 2 for word in [*words, "?"]}
    assert set(tokens.values()) == {1}, tokens
    captions = train_wordpiece(training_texts(folders[:2]), str(tmp_path / "captions"), 400)
    assert captions.decode(captions.encode(["how many?"], 16)[0]) != ["how many?"]
    assert words & set(answers.NUMBERS) and not words & set(grammar.TEXTURES)


def test_texts_of_a_record_are_those_of_its_fields():
    fields = {
        "questions": [{"id": "7", "question": "Is it 3?", "answers": ["Yes", "no", "no"]}],
        "statements": [{"id": "a", "statement": "both images", "label": True}],
        "caption": "a dog", "url": "http://x", "score": 1.5, "none": None,
        "rounds": [{"question": "why?", "answer": "so", "options": ["so", "not"]}],
    }  # fmt: skip
    record = {"texts": [b"A cat."], "fields": json.dumps(fields).encode()}
    assert list(record_texts(record)) == [
        "a cat", "is it 3?", "yes", "no", "no", "both images", "a dog", "why?", "so", "so", "not",
    ]  # fmt: skip
    assert list(record_texts({"texts": [b"A cat."]})) == ["a cat"]
    other_name = {"texts": [], "fields": b'{"sentence": "Two dogs."}'}
    assert list(record_texts(other_name)) == ["two dogs"]
    with pytest.raises(UserError, match="record k: fields is not JSON"):
        list(record_texts({"key": b"k", "texts": [], "fields": b"{"}))


def test_features_are_those_of_the_kind():
    from blip_jax.data.synthetic.builder import features_of

    assert set(features_of("human")) == {"key", "image", "texts", "truth"}
    assert set(features_of("vqa")) == set(features_of("dialog")) == {*features_of("web"), "fields"}
    assert isinstance(features_of("pairs")["second_image"], tfds.features.Image)


def test_digests_of_the_vocabulary_datasets_belong_to_the_run(tmp_path):
    from blip_jax.capfilt.bootstrap.config import BootstrapConfig
    from blip_jax.capfilt.bootstrap.run import digests

    folder = prepare(str(tmp_path), ShapesConfig(kind="vqa", **SIZES))
    config = BootstrapConfig(vocabulary_datasets=(folder,))
    assert list(digests(config)) == ["vocabulary 0"]
    with pytest.raises(UserError, match="no dataset in"):
        digests(BootstrapConfig(vocabulary_datasets=(str(pathlib.Path(folder).parent),)))
