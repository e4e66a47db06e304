"""Hugging Face's BLIP, in both directions: names, configuration, numbers."""

import dataclasses
import logging
import warnings

import jax
import numpy as np
import pytest
import tiny

from blip_jax import checkpoints, nn
from blip_jax.checkpoints import huggingface, huggingface_config
from blip_jax.checkpoints.rules import source_shapes
from blip_jax.data.tokenizer import train_wordpiece
from blip_jax.runtime.errors import UserError

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

MODEL_TYPES = list(huggingface_config.CLASSES)
TEXTS = ["a red circle", "two blue squares left of a circle", "nothing"]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """(folder, tokenizer)."""
    folder = str(tmp_path_factory.mktemp("tokenizer"))
    return folder, train_wordpiece(TEXTS, folder, 60)


def config_of(model_type: str, vocab: int = tiny.VOCAB) -> nn.BlipConfig:
    sharing = "none" if model_type == "vqa" else "all_but_self_attention"
    med = {"vocab_size": vocab, "sharing": sharing, "heads": 2}
    return tiny.config(vit={"eps": 1e-5, "depth": 3}, med=med)


def params_of(config: nn.BlipConfig, model_type: str, seed: int = 0) -> dict:
    """Random ones; none are zeros."""
    rng = np.random.default_rng(seed)

    def draw(path, x):
        mean = 1.0 if path[-1].key == "scale" else 0.0
        return (mean + 0.2 * rng.normal(size=x.shape)).astype(np.float32)

    params = jax.tree_util.tree_map_with_path(draw, nn.param_shapes(config, model_type))
    return {name: value for name, value in params.items() if name != "temperature"}


def trees_equal(found, want):
    assert jax.tree.structure(found) == jax.tree.structure(want)
    jax.tree.map(np.testing.assert_array_equal, found, want)


class Heard(logging.Handler):
    def __init__(self):
        super().__init__(logging.WARNING)
        self.messages = []

    def emit(self, record):
        self.messages.append(record.getMessage())


def from_pretrained(cls, folder: str):
    """The loaded model, with proof that nothing was missing, left over, or warned of."""
    logger, heard = logging.getLogger("transformers"), Heard()
    logger.addHandler(heard)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            model, info = cls.from_pretrained(folder, output_loading_info=True)
    finally:
        logger.removeHandler(heard)
    # Of the class itself they say at every use that it will go.
    own = [text for text in heard.messages if not text.startswith("`BlipModel` is going to be dep")]
    assert own == []
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    return model.eval()


@pytest.fixture
def exported(tokenizer, tmp_path):
    """Writes a random model of a model type: (checkpoint, Hugging Face's model of it)."""

    def export(model_type: str):
        config = config_of(model_type, tokenizer[1].ids.vocab_size)
        params = params_of(config, model_type)
        checkpoint = checkpoints.Checkpoint(model_type, config, params, tokenizer=tokenizer[0])
        folder = str(tmp_path / model_type)
        checkpoints.write(checkpoint, folder, "hf")
        cls = getattr(transformers, huggingface_config.CLASSES[model_type].name)
        return checkpoint, from_pretrained(cls, folder), folder

    return export


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_what_is_written_loads_there_and_comes_back(model_type, exported, tmp_path):
    checkpoint, model, folder = exported(model_type)
    again = checkpoints.read(folder)
    assert (again.model_type, again.tokenizer, again.prompt) == (model_type, folder, "")
    # Deviations at initialisation and the like are no matter of a file.
    assert again.config.vit.eps == 1e-5 and again.config.med.heads == 2
    assert nn.param_shapes(again.config, model_type) == nn.param_shapes(
        checkpoint.config, model_type
    )
    trees_equal(again.params, checkpoint.params)
    for form in ("safetensors", "shards"):
        theirs = str(tmp_path / form)
        size = {"max_shard_size": "20KB"} if form == "shards" else {}
        model.save_pretrained(theirs, **size)
        trees_equal(checkpoints.read(theirs).params, checkpoint.params)
    state = {name: x.clone() for name, x in model.state_dict().items()}
    (tmp_path / "safetensors" / "model.safetensors").unlink()
    torch.save(state, tmp_path / "safetensors" / "pytorch_model.bin")
    trees_equal(checkpoints.read(str(tmp_path / "safetensors")).params, checkpoint.params)


def test_the_temperature_has_no_place_there(tokenizer, tmp_path):
    config = config_of("retrieval", tokenizer[1].ids.vocab_size)
    params = params_of(config, "retrieval")
    kept = {**params, "temperature": np.float32(0.07)}
    written = checkpoints.Checkpoint("retrieval", config, kept, tokenizer=tokenizer[0])
    checkpoints.write(written, str(tmp_path), "hf")
    trees_equal(checkpoints.read(str(tmp_path)).params, params)


@pytest.fixture
def batch(tokenizer):
    """(images NHWC, ids, mask) without pads."""
    ids = np.array([[2, 7, 9, 11, 3], [2, 20, 8, 6, 3]], np.int32)
    return tiny.images(2), ids, np.ones(ids.shape, bool)


def apply(config, params, model_type, method, *inputs):
    model = nn.network(config, model_type)
    with jax.default_matmul_precision("highest"):
        return model.apply({"params": params}, *inputs, method=method)


def nchw(images):
    return torch.from_numpy(np.moveaxis(images, -1, 1).copy())


def test_captioner_logits_are_equal(exported, batch):
    checkpoint, model, _ = exported("captioner")
    images, ids, mask = batch
    config, params = checkpoint.config, checkpoint.params

    def logits(network):
        context = network.image_context(network.encode_image(images), "decoder")
        return network.lm_logits(ids, mask, context)

    ours = apply(config, params, "captioner", logits)
    theirs = torch.from_numpy(ids).long()
    theirs[:, 0] = config.med.dec_token
    with torch.no_grad():
        theirs = model(nchw(images), theirs).logits.numpy()
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


def test_retrieval_numbers_are_equal(exported, batch):
    checkpoint, model, _ = exported("retrieval")
    images, ids, mask = batch
    # Hugging Face leaves [CLS] at position 0.
    config = dataclasses.replace(checkpoint.config, quirks=("cls_for_enc",))
    params = checkpoint.params

    def numbers(network):
        tokens = network.encode_image(images)
        context = network.image_context(tokens, "encoder")
        matched = network.itm_logits(ids, mask, context)
        return matched, network.image_features(tokens) @ network.text_features(ids, mask).T

    matched, similarity = apply(config, params, "retrieval", numbers)
    inputs = {"pixel_values": nchw(images), "input_ids": torch.from_numpy(ids).long()}
    with torch.no_grad():
        theirs = model(**inputs).itm_score.numpy()
        cosine = model(**inputs, use_itm_head=False).itm_score.numpy()
    np.testing.assert_allclose(matched, theirs, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(similarity, cosine, rtol=1e-5, atol=1e-5)


def test_aligned_features_are_equal(exported, batch):
    checkpoint, model, _ = exported("aligned")
    images, ids, mask = batch

    def features(network):
        return network.image_features(network.encode_image(images)), network.text_features(
            ids, mask
        )

    ours = apply(checkpoint.config, checkpoint.params, "aligned", features)
    with torch.no_grad():
        found = model(
            input_ids=torch.from_numpy(ids).long(),
            pixel_values=nchw(images),
            attention_mask=torch.from_numpy(mask).long(),
        )
    for name, want in (("image_embeds", ours[0]), ("text_embeds", ours[1])):
        np.testing.assert_allclose(found[name].numpy(), want, rtol=1e-5, atol=1e-5)


def test_the_processor_and_generation_there(exported, tokenizer):
    _, model, folder = exported("captioner")
    processor = transformers.BlipProcessor.from_pretrained(folder)
    image = np.full((40, 30, 3), 200, np.uint8)
    inputs = processor(images=image, text="a red circle", return_tensors="pt")
    assert inputs["pixel_values"].shape == (1, 3, tiny.IMAGE, tiny.IMAGE)
    want, _ = tokenizer[1].encode(["a red circle"], 12)
    ids = inputs["input_ids"][0].tolist()
    assert ids == want[0, : len(ids)].tolist() and ids[-1] == tokenizer[1].ids.sep
    config = model.config.text_config
    assert config.bos_token_id == tokenizer[1].ids.dec
    assert (config.sep_token_id, config.pad_token_id) == (
        tokenizer[1].ids.sep,
        tokenizer[1].ids.pad,
    )
    found = model.generate(inputs["pixel_values"], max_length=6)
    assert found[0, 0] == tokenizer[1].ids.dec and found.shape[1] <= 6


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_full_size_names_and_shapes(model_type):
    """Against their own class, on PyTorch's device without memory."""
    config = nn.preset("base", med={"sharing": config_of(model_type).med.sharing})
    values = huggingface_config.to_config(config, model_type)
    cls = getattr(transformers, huggingface_config.CLASSES[model_type].name)
    with torch.device("meta"):
        model = cls(transformers.BlipConfig(**values))
    want = {name: tuple(x.shape) for name, x in model.state_dict().items()}
    like = nn.param_shapes(config, model_type)
    like.pop("temperature", None)
    assert source_shapes(like, huggingface.rules(model_type, config)) == want


def test_a_small_vocabulary_needs_its_tokenizer(tokenizer, tmp_path):
    with pytest.raises(
        UserError, match="^a Hugging Face folder of 32 tokens needs a tokenizer; give"
    ):
        huggingface_config.to_config(tiny.config(), "captioner")
    size = tokenizer[1].ids.vocab_size
    message = f"^the tokenizer has {size} tokens, the model's vocabulary 32$"
    with pytest.raises(UserError, match=message):
        huggingface_config.to_config(tiny.config(), "captioner", tokenizer[1])
