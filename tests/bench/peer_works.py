"""The pieces of work of peers.py: for each, how blip_jax does it and how `transformers` does.

A function of OURS or THEIRS takes a `Task` and returns (work, results): what is timed, and what
makes of its results arrays to compare with the other side's. Both read the same weights (a folder
of Hugging Face's), uint8 arrays and strings, and give strings or NumPy arrays.
"""

import dataclasses
import functools
import pathlib
import sys

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

LENGTH, WORDS, TEXTS = 20, 12, 16  # tokens of a caption; words of a text; texts an image
DEC, SEP = 30522, 102
SMALL = {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 2}
SMALL |= {"num_attention_heads": 4}
CLASSES = {
    "captioner": "BlipForConditionalGeneration", "retrieval": "BlipForImageTextRetrieval",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Task:
    """What is worked on.

    Attributes:
      world: a folder with the models, and the dataset of CapFilt.
      batch: images at a time.
      image_size: in pixels.
      model: vit_b, vit_l or small.
      dtype: that both sides compute in.
      device: PyTorch's name of it; JAX takes its default.
    """

    world: pathlib.Path
    batch: int
    image_size: int
    model: str
    dtype: str = "float32"
    device: str = "cpu"

    @functools.cached_property
    def images(self) -> np.ndarray:
        """uint8 [B, S, S, 3]."""
        shape = (self.batch, self.image_size, self.image_size, 3)
        return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)

    @functools.cached_property
    def texts(self) -> list[list[str]]:
        """TEXTS strings an image, of WORDS words, each one token."""
        numbers = np.random.default_rng(1).integers(4, 20_000, (self.batch, TEXTS, WORDS))
        return [[" ".join(f"w{n}" for n in text) for text in row] for row in numbers]


def build_world(world: pathlib.Path, model: str, image_size: int, photos: int) -> None:
    """Saves models with random weights, and a dataset of photos with a text each."""
    import capfilt
    from full_size_huggingface import theirs

    changes = SMALL if model == "small" else {}
    for name, kind in CLASSES.items():
        (world / name).mkdir()
        theirs(kind, world / name, {"image_size": image_size, **changes}, changes)
    if photos:
        capfilt.imported(world, photos)


# blip_jax


def load_ours(task: Task, name: str, **options):
    from blip_jax import models

    return models.load(task.world / name, dtype=task.dtype, **options)


def ours_beam(task: Task):
    from blip_jax.decoding import Decoding

    model, images = load_ours(task, "captioner"), list(task.images)
    decoding = Decoding(
        method="beam", num_beams=3, repetition_penalty=1.0, min_length=LENGTH, max_length=LENGTH,
        length_rule="transformers-5",
    )  # fmt: skip
    work = functools.partial(model.caption, images, decoding, prompt="")
    return work, lambda found: {
        "tokens": np.stack([x.tokens for x in found]),
        "score": np.array([x.score for x in found]),
    }


def ours_nucleus(task: Task):
    model, images = load_ours(task, "captioner"), list(task.images)
    options = {"top_p": 0.9, "min_length": LENGTH, "max_length": LENGTH}
    work = functools.partial(model.caption, images, prompt="", **options)
    return work, lambda found: {"lengths": np.array([len(x.tokens) for x in found])}


def ours_embed(task: Task):
    model, images = load_ours(task, "retrieval"), list(task.images)
    texts = [row[0] for row in task.texts]

    def work():
        return {"image": model.encode_image(images), "text": model.encode_text(texts)}

    return work, lambda found: found


def ours_match(task: Task):
    model = load_ours(task, "retrieval", quirks=["cls_for_enc"])
    images = list(task.images)
    work = functools.partial(model.match, images, task.texts)
    return work, lambda found: {"logits": found.logits}


def ours_capfilt(task: Task):
    """Captions and scores a shard, without what a run does once: a digest of the weights."""
    import capfilt
    from etils import epath

    from blip_jax.capfilt import storage
    from blip_jax.capfilt.generate import CaptionScorer
    from blip_jax.capfilt.image_batches import batches
    from blip_jax.capfilt.inputs import CapFiltInput
    from blip_jax.decoding import Decoding

    captioner = load_ours(task, "captioner")
    captioner.prompt = capfilt.PROMPT
    matcher = load_ours(task, "retrieval", quirks=["cls_for_enc"])
    decodings = (Decoding(min_length=LENGTH, max_length=LENGTH),)
    models = {"captioner": captioner}, {"filter": matcher}
    scorer = CaptionScorer(*models, decodings, task.batch, seed=0)
    source = CapFiltInput(str(task.world / "images"), "train", 1)

    def work():
        examples = batches(source, range(len(source)), task.batch, scorer.sizes, True)
        rows = [row for batch in scorer.rows(examples) for row in batch]
        storage.write_shard(epath.Path(task.world / "shard"), rows)
        return [row["texts"][0] for row in rows]

    return work, lambda found: {
        name: np.concatenate([text[name] for text in found]) for name in ("cosine", "p_match")
    }


# transformers


def load_theirs(task: Task, name: str):
    import torch
    import transformers

    model = getattr(transformers, CLASSES[name]).from_pretrained(task.world / name).eval()
    return model.to(task.device, getattr(torch, task.dtype))


def tokenizer(task: Task):
    import transformers

    return transformers.BertTokenizer(str(task.world / "retrieval" / "vocab.txt"))


def encoded(task: Task, texts: list[str]) -> dict:
    found = tokenizer(task)(texts, padding=True, return_tensors="pt")
    return {name: found[name].to(task.device) for name in ("input_ids", "attention_mask")}


def pixels(task: Task):
    """Returns the images normalised, as its processor gives them."""
    import torch

    from blip_jax.data.images import MEAN, STD

    images = torch.from_numpy(task.images).permute(0, 3, 1, 2).float() / 255
    images = (images - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    return images.to(task.device, getattr(torch, task.dtype))


def theirs_captions(task: Task, options: dict):
    import torch

    model, words = load_theirs(task, "captioner"), tokenizer(task)

    @torch.no_grad()
    def work():
        prompt = torch.tensor([[DEC, SEP]] * task.batch)  # it cuts the last token
        found = model.generate(
            pixel_values=pixels(task), input_ids=prompt.to(task.device), max_new_tokens=LENGTH - 1,
            min_new_tokens=LENGTH - 1, return_dict_in_generate=True, output_scores=True, **options,
        )  # fmt: skip
        return words.batch_decode(found.sequences, skip_special_tokens=True), found

    return work


def theirs_beam(task: Task):
    work = theirs_captions(task, {"num_beams": 3, "do_sample": False})
    return work, lambda found: {
        "tokens": found[1].sequences[:, 1:].cpu().numpy(),
        "score": found[1].sequences_scores.cpu().numpy(),
    }


def theirs_nucleus(task: Task):
    options = {"do_sample": True, "top_p": 0.9, "top_k": 0, "repetition_penalty": 1.1}
    work = theirs_captions(task, options)
    return work, lambda found: {"lengths": (found[1].sequences[:, 1:] != 0).sum(1).numpy()}


def theirs_embed(task: Task):
    import torch

    model, normalize = load_theirs(task, "retrieval"), torch.nn.functional.normalize

    @torch.no_grad()
    def work():
        image = model.vision_model(pixels(task))[0]
        text = model.text_encoder(**encoded(task, [row[0] for row in task.texts]))[0]
        heads = {"image": model.vision_proj(image[:, 0]), "text": model.text_proj(text[:, 0])}
        return {name: normalize(x, dim=-1).numpy() for name, x in heads.items()}

    return work, lambda found: found


def theirs_match(task: Task, by_parts: bool = False):
    """Scores an image's texts in one call, which encodes it for each, or once with its parts."""
    import torch

    model = load_theirs(task, "retrieval")

    def of_image(image, texts):
        if not by_parts:
            return model(**encoded(task, texts), pixel_values=image.repeat(TEXTS, 1, 1, 1))[0]
        tokens = model.vision_model(image)[0].expand(TEXTS, -1, -1)
        text = model.text_encoder(**encoded(task, texts), encoder_hidden_states=tokens)[0]
        return model.itm_head(text[:, 0])

    @torch.no_grad()
    def work():
        images = pixels(task).split(1)
        rows = [of_image(image, texts) for image, texts in zip(images, task.texts, strict=True)]
        return {"logits": torch.stack(rows).numpy()}

    return work, lambda found: found


def theirs_capfilt(task: Task):
    import capfilt

    from blip_jax.capfilt.inputs import CapFiltInput

    models = [load_theirs(task, name) for name in CLASSES]
    words = task.world / "retrieval" / "vocab.txt"
    theirs = capfilt.Theirs(*models, words, "cpu", task.image_size)
    source = CapFiltInput(str(task.world / "images"), "train", 1)

    def work():
        records = [source[row] for row in range(len(source))]
        starts = range(0, len(source), task.batch)
        return [theirs.rows(records[at : at + task.batch], by_parts=True) for at in starts]

    def results(found):
        logits, cosine = (np.concatenate(x) for x in zip(*found, strict=True))
        match = np.exp(logits[::2] - logits[::2].max(-1, keepdims=True))
        return {"cosine": cosine[::2], "p_match": (match / match.sum(-1, keepdims=True))[:, 1]}

    return work, results


OURS = {
    "caption-beam": ours_beam,
    "caption-nucleus": ours_nucleus,
    "embed": ours_embed,
    "match": ours_match,
    "match-parts": ours_match,
    "capfilt": ours_capfilt,
}
THEIRS = {
    "caption-beam": theirs_beam,
    "caption-nucleus": theirs_nucleus,
    "embed": theirs_embed,
    "match": theirs_match,
    "match-parts": functools.partial(theirs_match, by_parts=True),
    "capfilt": theirs_capfilt,
}
