"""What a model takes and refuses, what loads, and what is done only once."""

import functools
import os
import pathlib
import re

import jax
import minute
import numpy as np
import pytest
import tiny
from PIL import Image

from blip_jax import convert, models
from blip_jax.data.builders.shapes import make_record
from blip_jax.decoding import Decoding
from blip_jax.errors import UserError
from blip_jax.inference import Model, programs
from blip_jax.inference.model import place

FILES = [make_record(row, "test", minute.HUMAN)["image"] for row in range(9)]
TEXTS = [make_record(row, "test", minute.HUMAN)["texts"][0] for row in range(9)]
SHORT = {"max_length": 14, "min_length": 2, "num_beams": 1}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return minute.build(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def model(world):
    """Of a kind, made once."""
    return functools.cache(lambda kind: minute.trained(world, 2, "", kind))


def refused(call, *args, **options):
    """The message of the UserError that a call ends in: one line."""
    with pytest.raises(UserError) as caught:
        call(*args, **options)
    message = str(caught.value)
    assert message and "\n" not in message
    return message


# Kinds and methods

METHODS = {
    "caption": ({"captioner", "pretrain"}, (FILES[:1],)),
    "match": ({"retrieval", "pretrain"}, (FILES[:1], TEXTS[:1])),
    "answer": ({"vqa"}, (FILES[:1], TEXTS[:1])),
    "judge": ({"nlvr"}, (FILES[:1], FILES[:1], TEXTS[:1])),
    "encode_image": ({"retrieval", "pretrain", "aligned"}, (FILES[:1],)),
    "encode_text": ({"retrieval", "pretrain", "aligned"}, (TEXTS[:1],)),
    "states": ({"features", "retrieval", "pretrain"}, (FILES[:1],)),
}


@pytest.mark.parametrize("kind", models.KINDS)
def test_what_a_kind_cannot_do_is_said_before_anything_is_loaded(kind):
    nothing = Model({}, tiny.config(), "/nowhere", kind=kind)
    for method, (kinds, args) in METHODS.items():
        if kind in kinds:
            continue
        message = refused(getattr(nothing, method), *args)
        assert message.startswith(f"a {kind} model is none that ")
        assert set(re.findall(r"\w+", message.rpartition("of kind")[2])) - {"or"} == kinds


# Images that are none


@pytest.mark.parametrize(
    ("image", "why"),
    [
        (b"no image", "image number 2: not an image PIL can identify"),
        (b"", "image number 2: no bytes"),
        (FILES[0][:100], r"image number 2: .*\(\w+\)"),
        (np.zeros((16, 16, 3), np.float32), r"image number 2: an array float32 \[16, 16, 3\], .*"),
        (np.zeros((16, 16, 7), np.uint8), r"image number 2: an array uint8 \[16, 16, 7\], .*"),
        (np.zeros((0, 16, 3), np.uint8), r"image number 2: an array uint8 \[0, 16, 3\], .*"),
        (np.zeros(16, np.uint8), r"image number 2: an array uint8 \[16\], .*"),
        ("/nowhere/dog.jpg", "image /nowhere/dog.jpg: no such file or directory"),
        (pathlib.Path("/nowhere/dog.jpg"), "image /nowhere/dog.jpg: no such file or directory"),
        (None, "image number 2: .*NoneType.*"),
        (3, "image number 2: .*int.*"),
    ],
)
def test_an_image_that_is_none_is_named(model, image, why):
    images = [*FILES[:2], image, *FILES[3:]]
    message = refused(model("retrieval").encode_image, images)
    assert re.fullmatch(why, message)


def test_an_image_in_the_second_batch_is_named_by_its_place(model):
    message = refused(model("captioner").caption, [*FILES[:8], b"x"], batch_size=8, **SHORT)
    assert message.startswith("image number 8: ")


def test_a_picture_that_is_cut_short_is_named(model, tmp_path):
    path = tmp_path / "cut.png"
    path.write_bytes(FILES[0][: len(FILES[0]) // 2])
    message = refused(model("retrieval").encode_image, [FILES[0], Image.open(path)])
    assert message.startswith("image number 1: ")
    assert refused(model("retrieval").encode_image, path).startswith(f"image {path}: ")


def test_float_arrays_are_refused_whole(model):
    images = np.zeros((3, 16, 16, 3), np.float32)
    message = refused(model("retrieval").encode_image, images)
    assert message.startswith("image number 0: an array float32 [16, 16, 3]")


# Counts


@pytest.mark.parametrize(
    ("kind", "method", "args", "message"),
    [
        ("retrieval", "match", (FILES[:2], TEXTS[:3]), "2 images and 3 texts: give one an image"),
        ("retrieval", "match", (FILES[:2], "a dog"), "2 images and 1 texts: give one an image"),
        ("retrieval", "match", (FILES[:2], [["a"]]), "2 images and 1 texts: give one an image"),
        ("retrieval", "match", (FILES[:2], [["a"], []]), "texts are lists of different lengths"),
        ("retrieval", "match", (FILES[:2], [[], []]), "texts are lists of different lengths"),
        ("retrieval", "match", ([], []), "no images: give one at least"),
        ("retrieval", "encode_image", ([],), "no images: give one at least"),
        ("retrieval", "encode_text", ([],), "no texts: give one at least"),
        ("pretrain", "states", (FILES[:2], TEXTS[:1]), "2 images and 1 texts: give one an image"),
        ("pretrain", "states", (), "states of what? give images, texts or both"),
        ("pretrain", "states", (None, []), "no texts: give one at least"),
        ("vqa", "answer", (FILES[:2], "why?"), "2 images and 1 questions: give one an image"),
        ("vqa", "answer", (FILES[:1], "why?", []), "candidates is empty; give the answers"),
        ("vqa", "answer", ([], []), "no images: give one at least"),
        ("nlvr", "judge", (FILES[:2], FILES[:2], "a"), "2 images and 1 statements: give one an"),
        ("nlvr", "judge", (FILES[:1], FILES[:2], "a"), "2 images and 1 statements: give one an"),
        ("nlvr", "judge", ([], [], []), "no images: give one at least"),
    ],
)
def test_counts_that_do_not_go_together(model, kind, method, args, message):
    assert refused(getattr(model(kind), method), *args).startswith(message)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompt": ["a", "b", "c"]}, "3 prompts for 2 images: give one, or one an image"),
        ({"max_length": 25}, "max_length of captions is 25; .* at most the model's 24"),
        (
            {"prompt": "a picture of ", "max_length": 4, "min_length": 1},
            ".* above the prompt's 10 ",
        ),
        ({"max_new_tokens": 24}, "max_length of captions is 25"),
        ({"num_captions": 4}, "captions is 4; .* at most 3"),
        ({"top_p": 0.0}, "top_p is 0.0"),
        ({"num_beams": 0}, "beams is 0; it must be at least 1"),
        ({"batch_size": 0}, "batch_size is 0; it must be at least 1"),
    ],
)
def test_options_of_captions_that_make_no_sense(model, options, message):
    assert re.match(message, refused(model("captioner").caption, FILES[:2], **options))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 0}, "k is 0; it must lie between 1 and the number of candidates, 2"),
        ({"batch_size": -1}, "batch_size is -1; it must be at least 1"),
    ],
)
def test_options_of_answers_that_make_no_sense(model, options, message):
    assert refused(model("vqa").answer, FILES[:1], "why", ["a", "b"], **options) == message


def test_no_images_have_no_captions(model):
    assert model("captioner").caption([], **SHORT) == []


# Loading


@pytest.fixture(scope="module")
def workdir(world, tmp_path_factory):
    """A captioner's, with a prompt."""
    found = minute.trained(world, 4, minute.PROMPT, "captioner")
    return minute.save(found, str(tmp_path_factory.mktemp("workdir")))


@pytest.mark.parametrize("form", [str, pathlib.Path])
def test_a_workdir_is_the_model_that_was_trained(world, workdir, form):
    wanted = minute.trained(world, 4, minute.PROMPT, "captioner")
    found = models.load(form(workdir))
    assert (found.kind, found.prompt, found.max_length) == ("captioner", minute.PROMPT, 24)
    assert found.config == wanted.config and found.image_size == 16
    assert found.tokenizer.vocab_size == world.tokenizer.vocab_size
    jax.tree.map(np.testing.assert_array_equal, found.params, wanted.params)
    if form is str:
        assert found.caption(FILES[:3], **SHORT) == wanted.caption(FILES[:3], **SHORT)


def test_loading_at_another_size(world, workdir):
    small, large = (models.load(workdir, image_size=size) for size in (None, 32))
    assert (small.image_size, large.image_size) == (16, 32)
    before, after = (np.asarray(x.params["vit"]["position"]) for x in (small, large))
    np.testing.assert_array_equal(after, models.resize_position(before, 17))
    assert before.shape == (1, 5, 16)
    for name, leaf in large.params["vit"].items():
        if name != "position":
            jax.tree.map(np.testing.assert_array_equal, leaf, small.params["vit"][name])
    assert len(large.caption(FILES[:2], **SHORT)) == 2
    assert "image_size 20 is not a multiple of patch 8" in refused(
        models.load, workdir, image_size=20
    )


def test_loading_with_a_dtype_and_quirks(workdir):
    found = models.load(workdir, dtype="bfloat16", quirks=["cls_for_enc"])
    assert (found.config.dtype, found.config.quirks) == ("bfloat16", ("cls_for_enc",))
    assert {leaf.dtype for leaf in jax.tree.leaves(found.params)} == {np.dtype("float32")}
    half = found.caption(FILES[:3], return_scores=True, **SHORT)
    whole = models.load(workdir).caption(FILES[:3], return_scores=True, **SHORT)
    pairs = [(one.log_probabilities[0], two.log_probabilities[0]) for one, two in zip(half, whole)]
    assert all(0 < abs(one - two) < 0.1 for one, two in pairs)
    assert "'cls'" in refused(models.load, workdir, quirks=["cls"])


def test_a_checkpoint_of_the_original(world, model, tmp_path):
    """Written and loaded: the same captions, and the tokenizer that is given."""
    captioner = model("captioner")
    params = jax.tree.map(np.asarray, captioner.params)
    checkpoint = convert.Checkpoint("captioner", captioner.config, params, prompt="a ")
    convert.write(checkpoint, str(tmp_path / "model.safetensors"), "original")
    found = models.load(tmp_path / "model.safetensors", tokenizer=f"{world.folder}/tokenizer")
    assert (found.kind, found.prompt) == ("captioner", "a ")
    given = dict(SHORT, prompt="", batch_size=8)
    assert found.caption(FILES[:3], **given) == captioner.caption(FILES[:3], **given)
    unknown = models.load(tmp_path / "model.safetensors")
    assert "tokenizer=" in refused(unknown.caption, FILES[:3])


def test_a_tokenizer_of_another_vocabulary_is_refused(world, workdir, tmp_path):
    folder = tmp_path / "other"
    folder.mkdir()
    words = pathlib.Path(world.folder, "tokenizer", "vocab.txt").read_text("utf-8").split("\n")
    (folder / "vocab.txt").write_text("\n".join(words[:-3]), "utf-8")
    message = refused(models.load(workdir, tokenizer=str(folder)).caption, FILES[:1])
    size = world.tokenizer.vocab_size
    assert message.startswith(f"the tokenizer {folder} has {size - 2} tokens, the model {size}:")
    given = type(world.tokenizer).load(str(folder))
    message = refused(models.load(workdir, tokenizer=given).caption, FILES[:1])
    assert message.startswith(f"the tokenizer has {size - 2} tokens, the model {size}:")


def test_what_is_no_model(tmp_path, workdir):
    missing = str(tmp_path / "model.pth")
    assert refused(models.load, missing) == f"{missing} does not exist"
    for name in ("text.pth", "text.safetensors", "text.bin"):
        file = tmp_path / name
        file.write_text("not a checkpoint")
        assert str(file) in refused(models.load, file)
    (tmp_path / "empty").mkdir()
    assert str(tmp_path / "empty") in refused(models.load, tmp_path / "empty")
    os.makedirs(tmp_path / "untrained" / "checkpoints")
    assert str(tmp_path / "untrained") in refused(models.load, tmp_path / "untrained")
    assert "no-such/model-id" in refused(models.load, "no-such/model-id")


# What is done once


@pytest.fixture
def traces(monkeypatch):
    """A list that grows by one each time that a program with images is traced."""
    seen, normalize = [], programs.normalize

    def counted(images):
        seen.append(images.shape)
        return normalize(images)

    monkeypatch.setattr(programs, "normalize", counted)
    return seen


CALLS = {
    "pretrain": [
        ("caption", (FILES[:3],), (FILES[3:8],), SHORT),
        ("caption", (FILES[:3],), (FILES[3:8],), {**SHORT, "top_p": 0.9}),
        ("match", (FILES[:3], TEXTS[:3]), (FILES[3:8], ["a red circle"] * 5), {}),
        ("encode_image", (FILES[:3],), (FILES[3:8],), {}),
        ("states", (FILES[:3],), (FILES[3:8],), {}),
    ],
    "vqa": [
        ("answer", (FILES[:3], TEXTS[:3], ["a", "b"]), (FILES[:2], ["where"] * 2, ["a", "b"]), {}),
    ],
    "nlvr": [("judge", (FILES[:3], FILES[:3], ["a"] * 3), (FILES[:1], FILES[:1], ["b"]), {})],
}


@pytest.mark.parametrize("kind", CALLS)
def test_a_second_call_compiles_nothing(world, kind, traces):
    fresh = minute.trained(world, 5, "", kind)
    fresh.max_length = 16  # one length of text
    for method, first, second, options in CALLS[kind]:
        before = len(traces)
        getattr(fresh, method)(*first, **options)
        traced = len(traces)
        assert traced > before, method  # the options' own program
        getattr(fresh, method)(*second, **options)
        drawn = {"seed": 3} if "top_p" in options else {}
        getattr(fresh, method)(*second, **options, **drawn)
        assert len(traces) == traced, method
    assert {shape[0] for shape in traces} == {1}  # rows a device


def test_parameters_are_placed_once(model):
    retrieval = model("retrieval")
    placed = retrieval.placed
    assert placed is retrieval.placed is retrieval.params
    devices = set(jax.local_devices())
    for leaf in jax.tree.leaves(placed):
        assert leaf.sharding.is_fully_replicated and leaf.devices() == devices
    for one, two in zip(jax.tree.leaves(placed), jax.tree.leaves(place(placed)), strict=True):
        where = [
            [shard.data.unsafe_buffer_pointer() for shard in array.addressable_shards]
            for array in (one, two)
        ]
        assert where[0] == where[1]


def test_options_in_one_object_are_the_options(model):
    captioner = model("captioner")
    options = Decoding(method="beam", beams=1, repetition_penalty=1.0, min_length=2, max_length=14)
    written = captioner.write(FILES[:3], options)
    assert [row[0].text for row in written] == captioner.caption(FILES[:3], **SHORT)
