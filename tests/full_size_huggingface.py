"""Hugging Face's PyTorch BLIP at ViT-B's full size with random weights: the same numbers.

On one device, as eight would hold eight copies of the weights: `test_full_size.py` runs it so.
With `--full` for 16 images, and ViT-L's forward pass.
"""

import dataclasses
import functools
import json

import jax
import numpy as np
import pytest

from blip_jax import checkpoints, models, nn
from blip_jax.checkpoints import sources
from blip_jax.data.images import normalize
from blip_jax.decoding import Decoding

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

BERT_WORDS = 30522
DEC, SEP = 30522, 102
LARGE = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
}
# As transformers 5 counts lengths; 20 tokens in all, as its max_new_tokens=19 behind [DEC].
BEAM = Decoding(
    method="beam", num_beams=3, repetition_penalty=1.0, min_length=5, max_length=20,
    length_rule="transformers-5",
)  # fmt: skip


def images(count: int) -> np.ndarray:
    """uint8 [count, 384, 384, 3]."""
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (count, 384, 384, 3), dtype=np.uint8)


def texts(count: int, first: int, length: int = 8) -> np.ndarray:
    """int64 [count, length], without pads."""
    ids = np.random.default_rng(1).integers(1000, 30000, (count, length))
    ids[:, 0] = first
    return ids


def pixels(count: int):
    """As PyTorch has them."""
    return torch.from_numpy(np.moveaxis(normalize(images(count)), -1, 1).copy())


def theirs(name: str, folder, vision: dict | None = None, text: dict | None = None):
    """A model of theirs with random weights, saved in `folder` with a vocabulary of BERT's size."""
    torch.manual_seed(0)
    config = transformers.BlipConfig(vision_config={"image_size": 384, **(vision or {})})
    sizes = {"num_attention_heads": 12, **(text or {})}
    sizes["encoder_hidden_size"] = config.vision_config.hidden_size
    for field, value in sizes.items():
        setattr(config.text_config, field, value)
    model = getattr(transformers, name)(config).eval()
    with torch.no_grad():
        for parameter, value in model.named_parameters():
            if parameter.endswith("word_embeddings.weight"):
                value.mul_(3)  # logits far enough apart that rounding decides nothing
    model.save_pretrained(folder)
    known = ["[PAD]", "[UNK]", "[CLS]", "[MASK]"]
    words = [*known, *(f"w{i}" for i in range(BERT_WORDS - 5))]
    words.insert(SEP, "[SEP]")
    (folder / "vocab.txt").write_text("".join(f"{word}\n" for word in words))
    return model


@functools.partial(jax.jit, static_argnums=0)
def lm_logits(config: nn.BlipConfig, params: dict, pictures, ids):
    apply = functools.partial(nn.Blip(config).apply, {"params": params})
    context = apply(apply(pictures, method="encode_image"), "decoder", method="image_context")
    return apply(ids, np.ones(ids.shape, bool), context, method="lm_logits")


@pytest.fixture(scope="module")
def captioner(tmp_path_factory):
    folder = tmp_path_factory.mktemp("captioner")
    return theirs("BlipForConditionalGeneration", folder), models.load(folder)


def test_captioner_logits_at_base_size(captioner):
    model, ours = captioner
    ids = texts(2, DEC)
    with torch.no_grad():
        want = model(pixel_values=pixels(2), input_ids=torch.from_numpy(ids)).logits.numpy()
    with jax.default_matmul_precision("highest"):
        got = lm_logits(ours.config, ours.params, normalize(images(2)), ids)
    np.testing.assert_allclose(got, want, atol=1e-4)


def test_beam_search_writes_the_same_captions_at_base_size(captioner, full):
    model, ours = captioner
    count = 16 if full else 2
    with torch.no_grad():
        # It cuts the last token of a prompt, which its processor ends with [SEP].
        want = model.generate(
            pixel_values=pixels(count), input_ids=torch.tensor([[DEC, SEP]] * count),
            num_beams=3, max_new_tokens=19, min_new_tokens=4, do_sample=False,
        ).numpy()  # fmt: skip
    got = ours.captions(list(images(count)), BEAM, prompt="")
    for row, (caption,) in zip(want, got, strict=True):
        row = row[row != 0]
        np.testing.assert_array_equal(caption.tokens, row[1:] if row[0] == DEC else row)


def test_matching_at_base_size_and_back(tmp_path):
    model = theirs("BlipForImageTextRetrieval", tmp_path / "in")
    ours = models.load(tmp_path / "in", quirks=["cls_for_enc"])
    ids = texts(2, 101)

    def scores(torch_model):
        given = {"pixel_values": pixels(2), "input_ids": torch.from_numpy(ids)}
        with torch.no_grad():
            logits = torch_model(**given).itm_score.numpy()
            return logits, torch_model(**given, use_itm_head=False).itm_score.numpy()

    match = models.functions.match_function(ours)
    logits, cosine = match(images(2), ids[:, None].astype(np.int32), np.ones((2, 1, 8), bool))
    wanted = scores(model)
    np.testing.assert_allclose(logits[:, 0], wanted[0], atol=1e-4)
    np.testing.assert_allclose(cosine[:, 0], np.diag(wanted[1]), atol=1e-4)

    checkpoint = sources.read(tmp_path / "in")
    sources.write(checkpoint, str(tmp_path / "out"), "hf")
    back = transformers.BlipForImageTextRetrieval.from_pretrained(tmp_path / "out").eval()
    np.testing.assert_allclose(scores(back)[0], wanted[0], atol=1e-4)


def test_large_by_shape(tmp_path):
    """Names and shapes of a ViT-L captioner, from a model of theirs that holds no numbers."""
    config = transformers.BlipConfig(vision_config={"image_size": 384, **LARGE})
    config.text_config.encoder_hidden_size = 1024
    with torch.device("meta"):
        model = transformers.BlipForConditionalGeneration(config)
    values = config.to_dict() | {"architectures": ["BlipForConditionalGeneration"]}
    (tmp_path / "config.json").write_text(json.dumps(values))
    ours, model_type = checkpoints.huggingface_config.read_config(str(tmp_path))
    table = checkpoints.huggingface.rules(model_type, ours)
    wanted = checkpoints.rules.source_shapes(nn.param_shapes(ours, model_type), table)
    found = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    assert {name: tuple(shape) for name, shape in wanted.items()} == {
        name: shape for name, shape in found.items() if not name.endswith("position_ids")
    }


def test_large_forward(tmp_path, full):
    if not full:
        pytest.skip("with --full")
    model = theirs("BlipForConditionalGeneration", tmp_path, LARGE)
    ours = models.load(tmp_path)
    assert dataclasses.asdict(ours.config.vit)["depth"] == 24
    ids = texts(1, DEC)
    with torch.no_grad():
        want = model(pixel_values=pixels(1), input_ids=torch.from_numpy(ids)).logits.numpy()
    with jax.default_matmul_precision("highest"):
        got = lm_logits(ours.config, ours.params, normalize(images(1)), ids)
    np.testing.assert_allclose(got, want, atol=1e-4)
