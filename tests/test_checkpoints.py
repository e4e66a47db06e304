"""The tables between the original's state dicts and our parameters."""

import pathlib

import jax
import numpy as np
import pytest
import tiny

from blip_jax import nn
from blip_jax.checkpoints import detect_model_type, infer_config, original, rules
from blip_jax.runtime.errors import UserError

GOLDENS = pathlib.Path(__file__).parent / "goldens"
HEADS = {"vit": 3, "med": 2}
MODEL_TYPES = {
    "captioner": "captioner",
    "features": "features",
    "nlvr": "nlvr",
    "pretrain_step": "pretrain",
    "retrieval": "retrieval",
    "vqa": "vqa",
}


def golden(name: str) -> tuple[dict, nn.BlipConfig]:
    """The original's state dict of a golden file, and its configuration."""
    with np.load(GOLDENS / f"{name}.npz") as file:
        tensors = {key[6:]: file[key] for key in file.files if key.startswith("param/")}
    return tensors, infer_config({key: x.shape for key, x in tensors.items()}, HEADS)


def sizes(config: nn.BlipConfig, model_type: str) -> dict:
    """Shapes of a state dict of this model type by name."""
    return rules.source_shapes(
        nn.param_shapes(config, model_type), original.rules(model_type, config)
    )


@pytest.fixture
def captioner() -> tuple[dict, nn.BlipConfig]:
    return golden("captioner")


@pytest.mark.parametrize("name", MODEL_TYPES)
def test_a_state_dict_comes_back_bit_for_bit(name):
    tensors, config = golden(name)
    model_type = MODEL_TYPES[name]
    assert detect_model_type(tensors) == model_type
    weights = original.load(tensors, config, model_type)
    like = nn.param_shapes(config, model_type)
    assert jax.tree.structure(weights.params) == jax.tree.structure(like)
    assert all(x.dtype == np.float32 for x in jax.tree.leaves(weights.params))
    saved = original.save(weights, config, model_type)
    assert saved.keys() == tensors.keys()
    for key, tensor in tensors.items():
        assert saved[key].dtype == tensor.dtype and saved[key].shape == tensor.shape, key
        assert saved[key].tobytes() == tensor.tobytes(), key
        assert saved[key].flags.c_contiguous, key


def test_where_single_weights_go():
    tensors, config = golden("nlvr")
    params = original.load(tensors, config, "nlvr").params
    block = params["vit"]["blocks"]["attention"]
    # 24 wide, 3 heads of 8; patches of 8 pixels; text 16 wide, 2 heads of 8.
    qkv = tensors["visual_encoder.blocks.2.attn.qkv.weight"]
    assert block["qkv"]["kernel"][2, 5, 1, 2, 7] == qkv[24 + 2 * 8 + 7, 5]
    out = tensors["visual_encoder.blocks.1.attn.proj.weight"]
    assert block["out"]["kernel"][1, 2, 7, 20] == out[20, 2 * 8 + 7]
    patch = tensors["visual_encoder.patch_embed.proj.weight"]
    assert params["vit"]["patch"]["kernel"][(6 * 8 + 3) * 3 + 2, 9] == patch[9, 2, 6, 3]
    layer = "text_encoder.encoder.layer.7"
    key = tensors[f"{layer}.attention.self.key.weight"]
    own = params["med"]["layers"]["layer"]["encoder_self_attention"]["qkv"]
    assert own["kernel"][7, 3, 1, 1, 4] == key[8 + 4, 3]
    bias = tensors[f"{layer}.attention.self.value.bias"]
    assert own["bias"][7, 2, 1, 4] == bias[8 + 4]
    second = tensors[f"{layer}.crossattention.self1.value.weight"]
    context = params["med"]["cross_attention_2_context"]
    assert context["value_kernel"][7, 21, 1, 4] == second[8 + 4, 21]
    # Merge layers stand from layer 6 on, and read the first image's half first.
    merge = tensors[f"{layer}.crossattention.output.merge_layer.weight"]
    assert params["med"]["layers"]["merge_kernel"][1, 17, 4] == merge[4, 17]
    query = tensors[f"{layer}.crossattention.self0.query.weight"]
    ours = params["med"]["layers"]["layer"]["cross_attention"]["query"]["kernel"]
    assert ours[7, 3, 1, 4] == query[8 + 4, 3]


def test_the_queue_of_retrieval_keeps_ids_and_pointer():
    tensors, config = golden("retrieval")
    ids = np.arange(12, dtype=np.int64)[None] - 100
    tensors |= {"idx_queue": ids, "ptr_queue": np.array([8])}
    queue = original.load(tensors, config, "retrieval").queue
    np.testing.assert_array_equal(queue.image, tensors["image_queue"].T)
    np.testing.assert_array_equal(queue.group, ids[0])
    assert queue.group.dtype == queue.pointer.dtype == np.int32
    assert queue.pointer == 8 and queue.valid.all()


def test_the_queue_of_pretraining_has_no_ids():
    tensors, config = golden("pretrain_step")
    queue = original.load(tensors, config, "pretrain").queue
    assert queue.text.shape == (12, 12) and (queue.group == -1).all()


def test_retrieval_without_what_training_needs():
    """The model of the original's models/blip_itm.py."""
    tensors, config = golden("retrieval")
    kept = {k: x for k, x in tensors.items() if "_m." not in k and "queue" not in k and k != "temp"}
    weights = original.load(kept, config, "retrieval")
    assert "temperature" not in weights.params
    assert weights.momentum is None and weights.queue is None
    assert original.save(weights, config, "retrieval").keys() == kept.keys()


@pytest.mark.parametrize("sharing", ["all", "all_but_cross_attention", "none"])
def test_other_sharing_layouts(sharing):
    config = tiny.config(med={"sharing": sharing})
    params = tiny.init(config)
    tensors = original.save(original.Weights(params), config, "pretrain")
    again = original.load(tensors, config, "pretrain").params
    jax.tree.map(np.testing.assert_array_equal, again, params)


@pytest.mark.parametrize("size", ["base", "large"])
@pytest.mark.parametrize("model_type", original.PARTS)
def test_published_sizes(size, model_type):
    sharing = "none" if model_type == "vqa" else "all_but_self_attention"
    config = nn.preset(size, vit={"image_size": 384}, med={"sharing": sharing})
    shapes = sizes(config, model_type)
    width, depth = {"base": (768, 12), "large": (1024, 24)}[size]
    text = "text_decoder.bert" if model_type == "captioner" else "text_encoder"
    twin = "0" if model_type == "nlvr" else ""
    assert shapes["visual_encoder.patch_embed.proj.weight"] == (width, 3, 16, 16)
    assert shapes["visual_encoder.pos_embed"] == (1, 577, width)
    assert shapes[f"visual_encoder.blocks.{depth - 1}.attn.qkv.weight"] == (3 * width, width)
    layer = f"{text}.encoder.layer.11"
    assert shapes[f"{layer}.crossattention.self{twin}.key.weight"] == (768, width)
    assert shapes[f"{layer}.attention.self.key.weight"] == (768, 768)
    assert shapes[f"{text}.embeddings.word_embeddings.weight"] == (30524, 768)
    if model_type == "vqa":
        key = "text_decoder.bert.encoder.layer.11.crossattention.self.key.weight"
        assert shapes[key] == (768, 768)
    if model_type == "nlvr":
        merges = [name for name in shapes if name.endswith("merge_layer.weight")]
        assert len(merges) == 6 and shapes[merges[0]] == (768, 1536)
    assert infer_config(shapes) == config


def test_a_missing_tensor_is_refused(captioner):
    tensors, config = captioner
    del tensors["visual_encoder.blocks.1.norm2.bias"], tensors["visual_encoder.norm.bias"]
    message = r"^missing tensor visual_encoder.blocks.1.norm2.bias \(and 1 more\)$"
    with pytest.raises(UserError, match=message):
        original.load(tensors, config, "captioner")


def test_a_tensor_without_a_place_is_refused(captioner):
    tensors, config = captioner
    tensors["visual_encoder.blocks.3.norm2.bias"] = np.zeros(24, np.float32)
    message = "^unknown tensor visual_encoder.blocks.3.norm2.bias$"
    with pytest.raises(UserError, match=message):
        original.load(tensors, config, "captioner")
    del tensors["visual_encoder.cls_token"]
    with pytest.raises(UserError, match="^missing tensor visual_encoder.cls_token; unknown tensor"):
        original.load(tensors, config, "captioner")


def test_a_tensor_of_another_shape_is_refused(captioner):
    tensors, config = captioner
    tensors["visual_encoder.blocks.0.mlp.fc1.weight"] = np.zeros((24, 96), np.float32)
    tensors["visual_encoder.norm.bias"] = np.zeros((1, 24), np.float32)
    message = (
        r"^wrong shape: visual_encoder.blocks.0.mlp.fc1.weight is \[24, 96\], "
        r"the model's \[96, 24\] \(and 1 more\)$"
    )
    with pytest.raises(UserError, match=message):
        original.load(tensors, config, "captioner")


def test_tied_tensors_must_be_equal_in_every_bit(captioner):
    tensors, config = captioner
    name = "text_decoder.cls.predictions.decoder.weight"
    tensors[name] = tensors[name].copy()
    original.load(tensors, config, "captioner")
    tensors["text_decoder.bert.embeddings.word_embeddings.weight"] = tensors[name].copy()
    tensors["text_decoder.bert.embeddings.word_embeddings.weight"][3, 3] = 0.0
    tensors[name][3, 3] = -0.0
    message = f"^tensor {name} differs from text_decoder.bert.embeddings.word_embeddings.weight"
    with pytest.raises(UserError, match=message):
        original.load(tensors, config, "captioner")


def test_the_tied_text_encoder_and_decoder_of_pretraining():
    tensors, config = golden("pretrain_step")
    name = "text_decoder.bert.encoder.layer.2.crossattention.self.key.weight"
    tensors[name] = tensors[name] + 1
    with pytest.raises(UserError, match=f"^tensor {name} differs from text_encoder.encoder.layer"):
        original.load(tensors, config, "pretrain")


def test_an_absent_tied_tensor_is_no_loss(captioner):
    tensors, config = captioner
    want = original.load(tensors, config, "captioner").params
    del tensors["text_decoder.cls.predictions.decoder.bias"]
    del (
        tensors["text_decoder.cls.predictions.bias"],
        tensors["text_decoder.cls.predictions.decoder.weight"],
    )
    with pytest.raises(UserError, match=r"^missing tensor text_decoder.cls.predictions.bias \(and"):
        original.load(tensors, config, "captioner")
    tensors["text_decoder.cls.predictions.decoder.bias"] = want["med"]["lm_head"]["bias"]
    found = original.load(tensors, config, "captioner").params
    jax.tree.map(np.testing.assert_array_equal, found, want)


def test_a_parameter_that_no_rule_fills_is_refused(captioner):
    tensors, config = captioner
    like = {**nn.param_shapes(config, "captioner"), "extra": np.zeros(3, np.float32)}
    with pytest.raises(UserError, match="^no conversion rule fills the parameter extra$"):
        table = original.rules("captioner", config)
        rules.load(tensors, like, table, original.CONSTANT.fullmatch)


@pytest.mark.parametrize("names", [[], ["visual_encoder.cls_token"], ["text_encoder.x", "y"]])
def test_what_is_not_blip_is_not_recognised(names):
    with pytest.raises(UserError, match="^not a BLIP checkpoint"):
        detect_model_type(names)


def test_sizes_need_their_tensors(captioner):
    shapes = {name: x.shape for name, x in captioner[0].items()}
    assert infer_config(shapes).vit.heads == 1  # no head is wider than 64
    with pytest.raises(UserError, match=r"^wrong shape: .*pos_embed is \[5\]; BLIP has 3"):
        infer_config(shapes | {"visual_encoder.pos_embed": (5,)})
    del shapes["visual_encoder.pos_embed"]
    with pytest.raises(UserError, match="^missing tensor visual_encoder.pos_embed$"):
        infer_config(shapes)


def test_the_original_has_no_aligned_model():
    with pytest.raises(UserError, match="^the original has no 'aligned' checkpoints"):
        original.rules("aligned", tiny.config())
