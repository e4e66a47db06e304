"""Captioning and scoring, against the ViT alone (the bound) and against `transformers`.

    python tests/bench/capfilt.py [--images 64] [--batch 32] [--rounds 2] [--gpu]
        [--model small] [--image-size 384]

A captioner and an ITM model of ViT-B's size with random weights, which never end a
text before its 20 tokens. Each image gets one text by nucleus sampling, and this and its web text
are scored: ITM's logits and ITC's cosine. Four ways in turn, each round: `blip_jax`'s run over
shards; with the same network, the vision transformer alone, twice an image (captioner and filter);
`transformers` as its models are called, which encode an image for each answer; and with the parts
of its filter called by hand, so that an image is encoded once for all four. All but the second
begin with JPEGs. What compiles does so before. The bound is taken before and after `blip_jax`, as a
shared machine is not always as fast. Needs the `torch` extra; `--gpu` computes in
bfloat16 on both sides.
"""

import argparse
import io
import json
import pathlib
import statistics
import sys
import tempfile
import time

import jax
import numpy as np
import peer_works
import torch
import transformers
from PIL import Image

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from full_size_huggingface import DEC, theirs  # noqa: E402

from blip_jax import models  # noqa: E402
from blip_jax.capfilt.config import ScoringConfig  # noqa: E402
from blip_jax.capfilt.inputs import CapFiltInput  # noqa: E402
from blip_jax.capfilt.run import run  # noqa: E402
from blip_jax.cli.main import main as blip_jax  # noqa: E402
from blip_jax.data.images import normalize  # noqa: E402
from blip_jax.decoding import Decoding  # noqa: E402
from blip_jax.models.pmapped import PmappedFunction  # noqa: E402

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"
WORDS, LENGTH = 12, 20  # of a web text, of a caption in tokens
PROMPT = "w1 w2 w3"  # as long as BLIP's


def imported(folder: pathlib.Path, count: int) -> str:
    """A dataset of photo-sized JPEGs with a text each."""
    rng = np.random.default_rng(0)
    (folder / "photos").mkdir()
    for number in range(count):
        coarse = rng.integers(0, 256, (30, 40, 3), dtype=np.uint8)
        photo = Image.fromarray(coarse).resize((640, 480), Image.Resampling.BICUBIC)
        photo.save(folder / f"photos/{number:05d}.jpg", quality=90)
        text = " ".join(f"w{word}" for word in rng.integers(4, 20_000, WORDS))
        (folder / f"photos/{number:05d}.txt").write_text(text)
    argv = ["prepare", f"--config={CONFIGS}/prepare.py", f"--workdir={folder}/images"]
    assert blip_jax([*argv, f"--config.source={folder}/photos"]) == 0
    return str(folder / "images")


def ours(dataset: str, folder: pathlib.Path, loaded: dict, batch: int, count: int):
    """Seconds of all shards but the first, in which the programs are compiled, and of waiting."""
    settings = ScoringConfig(
        dataset=dataset,
        split="train",
        output=str(folder),
        decodings=(Decoding(method="sample", max_length=LENGTH, min_length=LENGTH, top_p=0.9),),
        batch_size=batch // jax.local_device_count(),
        shard_rows=count,
    )
    run(settings, *({name: (name, loaded[name])} for name in ("captioner", "filter")))
    shards = json.loads((folder / "manifest.json").read_text())["shards"][1:]
    return tuple(sum(shard[name] for shard in shards) for name in ("seconds", "input_wait_seconds"))


class Bound:
    """Two vision transformers and nothing else, compiled."""

    def __init__(self, loaded: dict, batch: int, side: int):
        self.encoders = [
            PmappedFunction(lambda apply, x: apply("encode_image", normalize(x)), model)
            for model in loaded.values()
        ]
        shape = (batch, side, side, 3)
        self.pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
        self.seconds(batch)

    def seconds(self, count: int) -> float:
        """Returns how long the images take."""
        begun = time.perf_counter()
        for _ in range(count // len(self.pixels)):
            for started in [encode.dispatch(self.pixels) for encode in self.encoders]:
                jax.block_until_ready(started)
        return time.perf_counter() - begun


class Theirs:
    """The same job with `transformers`."""

    def __init__(self, captioner, match, words: pathlib.Path, device: str, side: int = 384):
        kind = torch.bfloat16 if device == "cuda" else torch.float32
        self.captioner, self.match = (x.to(device, kind).eval() for x in (captioner, match))
        self.processor = transformers.BlipImageProcessor(size={"height": side, "width": side})
        self.tokenizer = transformers.BertTokenizer(str(words))
        self.device, self.kind = device, kind

    @torch.no_grad()
    def rows(self, records: list[dict], by_parts: bool) -> tuple[np.ndarray, np.ndarray]:
        images = [Image.open(io.BytesIO(x["image"])).convert("RGB") for x in records]
        pixels = self.processor(images, return_tensors="pt")["pixel_values"]
        pixels = pixels.to(self.device, self.kind)
        prompt = self.tokenizer(PROMPT, add_special_tokens=False)["input_ids"]
        # The last token is cut off by their `generate`, as it is where a processor made the prompt.
        given = torch.tensor([[DEC, *prompt, self.tokenizer.sep_token_id]] * len(images))
        written = self.captioner.generate(
            pixel_values=pixels, input_ids=given.to(self.device), do_sample=True, top_p=0.9,
            top_k=0, repetition_penalty=1.1, max_new_tokens=LENGTH - len(prompt) - 1,
            min_new_tokens=LENGTH - len(prompt) - 1,
        )  # fmt: skip
        made = self.tokenizer.batch_decode(written, skip_special_tokens=True)
        texts = [x for pair in zip((r["texts"][0]["text"] for r in records), made) for x in pair]
        encoded = self.tokenizer(
            texts, padding=True, truncation=True, max_length=35, return_tensors="pt"
        ).to(self.device)
        logits, cosine = (self.parts if by_parts else self.calls)(pixels, encoded)
        return logits.float().cpu().numpy(), cosine.float().cpu().numpy()

    def calls(self, pixels, encoded) -> tuple:
        """Scores of two texts an image, by the model's own two calls."""
        inputs = {**encoded, "pixel_values": pixels.repeat_interleave(2, 0)}
        inputs.pop("token_type_ids")
        cosine = self.match(**inputs, use_itm_head=False).itm_score.diagonal()
        return self.match(**inputs).itm_score, cosine

    def parts(self, pixels, encoded) -> tuple:
        """The same, each image encoded once."""
        image = self.match.vision_model(pixels)[0]
        inputs = {"input_ids": encoded.input_ids, "attention_mask": encoded.attention_mask}
        grounded = self.match.text_encoder(
            **inputs, encoder_hidden_states=image.repeat_interleave(2, 0)
        )[0]
        alone = self.match.text_encoder(**inputs)[0]
        text = torch.nn.functional.normalize(self.match.text_proj(alone[:, 0]), dim=-1)
        aligned = torch.nn.functional.normalize(self.match.vision_proj(image[:, 0]), dim=-1)
        cosine = (text * aligned.repeat_interleave(2, 0)).sum(-1)
        return self.match.itm_head(grounded[:, 0]), cosine

    def seconds(self, records: list[dict], batch: int, by_parts: bool) -> float:
        begun = time.perf_counter()
        for start in range(0, len(records), batch):
            self.rows(records[start : start + batch], by_parts)
        return time.perf_counter() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--gpu", action="store_true")
    parser.add_argument("--model", choices=("vit_b", "small"), default="vit_b")
    parser.add_argument("--image-size", type=int, default=384)
    args = parser.parse_args()
    count, batch = args.images, args.batch
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        names = {
            "captioner": "BlipForConditionalGeneration", "filter": "BlipForImageTextRetrieval",
        }  # fmt: skip
        for kind in names:
            (folder / kind).mkdir()
        sizes = peer_works.SMALL if args.model == "small" else {}
        vision = {"image_size": args.image_size, **sizes}
        torch_models = {kind: theirs(names[kind], folder / kind, vision, sizes) for kind in names}
        options = {"dtype": "bfloat16"} if args.gpu else {}
        loaded = {kind: models.load(folder / kind, **options) for kind in names}
        loaded["captioner"].prompt = PROMPT
        dataset = imported(folder, 2 * count)
        source = CapFiltInput(dataset, "train", 1)
        records = [source[row] for row in range(count, 2 * count)]
        device = "cuda" if args.gpu else "cpu"
        other = Theirs(
            *torch_models.values(), folder / "captioner/vocab.txt", device, args.image_size
        )
        for by_parts in (False, True):
            other.rows(records[:4], by_parts)
        bound = Bound(loaded, batch, args.image_size)
        ways = ("blip_jax", "bound", "transformers", "transformers, by parts")
        rates: dict[str, list[float]] = {way: [] for way in ways}
        for turn in range(args.rounds):
            before = bound.seconds(count)
            seconds, waited = ours(dataset, folder / f"scores-{turn}", loaded, batch, count)
            rates["blip_jax"].append(count / seconds)
            rates["bound"].append(2 * count / (before + bound.seconds(count)))
            for way, by_parts in (("transformers", False), ("transformers, by parts", True)):
                rates[way].append(count / other.seconds(records, batch, by_parts))
            print(
                f"round {turn + 1}: waited for input {waited / seconds:.1%}; rows/s",
                {way: round(found[-1], 3) for way, found in rates.items()},
                flush=True,
            )
    found = {way: statistics.median(rate) for way, rate in rates.items()}
    print(
        f"{found['blip_jax'] / found['bound']:.1%} of the bound, "
        f"{found['blip_jax'] / found['transformers']:.2f} x transformers, "
        f"{found['blip_jax'] / found['transformers, by parts']:.2f} x its parts"
    )


if __name__ == "__main__":
    main()
