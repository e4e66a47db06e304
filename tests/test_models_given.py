"""What a model takes as users have it: columns of tables, other arrays, pickles, kept steps."""

import pickle

import jax
import numpy as np
import pytest
import tiny
import tiny_dataset
from network_calls import FILES, TEXTS
from PIL import Image

from blip_jax import models
from blip_jax.checkpoints import workdir
from blip_jax.cli.main import main
from blip_jax.models.inputs import as_images, load_image
from blip_jax.runtime.errors import UserError


def test_columns_of_paths_are_lists_of_images():
    paths = ["dog.jpg", "a beach.png"]
    assert as_images(np.array(paths)) == as_images(np.array(paths, object)) == paths


@pytest.mark.parametrize(
    ("array", "value"),
    [
        (np.full((4, 4, 3), 40_000, np.uint16), 40_000 >> 8),
        (np.ones((4, 4, 3), bool), 255),
        (np.full((4, 4, 3), 200, np.int64), 200),
    ],
)
def test_arrays_of_other_types_keep_their_pixels(array, value):
    assert (load_image(array) == value).all()
    if array.dtype == np.uint16:  # as a file of 16 bits
        assert (load_image(Image.fromarray(array[..., 0])) == value).all()


def test_numbers_that_are_no_pixels_are_named():
    with pytest.raises(ValueError, match="an array of int64 from -1 to 300; give uint8"):
        load_image(np.array([[-1, 300]], np.int64))


def test_a_model_in_use_can_be_pickled(model):
    retrieval = model("retrieval")
    wanted = retrieval.match(FILES[:1], TEXTS[:1]).probability
    again = pickle.loads(pickle.dumps(retrieval))
    np.testing.assert_array_equal(again.match(FILES[:1], TEXTS[:1]).probability, wanted)


def test_an_unknown_model_type_is_named():
    with pytest.raises(UserError, match="there is no model type 'vqaa'; did you mean 'vqa'"):
        models.Model({}, tiny.config(), "", model_type="vqaa")


@pytest.mark.parametrize("key", [jax.random.key(0), jax.random.PRNGKey(0)], ids=["new", "old"])
def test_parameters_are_made_with_keys_of_jax(key):
    params = models.init(tiny.config(), key)
    assert params["temperature"].shape == ()
    with pytest.raises(UserError, match="^key is 0 "):
        models.init(tiny.config(), 0)


def test_a_text_with_half_a_character_is_named(model):
    with pytest.raises(UserError, match="is not valid Unicode; remove its surrogates"):
        model("retrieval").match(FILES[:1], "a \ud800 b")


def test_start_indices_are_one_for_each_image(model):
    with pytest.raises(UserError, match="start_index has 2 numbers, but there are 1 images"):
        model("captioner").captions(FILES[:1], start_index=[5, 6])


def test_a_step_of_a_run_is_a_model(model, tmp_path):
    run = tiny_dataset.save(model("captioner"), str(tmp_path / "run"))
    assert workdir.split_step(f"{run}/checkpoints/1") == (run, 1)
    found = models.load(f"{run}/checkpoints/1")
    assert [x.text for x in found.caption(FILES[:2], method="greedy")] == [
        x.text for x in models.load(run).caption(FILES[:2], method="greedy")
    ]
    with pytest.raises(UserError, match="run has no checkpoint of step 7; it has 1"):
        models.load(f"{run}/checkpoints/7")


def test_a_hugging_face_folder_keeps_prompt_and_length(world, tmp_path):
    captioner = tiny_dataset.trained(world, 2, tiny_dataset.PROMPT, "captioner")
    run = tiny_dataset.save(captioner, str(tmp_path / "run"))
    assert main(["convert", run, str(tmp_path / "hf")]) == 0
    assert main(["convert", str(tmp_path / "hf"), str(tmp_path / "back"), "--to=jax"]) == 0
    wanted = models.load(run)
    for name in ("hf", "back"):
        found = models.load(str(tmp_path / name))
        assert (found.prompt, found.max_length) == (wanted.prompt, wanted.max_length)
        assert found.prompt == tiny_dataset.PROMPT
    (tmp_path / "hf" / "blip_jax.json").write_text("[]")
    with pytest.raises(UserError, match=r"blip_jax\.json is damaged"):
        models.load(str(tmp_path / "hf"))
