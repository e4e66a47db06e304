"""Weights that training starts from, against files made by hand."""

import json

import jax
import numpy as np
import pytest
import tiny
from flax.traverse_util import flatten_dict

from blip_jax import nn
from blip_jax.checkpoints import original
from blip_jax.checkpoints import tensors as tensor_files
from blip_jax.checkpoints.pretrained_encoders import load_pretrained_encoders
from blip_jax.runtime.errors import UserError

RNG = np.random.default_rng(0)
WIDTH, HEADS, VOCAB = 16, 4, tiny.VOCAB


def draw(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


def timm(grid: int) -> dict[str, np.ndarray]:
    """A ViT of tiny.config() as timm names it, for images of grid x grid patches."""
    tensors = {
        "cls_token": draw(1, 1, WIDTH),
        "pos_embed": draw(1, grid * grid + 1, WIDTH),
        "patch_embed.proj.weight": draw(WIDTH, 3, 8, 8),
        "patch_embed.proj.bias": draw(WIDTH),
        "norm.weight": draw(WIDTH),
        "norm.bias": draw(WIDTH),
        "head.weight": draw(1000, WIDTH),
        "head.bias": draw(1000),
    }
    for layer in range(2):
        for name, rows, columns in (
            ("attn.qkv", 3 * WIDTH, WIDTH),
            ("attn.proj", WIDTH, WIDTH),
            ("mlp.fc1", 4 * WIDTH, WIDTH),
            ("mlp.fc2", WIDTH, 4 * WIDTH),
        ):
            tensors[f"blocks.{layer}.{name}.weight"] = draw(rows, columns)
            tensors[f"blocks.{layer}.{name}.bias"] = draw(rows)
        for name in ("norm1", "norm2"):
            tensors[f"blocks.{layer}.{name}.weight"] = draw(WIDTH)
            tensors[f"blocks.{layer}.{name}.bias"] = draw(WIDTH)
    return tensors


def augreg(source: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The same ViT under the names and layouts of its JAX original."""
    head = WIDTH // HEADS
    tensors = {
        "cls": source["cls_token"],
        "embedding/kernel": source["patch_embed.proj.weight"].transpose(2, 3, 1, 0),
        "embedding/bias": source["patch_embed.proj.bias"],
        "Transformer/posembed_input/pos_embedding": source["pos_embed"],
        "Transformer/encoder_norm/scale": source["norm.weight"],
        "Transformer/encoder_norm/bias": source["norm.bias"],
        "head/kernel": draw(WIDTH, 1000),
        "head/bias": draw(1000),
        "pre_logits/kernel": draw(WIDTH, WIDTH),
        "pre_logits/bias": draw(WIDTH),
    }
    for layer in range(2):
        block, theirs = f"blocks.{layer}", f"Transformer/encoderblock_{layer}"
        for ours, name in (("norm1", "LayerNorm_0"), ("norm2", "LayerNorm_2")):
            tensors[f"{theirs}/{name}/scale"] = source[f"{block}.{ours}.weight"]
            tensors[f"{theirs}/{name}/bias"] = source[f"{block}.{ours}.bias"]
        for ours, name in (("fc1", "Dense_0"), ("fc2", "Dense_1")):
            tensors[f"{theirs}/MlpBlock_3/{name}/kernel"] = source[f"{block}.mlp.{ours}.weight"].T
            tensors[f"{theirs}/MlpBlock_3/{name}/bias"] = source[f"{block}.mlp.{ours}.bias"]
        attention = f"{theirs}/MultiHeadDotProductAttention_1"
        kernels = np.split(source[f"{block}.attn.qkv.weight"], 3)
        biases = np.split(source[f"{block}.attn.qkv.bias"], 3)
        for part, kernel, bias in zip(("query", "key", "value"), kernels, biases, strict=True):
            tensors[f"{attention}/{part}/kernel"] = kernel.T.reshape(WIDTH, HEADS, head)
            tensors[f"{attention}/{part}/bias"] = bias.reshape(HEADS, head)
        out = source[f"{block}.attn.proj.weight"].T
        tensors[f"{attention}/out/kernel"] = out.reshape(HEADS, head, WIDTH)
        tensors[f"{attention}/out/bias"] = source[f"{block}.attn.proj.bias"]
    return tensors


def bert(config: nn.MedConfig, prefix: str = "bert.") -> dict[str, np.ndarray]:
    """A BERT of the text transformer's size with all its heads, as it is published."""
    width, vocab = config.width, config.vocab_size - 2
    tensors = {
        "embeddings.word_embeddings.weight": draw(vocab, width),
        "embeddings.position_embeddings.weight": draw(config.max_length, width),
        "embeddings.token_type_embeddings.weight": draw(2, width),
        "embeddings.position_ids": np.arange(config.max_length)[None],
        "embeddings.LayerNorm.gamma": draw(width),
        "embeddings.LayerNorm.beta": draw(width),
        "pooler.dense.weight": draw(width, width),
        "pooler.dense.bias": draw(width),
    }
    for layer in range(config.depth):
        at = f"encoder.layer.{layer}"
        for name, rows, columns in (
            ("attention.self.query", width, width),
            ("attention.self.key", width, width),
            ("attention.self.value", width, width),
            ("attention.output.dense", width, width),
            ("intermediate.dense", config.mlp_dim, width),
            ("output.dense", width, config.mlp_dim),
        ):
            tensors[f"{at}.{name}.weight"] = draw(rows, columns)
            tensors[f"{at}.{name}.bias"] = draw(rows)
        for name in ("attention.output.LayerNorm", "output.LayerNorm"):
            tensors[f"{at}.{name}.gamma"], tensors[f"{at}.{name}.beta"] = draw(width), draw(width)
    tensors = {f"{prefix}{name}": tensor for name, tensor in tensors.items()}
    if not prefix:
        return tensors
    return tensors | {
        "cls.predictions.bias": draw(vocab),
        "cls.predictions.transform.dense.weight": draw(width, width),
        "cls.predictions.transform.dense.bias": draw(width),
        "cls.predictions.transform.LayerNorm.gamma": draw(width),
        "cls.predictions.transform.LayerNorm.beta": draw(width),
        "cls.predictions.decoder.weight": tensors[f"{prefix}embeddings.word_embeddings.weight"],
        "cls.seq_relationship.weight": draw(2, width),
        "cls.seq_relationship.bias": draw(2),
    }


def written(tensors: dict, folder, name: str = "model.safetensors") -> str:
    path = str(folder / name)
    if name.endswith(".npz"):
        np.savez(path, **tensors)
    else:
        tensor_files.write(tensors, path, {})
    return path


def paths(tree: dict) -> dict:
    return flatten_dict(tree, sep="/")


def changed(found: dict, start: dict) -> set[str]:
    found, start = paths(found), paths(start)
    assert found.keys() == start.keys()
    assert all(found[name].shape == x.shape for name, x in start.items())
    return {name for name, x in start.items() if not np.array_equal(found[name], x)}


@pytest.mark.parametrize("name", ["deit.safetensors", "deit.pth", "augreg.npz"])
def test_a_vit(name, tmp_path):
    if name.endswith(".pth"):
        pytest.importorskip("torch")
    config = tiny.config()
    start, source = tiny.init(config), timm(grid=3)
    tensors = augreg(source) if name.endswith(".npz") else source
    found = load_pretrained_encoders(start, config, vit=written(tensors, tmp_path, name))
    assert changed(found, start) == {path for path in paths(start) if path.startswith("vit/")}
    back = original.save(original.Weights(found), config, "pretrain")
    for key, tensor in source.items():
        if key == "pos_embed":
            tensor = nn.resize_position_embedding(tensor, 5)
        if not key.startswith("head."):
            np.testing.assert_array_equal(back[f"visual_encoder.{key}"], tensor)


def test_a_bert(tmp_path):
    config = tiny.config()
    start, source = tiny.init(config), bert(config.med)
    written(source, tmp_path)
    found = load_pretrained_encoders(start, config, text=str(tmp_path))
    fresh = ("vit/", "vision_proj", "text_proj", "itm_head", "temperature")
    want = {path for path in paths(start) if not path.startswith(fresh) and "cross_att" not in path}
    assert changed(found, start) == want
    back = original.save(original.Weights(found), config, "pretrain")
    layers = "encoder.layer.1"
    for theirs, ours in (
        ("attention.self.key.weight", "attention.self.key.weight"),
        ("attention.output.LayerNorm.gamma", "attention.output.LayerNorm.weight"),
        ("attention.output.LayerNorm.beta", "attention.output.LayerNorm.bias"),
        ("output.dense.bias", "output.dense.bias"),
    ):
        for role in ("text_encoder", "text_decoder.bert"):
            array = back[f"{role}.{layers}.{ours}"]
            np.testing.assert_array_equal(array, source[f"bert.{layers}.{theirs}"])
    word = found["med"]["embeddings"]["word"]
    old = source["bert.embeddings.word_embeddings.weight"]
    np.testing.assert_array_equal(
        word, np.concatenate([old, start["med"]["embeddings"]["word"][-2:]])
    )
    bias = found["med"]["lm_head"]["bias"]
    np.testing.assert_array_equal(bias[:-2], source["cls.predictions.bias"])
    np.testing.assert_array_equal(bias[-2:], start["med"]["lm_head"]["bias"][-2:])


def test_a_bert_without_prefix_and_head_leaves_the_head_fresh(tmp_path):
    config = tiny.config()
    start = tiny.init(config)
    found = load_pretrained_encoders(start, config, text=written(bert(config.med, ""), tmp_path))
    moved = changed(found, start)
    assert "med/layers/layer/decoder_self_attention/qkv/kernel" in moved
    assert "med/embeddings/word" in moved
    assert not any(path.startswith("med/lm_head") for path in moved)


@pytest.mark.parametrize("model_type", ["captioner", "retrieval", "vqa", "nlvr", "features"])
def test_every_kind_takes_what_it_has(model_type, tmp_path):
    config = tiny.config(
        med={"sharing": "none" if model_type == "vqa" else "all_but_self_attention"}
    )
    start = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), nn.param_shapes(config, model_type))
    vit, text = written(timm(2), tmp_path, "vit.safetensors"), written(bert(config.med), tmp_path)
    moved = changed(load_pretrained_encoders(start, config, vit, text), start)
    fresh = ("cross_att", "merge_", "classifier_", "_proj", "itm_head", "temperature")
    assert moved == {path for path in paths(start) if not any(part in path for part in fresh)}


def test_nothing_named_changes_nothing():
    config = tiny.config()
    assert changed(load_pretrained_encoders(tiny.init(config), config), tiny.init(config)) == set()


@pytest.mark.parametrize(
    "part, name, shape, message",
    [
        ("vit", "norm.bias", None, "missing tensor norm.bias$"),
        ("vit", "pos_embed", None, "missing tensor pos_embed$"),
        ("vit", "pos_embed", (5,), r"wrong shape: pos_embed is \[5\]"),
        ("vit", "blocks.2.norm1.bias", (16,), "unknown tensor blocks.2.norm1.bias$"),
        ("vit", "norm.bias", (3,), r"wrong shape: norm.bias is \[3\], the model's \[16\]$"),
        ("text", "bert.embeddings.word_embeddings.weight", (VOCAB, WIDTH), "wrong shape: bert.emb"),
        ("text", "bert.encoder.layer.1.output.dense.bias", None, "missing tensor bert.encoder"),
        ("text", "bert.more", (2,), "unknown tensor bert.more$"),
        ("text", "cls.predictions.bias", (2,), r"wrong shape: cls.predictions.bias is \[2\], the"),
    ],
)
def test_files_that_do_not_fit_are_named(part, name, shape, message, tmp_path):
    config = tiny.config()
    tensors = timm(2) if part == "vit" else bert(config.med)
    if shape is None:
        del tensors[name]
    else:
        tensors[name] = draw(*shape)
    path = written(tensors, tmp_path)
    with pytest.raises(UserError, match=f"^{path}: {message}"):
        load_pretrained_encoders(tiny.init(config), config, **{part: path})


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match="bert does not exist$"):
        load_pretrained_encoders(
            tiny.init(tiny.config()), tiny.config(), text=str(tmp_path / "bert")
        )


def test_a_bert_that_transformers_saved(tmp_path):
    pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    config = tiny.config()
    med = config.med
    theirs = transformers.BertForPreTraining(
        transformers.BertConfig(
            vocab_size=med.vocab_size - 2, hidden_size=med.width, num_hidden_layers=med.depth,
            num_attention_heads=med.heads, intermediate_size=med.mlp_dim,
            max_position_embeddings=med.max_length,
        )
    )  # fmt: skip
    theirs.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "bert"
    start = tiny.init(config)
    found = load_pretrained_encoders(start, config, text=str(tmp_path))
    dense = theirs.cls.predictions.transform.dense.weight.detach().numpy()
    np.testing.assert_array_equal(found["med"]["lm_head"]["dense"]["kernel"], dense.T)
