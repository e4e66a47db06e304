"""Arguments of the Python API that do not fit their annotations are named, with what is wanted."""

import inspect
import itertools
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from network_calls import FILES, TEXTS, refused

from blip_jax import models
from blip_jax.capfilt.bootstrap.config import BootstrapConfig
from blip_jax.capfilt.config import AssembleConfig, CapFiltConfig
from blip_jax.comparison.config import ComparisonConfig
from blip_jax.data.ingest.config import IngestConfig
from blip_jax.data.synthetic.dataset import ShapesDatasetConfig
from blip_jax.data.synthetic.scenes import World
from blip_jax.decoding import Decoding
from blip_jax.runtime.arguments import Range, check_arguments, fits
from blip_jax.tasks.evaluate import EvaluateConfig
from blip_jax.tasks.pairs import ItcConfig
from blip_jax.tasks.vqa import VqaConfig
from blip_jax.train.config import NonfiniteConfig, TrainConfig
from blip_jax.train.optimizer import OptimizerConfig

NAN = float("nan")
SEEDS = "give a whole number from 0 to 4294967295"
SHORT = {"max_length": 6, "min_length": 1}
STRINGS = "give a string or a list of strings"
OPTIONAL = "give a string, a list of strings or None"
TRUTH = "give True or False"
WHOLE = "give a whole number"


CALLS = {
    "caption": ("captioner", {"images": FILES[:2]}),
    "captions": ("captioner", {"images": FILES[:2]}),
    "match": ("retrieval", {"images": FILES[:2], "texts": "a"}),
    "encode_text": ("retrieval", {}),
    "encode_image": ("retrieval", {"images": FILES[:2]}),
    "gradcam": ("retrieval", {"images": FILES[:2], "texts": "a"}),
    "answer": ("vqa", {"images": FILES[:1], "questions": "why"}),
    "verify": ("nlvr", {"first": FILES[:1], "second": FILES[:1]}),
    "hidden_states": ("pretrain", {}),
}


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("caption", {"prompt": 5}, f"prompt is 5 (int); {OPTIONAL}"),
        ("caption", {"seed": None}, f"seed is None (NoneType); {SEEDS}"),
        ("caption", {"seed": 1.0}, f"seed is 1.0 (float); {SEEDS}"),
        ("caption", {"seed": -1}, f"seed is -1 (int); {SEEDS}"),
        ("captions", {"seed": 2**32}, f"seed is 4294967296 (int); {SEEDS}"),
        ("caption", {"batch_size": True}, f"batch_size is True (bool); {WHOLE}"),
        ("caption", {"batch_size": 8.0}, f"batch_size is 8.0 (float); {WHOLE}"),
        ("caption", {"start_index": -1}, "start_index is -1 (int); give a whole"),
        ("caption", {"start_index": [0, "1"]}, "start_index[1] is '1' (str); give"),
        ("caption", {"on_error": None}, "on_error is None (NoneType); give a string"),
        ("caption", {"decoding": "beam"}, "decoding is 'beam' (str); give a Decoding or None"),
        ("caption", {"top_k": 5.0}, f"top_k is 5.0 (float); {WHOLE}"),
        ("caption", {"top_p": "0.9"}, "top_p is '0.9' (str); give a number"),
        ("caption", {"temperature": NAN}, "temperature is nan; give a finite number"),
        ("caption", {"num_captions": True}, f"num_captions is True (bool); {WHOLE}"),
        ("caption", {"method": 3}, "method is 3 (int); give 'sample', 'greedy' or 'beam'"),
        ("caption", {"images": None}, "images is NoneType; give a path, bytes"),
        ("caption", {"images": NAN}, "images is float; give a path, bytes"),
        ("match", {"texts": None}, "texts is None (NoneType); give a string, a list"),
        ("match", {"texts": {"a": 1}}, "texts is {'a': 1} (dict); give a string, a"),
        ("match", {"clean": "no"}, f"clean is 'no' (str); {TRUTH}"),
        ("encode_text", {"texts": NAN}, f"texts is nan (float); {STRINGS}"),
        ("encode_text", {"texts": iter(["a", 1])}, "texts[1] is 1 (int); give a string"),
        ("encode_text", {"texts": np.array(["a", None])}, "texts[1] is None (NoneType); give"),
        ("encode_image", {"images": 5}, "images is int; give a path, bytes"),
        ("encode_image", {"batch_size": None}, f"batch_size is None (NoneType); {WHOLE}"),
        ("gradcam", {"texts": 3}, f"texts is 3 (int); {OPTIONAL}"),
        ("gradcam", {"layer": 0.5}, f"layer is 0.5 (float); {WHOLE} or None"),
        ("gradcam", {"of": 1}, "of is 1 (int); give 'match', 'caption', 'answer' or None"),
        ("answer", {"questions": [None]}, "questions[0] is None (NoneType); give a string"),
        ("answer", {"candidates": "yes"}, "candidates is 'yes' (str); give a list of"),
        ("answer", {"candidates": ["yes", NAN]}, "candidates[1] is nan (float); give a string"),
        ("answer", {"candidates": ["yes"], "k": 1.0}, f"k is 1.0 (float); {WHOLE}"),
        ("answer", {"num_beams": "3"}, f"num_beams is '3' (str); {WHOLE}"),
        ("answer", {"num_beams": -3}, "num_beams is -3; it must be at least 1"),
        ("verify", {"statements": None}, f"statements is None (NoneType); {STRINGS}"),
        ("hidden_states", {"texts": 5}, f"texts is 5 (int); {OPTIONAL}"),
    ],
)
def test_an_argument_of_another_type_is_named(model, method, options, message):
    model_type, usual = CALLS[method]
    given = usual | options
    assert refused(getattr(model(model_type), method), **given).startswith(message)


@pytest.mark.parametrize(
    ("function", "args", "options", "message"),
    [
        (models.load, (None,), {}, "source is None (NoneType); give a string or a PathLike"),
        (models.load, ("x",), {"image_size": "9"}, f"image_size is '9' (str); {WHOLE} or None"),
        (models.load, ("x",), {"quirks": "a"}, "quirks is 'a' (str); give a list of strings"),
        (models.load, ("x",), {"heads": 12}, "heads is 12 (int); give a Mapping or None"),
        (models.load, ("x",), {"tokenizer": 3}, "tokenizer is 3 (int); give a Tokenizer, a"),
        (models.preset, (None,), {}, "name is None (NoneType); give a string"),
        (models.init, (None, None), {}, "config is None (NoneType); give a BlipConfig"),
        (models.init, (models.preset("tiny"), 0), {}, "key is 0 (int); give an Array"),
        (models.network, ("tiny",), {}, "config is 'tiny' (str); give a BlipConfig"),
        (models.Decoding, (), {"early_stopping": 1}, f"early_stopping is 1 (int); {TRUTH}"),
    ],
)  # fmt: skip
def test_arguments_of_functions_that_make_models(function, args, options, message):
    assert refused(function, *args, **options).startswith(message)


def test_scalars_and_arrays_of_libraries_are_taken(model):
    captioner = model("captioner")
    plain = captioner.captions(FILES[:2], seed=3, start_index=[4, 5], top_k=4, **SHORT)
    found = captioner.captions(
        iter(FILES[:2]), seed=np.int64(3), start_index=np.array([4, 5]), top_k=jnp.int32(4), **SHORT
    )
    assert [row[0].text for row in found] == [row[0].text for row in plain]
    retrieval = model("retrieval")
    wanted = retrieval.encode_text(TEXTS[:3])
    for texts in (tuple(TEXTS[:3]), np.array(TEXTS[:3]), iter(TEXTS[:3])):
        np.testing.assert_array_equal(retrieval.encode_text(texts), wanted)


def test_a_number_without_end_is_named(model):
    message = refused(model("captioner").caption, FILES[:1], seed=10**5000)
    assert message == f"seed is a number of too many digits (int); {SEEDS}"


def test_methods_keep_their_signatures_and_docstrings():
    parameters = inspect.signature(models.Model.caption).parameters
    assert {"images", "seed", "top_p", "num_captions"} <= set(parameters)
    assert models.Model.match.__doc__.startswith("Scores texts against images.")
    assert list(inspect.signature(models.load).parameters)[:2] == ["source", "image_size"]


@pytest.mark.parametrize(
    ("config", "seed"),
    list(itertools.product(
        (TrainConfig, CapFiltConfig, AssembleConfig, ShapesDatasetConfig, BootstrapConfig,
         ComparisonConfig),
        (-1, 2**32, 2**70, 0.0, None, True),
    )),
)  # fmt: skip
def test_seeds_that_the_generators_do_not_take_are_refused(config, seed):
    several = config in (BootstrapConfig, ComparisonConfig)
    options = {"seeds": (0, seed)} if several else {"seed": seed}
    wanted = f"{'seeds[1]' if several else 'seed'} is {seed!r} ({type(seed).__name__}); give "
    assert refused(config, **options).startswith(wanted)
    highest = 2**32 - 1
    assert config(**{"seeds": (0, highest)} if several else {"seed": highest})


def test_values_within_jit_are_not_read():
    def loss(alpha):
        return ItcConfig(alpha=alpha).alpha * 2

    assert jax.jit(loss)(0.5) == 1


def test_fields_of_a_config_file_are_checked():
    assert refused(TrainConfig, steps="ten") == f"steps is 'ten' (str); {WHOLE} of 1 or more"
    found = refused(CapFiltConfig, batch_size=NAN)
    assert found == f"batch_size is nan (float); {WHOLE} of 1 or more"
    for config, name in (
        (OptimizerConfig, "optimizer.clip_norm"),
        (NonfiniteConfig, "nonfinite.max_in_a_row"),
        (VqaConfig, "task.max_answers"),
        (IngestConfig, "min_side"),
        (EvaluateConfig, "limit"),
        (World, "cells"),
    ):
        field = name.rpartition(".")[2]
        assert refused(config, **{field: "x"}).startswith(f"{name} is 'x' (str); give a ")
    assert refused(Decoding, method="samples") == (
        "method is 'samples' (str); did you mean 'sample'?"
    )
    assert refused(Decoding, max_length=None) == f"max_length is None (NoneType); {WHOLE}"


@pytest.mark.parametrize(
    ("annotation", "good", "bad"),
    [
        (int, [3, np.int8(3), np.array(3)], [True, np.True_, 3.0, "3", None, [3]]),
        (float, [3, 0.5, np.float32(2), float("inf")], [NAN, np.float32(NAN), True, "0.5", None]),
        (bool, [True, np.False_], [0, 1, "yes", None]),
        (str, ["", np.str_("a")], [b"a", None, ["a"]]),
        (int | None, [None, 3], ["", 0.5]),
        (Literal["a", 1], ["a", 1], ["b", True, 1.0]),
        (Annotated[int, Range(1, 3)], [1, 3], [0, 4, 2.0, None]),
        (Sequence[str], [[], ["a"], ("a",), np.array(["a"])], ["a", b"a", [1], {"a": 1}, None]),
        (tuple[int, ...], [(), [1, 2], np.arange(3)], [1, "12", (1, None)]),
        (tuple[str, int], [("a", 1), ["a", 1]], [("a",), ("a", 1, 2), "a1"]),
        (Mapping[str, int], [{}, {"a": 1}], [[], None]),
        (Any, [None, 5, object()], []),
    ],
)
def test_what_fits_an_annotation(annotation, good, bad):
    assert all(fits(value, annotation) for value in good)
    assert not any(fits(value, annotation) for value in bad)


def test_only_annotated_arguments_of_given_names_are_checked():
    @check_arguments
    def total(first: int, second, *more: int, factor: float = 1.0, **options: str) -> float:
        return factor * (first + second + sum(more)) + len(options)

    assert total(1, 2.5, 3, 0.5, factor=2, name=None) == 15
    assert refused(total, "1", 2) == f"first is '1' (str); {WHOLE}"
    assert refused(total, 1, 2, factor=None) == "factor is None (NoneType); give a number"
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'second'"):
        total(1)
