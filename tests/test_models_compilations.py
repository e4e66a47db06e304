"""What is done once: compiling a program, placing the parameters on the devices."""

import jax
import pytest
import tiny_dataset
from network_calls import FILES, TEXTS

from blip_jax.decoding import Decoding
from blip_jax.models import functions
from blip_jax.models.base import replicate_to_local_devices

SHORT = {"max_length": 14, "min_length": 2, "num_beams": 1}


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
        ("caption", (FILES[:3],), (FILES[3:8],), {"max_length": 14, "top_p": 0.9}),
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
    placed = retrieval.device_params
    assert placed is retrieval.device_params is retrieval.params
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
    for method in (captioner.caption, captioner.captions):
        wanted = [str(x) for x in method(FILES[:3], options)]
        assert wanted == [str(x) for x in method(FILES[:3], **SHORT)]


def test_other_options_compile_nothing(world, traces):
    """Temperatures, top-p, penalties, lengths within a bucket, prompts and seeds are data."""
    fresh = tiny_dataset.trained(world, 5, "", "captioner")
    words = [
        "a", "red", "the", "a red", "blue", "a blue", "the red", "green", "a green", "the blue",
    ]  # fmt: skip
    prompts = [text for text in words if len(fresh.tokenizer.prompt(text)) <= 4]  # of one bucket
    assert len(prompts) == 10
    for number in range(10):
        fresh.caption(
            FILES[:3], temperature=0.5 + number / 10, top_p=0.5 + number / 20, top_k=number,
            repetition_penalty=1 + number / 10, min_length=2 + number // 3,
            max_length=16 - number % 4, prompt=prompts[number], seed=number,
        )  # fmt: skip
    assert len(traces) == 1
    for number in range(10):
        fresh.caption(
            FILES[:3], num_beams=3, length_penalty=number / 5, repetition_penalty=1 + number / 10,
            max_length=16 - number % 4, early_stopping=number % 2 == 0, prompt=prompts[number],
        )  # fmt: skip
    assert len(traces) == 2


def test_models_of_one_network_share_their_programs(world, traces):
    """As in evaluation inside training, which makes a model of each checkpoint's parameters."""

    def cosine(seed, **changes):
        fresh = tiny_dataset.trained(world, seed, "", "retrieval", embed_dim=4, **changes)
        return fresh.match(FILES[:2], TEXTS[:2]).cosine

    first, traced = cosine(7), len(traces)
    assert abs(first - cosine(8)).min() > 1e-3  # with its own parameters
    assert len(traces) == traced > 0
    cosine(7, quirks=["cls_for_enc"])
    assert len(traces) > traced
