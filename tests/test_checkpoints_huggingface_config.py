"""The configurations of Hugging Face's BLIP folders, and which are refused."""

import json

import pytest
import tiny

from blip_jax import checkpoints, nn
from blip_jax.checkpoints import huggingface_config
from blip_jax.runtime.errors import UserError


def write_config(folder, **changes):
    values = huggingface_config.to_config(nn.preset("base"), "captioner")
    for name, value in changes.items():
        part, _, key = name.partition("__")
        values[part] = {**values[part], key: value} if key else value
    (folder / "config.json").write_text(json.dumps(values))


def test_the_published_configuration(tmp_path):
    write_config(tmp_path)
    config, model_type = huggingface_config.read_config(str(tmp_path))
    assert (config, model_type) == (nn.preset("base"), "captioner")
    text = json.loads((tmp_path / "config.json").read_text())["text_config"]
    ids = {key: value for key, value in text.items() if key.endswith("token_id")}
    assert ids == {
        "bos_token_id": 30522,
        "eos_token_id": 102,
        "sep_token_id": 102,
        "pad_token_id": 0,
    }


def test_what_a_configuration_leaves_out_has_their_defaults(tmp_path):
    architectures = ["BlipForQuestionAnswering"]
    values = {"model_type": "blip", "architectures": architectures, "vision_config": None}
    (tmp_path / "config.json").write_text(json.dumps(values))
    config, model_type = huggingface_config.read_config(str(tmp_path))
    theirs = pytest.importorskip("transformers").BlipConfig()
    vision, text = theirs.vision_config, theirs.text_config
    assert model_type == "vqa" and config.med.sharing == "none"
    assert (config.vit.eps, config.vit.image_size) == (1e-5, vision.image_size)
    assert (config.med.heads, config.med.vocab_size) == (text.num_attention_heads, text.vocab_size)
    assert config.med.dropout == text.hidden_dropout_prob
    assert config.vit.heads == vision.num_attention_heads


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"model_type": "blip-2"}, "has model_type 'blip-2'; supported: 'blip'"),
        ({"architectures": ["BlipTextModel"]}, "has the architectures .*; supported: BlipFor"),
        ({"architectures": None}, "has the architectures"),
        (
            {"vision_config__hidden_act": "relu"},
            "vision_config.hidden_act is 'relu'; supported: 'gelu'",
        ),
        (
            {"vision_config__intermediate_size": 9},
            "vision_config.intermediate_size is 9; supported: 3072",
        ),
        (
            {"text_config__layer_norm_eps": 1e-6},
            "text_config.layer_norm_eps is 1e-06; supported",
        ),
        ({"vision_config__image_size": [224, 384]}, "image_size is .*; expected a whole number"),
        ({"vision_config__num_attention_heads": 7}, "vit.width 768 is not a multiple of 7 heads"),
    ],
)
def test_a_configuration_of_another_model_is_refused(changes, message, tmp_path):
    write_config(tmp_path, **changes)
    with pytest.raises(UserError, match=f"config.json.*{message}|{tmp_path}: {message}"):
        checkpoints.read(str(tmp_path))


def test_fields_that_are_not_read_may_hold_anything(tmp_path):
    """As older versions of transformers wrote them."""
    write_config(
        tmp_path, text_config__pruned_heads={}, vision_config__cross_attention_hidden_size=None
    )
    assert huggingface_config.read_config(str(tmp_path))[1] in huggingface_config.CLASSES


def test_folders_that_are_not_complete(tmp_path):
    with pytest.raises(UserError, match="has no config.json; give a whole Hugging Face folder"):
        checkpoints.read(str(tmp_path))
    (tmp_path / "config.json").write_text("[1]")
    with pytest.raises(UserError, match="config.json is not a Hugging Face configuration$"):
        checkpoints.read(str(tmp_path))
    write_config(tmp_path)
    with pytest.raises(UserError, match="has no weights; expected one of model.safetensors"):
        checkpoints.read(str(tmp_path))


@pytest.mark.parametrize("model_type", ["pretrain", "nlvr", "features"])
def test_kinds_that_it_does_not_have(model_type, tmp_path):
    checkpoint = checkpoints.Checkpoint(model_type, tiny.config(), {})
    with pytest.raises(
        UserError, match=f"^Hugging Face has no '{model_type}' model of BLIP; supported model types"
    ):
        checkpoints.write(checkpoint, str(tmp_path), "hf")


def test_vqa_of_two_widths_has_no_place_there():
    large = nn.preset("large", med={"sharing": "none"})
    with pytest.raises(UserError, match="same width .*; this model has 1024 and 768"):
        huggingface_config.to_config(large, "vqa")
