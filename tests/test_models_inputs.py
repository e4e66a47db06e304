"""What a model takes and refuses, and what is done only once."""

import functools
import pathlib
import re

import jax
import numpy as np
import pytest
import tiny
import tiny_dataset
from network_calls import FILES, TEXTS, refused
from PIL import Image

from blip_jax import nn
from blip_jax.decoding import Decoding
from blip_jax.models import Model, functions
from blip_jax.models.base import replicate_to_local_devices

SHORT = {"max_length": 14, "min_length": 2, "num_beams": 1}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return tiny_dataset.build(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def model(world):
    """Makes a model of a type once."""
    return functools.cache(lambda model_type: tiny_dataset.trained(world, 2, "", model_type))


# Kinds and methods

METHODS = {
    "caption": ({"captioner", "pretrain"}, (FILES[:1],)),
    "match": ({"retrieval", "pretrain"}, (FILES[:1], TEXTS[:1])),
    "answer": ({"vqa"}, (FILES[:1], TEXTS[:1])),
    "verify": ({"nlvr"}, (FILES[:1], FILES[:1], TEXTS[:1])),
    "encode_image": ({"retrieval", "pretrain", "aligned"}, (FILES[:1],)),
    "encode_text": ({"retrieval", "pretrain", "aligned"}, (TEXTS[:1],)),
    "hidden_states": ({"features", "retrieval", "pretrain"}, (FILES[:1],)),
}


@pytest.mark.parametrize("model_type", nn.MODEL_TYPES)
def test_what_a_kind_cannot_do_is_said_before_anything_is_loaded(model_type):
    nothing = Model({}, tiny.config(), "/nowhere", model_type=model_type)
    for method, (model_types, args) in METHODS.items():
        if model_type in model_types:
            continue
        message = refused(getattr(nothing, method), *args)
        assert message.startswith(f"a {model_type} model is none that ")
        assert (
            set(re.findall(r"\w+", message.rpartition("of model_type")[2])) - {"or"} == model_types
        )


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
    ("model_type", "method", "args", "message"),
    [
        ("retrieval", "match", (FILES[:2], TEXTS[:3]), "2 images and 3 texts: give one an image"),
        ("retrieval", "match", (FILES[:2], "a dog"), "2 images and 1 texts: give one an image"),
        ("retrieval", "match", (FILES[:2], [["a"]]), "2 images and 1 texts: give one an image"),
        ("retrieval", "match", (FILES[:2], [["a"], []]), "texts are lists of different lengths"),
        ("retrieval", "match", (FILES[:2], [[], []]), "texts are lists of different lengths"),
        ("retrieval", "match", ([], []), "no images: give one at least"),
        ("retrieval", "encode_image", ([],), "no images: give one at least"),
        ("retrieval", "encode_text", ([],), "no texts: give one at least"),
        (
            "pretrain",
            "hidden_states",
            (FILES[:2], TEXTS[:1]),
            "2 images and 1 texts: give one an image",
        ),
        ("pretrain", "hidden_states", (), "states of what? give images, texts or both"),
        ("pretrain", "hidden_states", (None, []), "no texts: give one at least"),
        ("vqa", "answer", (FILES[:2], "why?"), "2 images and 1 questions: give one an image"),
        ("vqa", "answer", (FILES[:1], "why?", []), "candidates is empty; give the answers"),
        ("vqa", "answer", ([], []), "no images: give one at least"),
        ("nlvr", "verify", (FILES[:2], FILES[:2], "a"), "2 images and 1 statements: give one an"),
        ("nlvr", "verify", (FILES[:1], FILES[:2], "a"), "2 images and 1 statements: give one an"),
        ("nlvr", "verify", ([], [], []), "no images: give one at least"),
    ],
)
def test_counts_that_do_not_go_together(model, model_type, method, args, message):
    assert refused(getattr(model(model_type), method), *args).startswith(message)


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
        ({"num_captions": 4}, "num_captions is 4; .* at most 3"),
        ({"top_p": 0.0}, "top_p is 0.0"),
        ({"num_beams": 0}, "num_beams is 0; it must be at least 1"),
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


# What is done once


@pytest.fixture
def traces(monkeypatch):
    """A list that grows by one each time that a program with images is traced."""
    seen, normalize = [], functions.normalize

    def counted(images):
        seen.append(images.shape)
        return normalize(images)

    monkeypatch.setattr(functions, "normalize", counted)
    return seen


CALLS = {
    "pretrain": [
        ("caption", (FILES[:3],), (FILES[3:8],), SHORT),
        ("caption", (FILES[:3],), (FILES[3:8],), {**SHORT, "top_p": 0.9}),
        ("match", (FILES[:3], TEXTS[:3]), (FILES[3:8], ["a red circle"] * 5), {}),
        ("encode_image", (FILES[:3],), (FILES[3:8],), {}),
        ("hidden_states", (FILES[:3],), (FILES[3:8],), {}),
    ],
    "vqa": [
        ("answer", (FILES[:3], TEXTS[:3], ["a", "b"]), (FILES[:2], ["where"] * 2, ["a", "b"]), {}),
    ],
    "nlvr": [("verify", (FILES[:3], FILES[:3], ["a"] * 3), (FILES[:1], FILES[:1], ["b"]), {})],
}


@pytest.mark.parametrize("model_type", CALLS)
def test_a_second_call_compiles_nothing(world, model_type, traces):
    fresh = tiny_dataset.trained(world, 5, "", model_type)
    fresh.max_length = 16  # one length of text
    for method, first, second, options in CALLS[model_type]:
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
    for one, two in zip(
        jax.tree.leaves(placed), jax.tree.leaves(replicate_to_local_devices(placed)), strict=True
    ):
        where = [
            [shard.data.unsafe_buffer_pointer() for shard in array.addressable_shards]
            for array in (one, two)
        ]
        assert where[0] == where[1]


def test_options_in_one_object_are_the_options(model):
    captioner = model("captioner")
    options = Decoding(
        method="beam", num_beams=1, repetition_penalty=1.0, min_length=2, max_length=14
    )
    written = captioner.write(FILES[:3], options)
    assert [row[0].text for row in written] == captioner.caption(FILES[:3], **SHORT)
