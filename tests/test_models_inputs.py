"""What a model takes and refuses."""

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
from blip_jax.models import Model

NAN = float("nan")
SHORT = {"max_length": 14, "min_length": 2, "num_beams": 1}


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
        assert message.startswith(f"a {model_type} model cannot ")
        able = set(re.findall(r"\w+", message.partition("load a")[2])) - {"or", "model"}
        assert able == model_types


# Images that are none


@pytest.mark.parametrize(
    ("image", "why"),
    [
        (b"no image", "image number 2: not an image PIL can identify"),
        (b"", "image number 2: no bytes"),
        (FILES[0][:100], r"image number 2: .*\(\w+\)"),
        (np.full((16, 16, 3), 255.0), r"image number 2: a float array from 255 to 255; scale .*"),
        (np.full((16, 16, 3), np.nan), r"image number 2: a float array from nan to nan; scale .*"),
        (np.full((16, 16), -1, np.int32), r"image number 2: an array of int32 from -1 to -1; .*"),
        (
            np.zeros((16, 16, 7), np.uint8),
            r"image number 2: .* shape \[16, 16, 7\] is not an image.*",
        ),
        (
            np.zeros((0, 16, 3), np.uint8),
            r"image number 2: .* shape \[0, 16, 3\] is not an image.*",
        ),
        (np.zeros(16, np.uint8), r"image number 2: .* shape \[16\] is not an image; give a path.*"),
        ("https://x.org/dog.jpg", "image https://x.org/dog.jpg: URLs are not downloaded; save .*"),
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


def test_what_is_no_sequence_of_images_is_refused(model):
    for images in (None, 3):
        message = refused(model("retrieval").encode_image, images)
        assert message.startswith(f"images is {type(images).__name__}; give a path, bytes, an open")


def test_images_that_cannot_be_read_can_be_skipped(model):
    images = [*FILES[:2], b"no image", *FILES[2:4]]
    with pytest.warns(UserWarning, match="image number 2: not an image"):
        features = model("retrieval").encode_image(images, on_error="skip")
    assert np.isnan(features).all(axis=1).tolist() == [False, False, True, False, False]
    whole = model("retrieval").encode_image(FILES[:4])
    np.testing.assert_allclose(features[[0, 1, 3, 4]], whole, atol=1e-6)
    with pytest.warns(UserWarning):
        captions = model("captioner").caption(images, on_error="skip", **SHORT)
    assert [caption is None for caption in captions] == [False, False, True, False, False]
    assert refused(model("retrieval").encode_image, images, on_error="no") == (
        "on_error is 'no'; supported: raise, skip"
    )


def test_a_prompt_that_is_no_text_is_named_by_its_place(model):
    for prompt, found in (([None], "prompt[0] is None"), (["a", NAN], "prompt[1] is nan")):
        message = refused(model("captioner").caption, FILES[:2], prompt=prompt, **SHORT)
        assert message.startswith(f"{found} (") and message.endswith("give a string")


def test_weights_of_nan_are_named_and_give_no_empty_caption(world):
    for model_type, method, args in (
        ("captioner", "caption", (FILES[:1],)),
        ("retrieval", "match", (FILES[:1], TEXTS[:1])),
        ("retrieval", "encode_text", (TEXTS[:1],)),
    ):
        found = tiny_dataset.trained(world, 0, "", model_type)
        part = "vit" if method != "encode_text" else "text_proj"
        found.params[part] = jax.tree.map(lambda x: np.full_like(x, np.nan), found.params[part])
        options = SHORT if method == "caption" else {}
        assert refused(getattr(found, method), *args, **options) == (
            f"the {model_type} model gives NaN: its weights hold NaN or are too large; has it "
            "diverged?"
        )


# Counts


@pytest.mark.parametrize(
    ("model_type", "method", "args", "message"),
    [
        (
            "retrieval",
            "match",
            (FILES[:2], TEXTS[:3]),
            "3 texts and 2 images; give one image for all",
        ),
        (
            "retrieval",
            "match",
            (FILES[:2], [["a"]]),
            "2 images and lists of 1 texts; give the same number",
        ),
        ("retrieval", "match", (FILES[:2], [["a"], []]), "2 images and lists of 1, 0 texts; give"),
        ("retrieval", "match", (FILES[:2], [[], []]), "2 images and lists of 0, 0 texts; give"),
        ("retrieval", "match", (FILES[:2], [3, 4]), "texts[0] is 3 (int); give a string or a"),
        ("retrieval", "match", (FILES[0], [None]), "texts[0] is None (NoneType); give a string"),
        ("retrieval", "match", (FILES[0], [NAN]), "texts[0] is nan (float); give a string or a"),
        (
            "retrieval",
            "match",
            (FILES[:2], [["a"], [None]]),
            "texts[1][0] is None (NoneType); give",
        ),
        ("retrieval", "match", (FILES[:2], [["a"], NAN]), "texts[1] is nan (float); give a string"),
        ("retrieval", "match", (FILES[0], b"a dog"), "texts is b'a dog' (bytes); give a"),
        ("retrieval", "match", ([], []), "no images; give at least one"),
        ("retrieval", "encode_image", ([],), "no images; give at least one"),
        ("retrieval", "encode_text", ([],), "no texts; give at least one"),
        (
            "pretrain",
            "hidden_states",
            (FILES[:2], TEXTS[:3]),
            "3 texts and 2 images; give one image for all, or one for each",
        ),
        ("pretrain", "hidden_states", (), "give images, texts, or both"),
        ("pretrain", "hidden_states", (None, []), "no texts; give at least one"),
        ("vqa", "answer", (FILES[:2], TEXTS[:3]), "3 questions and 2 images; give one image"),
        ("vqa", "answer", (FILES[:1], "why?", []), "no candidates; give at least one"),
        ("vqa", "answer", ([], []), "no images; give at least one"),
        ("nlvr", "verify", (FILES[:3], FILES[:2], "a"), "3 first images and 2 second images; give"),
        ("nlvr", "verify", ([], [], []), "no first images; give at least one"),
    ],
)
def test_counts_that_do_not_go_together(model, model_type, method, args, message):
    assert refused(getattr(model(model_type), method), *args).startswith(message)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompt": ["a", "b", "c"]}, "3 prompts for 2 images; give one for all, or one each"),
        ({"max_length": 25}, "max_length is 25; .* at most the model's 24"),
        (
            {"prompt": "a picture of ", "max_length": 4, "min_length": 1},
            ".* exceed the prompt's 10 tokens",
        ),
        ({"max_new_tokens": 24}, "max_length is 25"),
        ({"num_captions": 4}, "num_captions is 4; .* at most 3"),
        ({"top_p": 0.0}, "top_p is 0.0"),
        ({"num_beams": 0}, "num_beams is 0; it must be at least 1"),
        ({"batch_size": 0}, "batch_size is 0; it must be at least 1"),
        ({"num_beams": 3, "top_p": 0.9}, r"num_beams cannot be combined with top_p \(sampling\)"),
        ({"method": "greedy", "temperature": 2.0}, "temperature needs sampling, but method is"),
        (
            {"do_sample": True},
            "caption has no option 'do_sample'; give top_p, top_k or temperature",
        ),
        ({"num_return_sequences": 3}, "caption has no option .*; use num_captions"),
        ({"top_pp": 0.9}, "caption has no option 'top_pp'; did you mean 'top_p'"),
        ({"decoding": Decoding(), "top_k": 3}, "decoding and top_k are both given"),
    ],
)
def test_options_of_captions_that_make_no_sense(model, options, message):
    assert re.match(message, refused(model("captioner").caption, FILES[:2], **options))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 0}, "k is 0; it must be 1 or more"),
        ({"batch_size": -1}, "batch_size is -1; it must be at least 1"),
    ],
)
def test_options_of_answers_that_make_no_sense(model, options, message):
    assert refused(model("vqa").answer, FILES[:1], "why", ["a", "b"], **options) == message


def test_no_images_are_refused_everywhere(model):
    assert refused(model("captioner").caption, [], **SHORT) == "no images; give at least one"


def test_one_image_goes_with_many_texts_and_the_reverse(model):
    retrieval, texts = model("retrieval"), ["a red circle", "two dogs", "a green square"]
    one = retrieval.match(FILES[0], texts)
    wanted = retrieval.match([FILES[0]] * 3, texts)
    np.testing.assert_allclose(one.probability, wanted.probability, atol=1e-6)
    many = retrieval.match(FILES[:3], texts[0])
    wanted = retrieval.match(FILES[:3], [texts[0]] * 3)
    np.testing.assert_allclose(many.cosine, wanted.cosine, atol=1e-6)
    questions = ["how many?", "why?", "where is it?"]
    answers = model("vqa").answer(FILES[0], questions)
    each = [model("vqa").answer(FILES[0], question)[0] for question in questions]
    assert [a.text for a in answers] == [a.text for a in each]


def test_the_repr_says_what_a_model_is_and_can_do(model):
    text = repr(model("captioner"))
    assert text.startswith("Model(captioner, ViT 16x2 @16px, text 16x2, ")
    assert text.endswith(" parameters, float32): caption, gradcam")
