"""For serve.py: models with random weights, requests of all kinds, a client that costs little."""

import asyncio
import base64
import io
import itertools
import json
import pathlib
import time
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from PIL import Image

# By model: words of the vocabulary, and what is unlike ViT-B.
SMALL = {"width": 128, "depth": 2, "heads": 4}
SIZES = {"small": (1000, SMALL, SMALL | {"mlp_dim": 512}), "base": (30_000, {}, {})}


def build_models(
    folder: pathlib.Path, size: str, image_size: int, types=("captioner", "retrieval", "vqa")
) -> list[pathlib.Path]:
    """Saves models as Hugging Face folders; returns these."""
    import jax

    from blip_jax import checkpoints, nn
    from blip_jax.data.tokenizer import Tokenizer

    words, (count, vit, med) = folder / "words", SIZES[size]
    words.mkdir()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    (words / "vocab.txt").write_text("\n".join([*special, *(f"w{n}" for n in range(count))]))
    tokenizer = Tokenizer.load(str(words))
    for model_type in types:
        sharing = {"sharing": "none"} if model_type == "vqa" else {}
        settings = {"vocab_size": tokenizer.ids.vocab_size, **med, **sharing}
        config = nn.preset("base", vit={"image_size": image_size, **vit}, med=settings)
        params = jax.tree.map(np.asarray, nn.init(config, jax.random.key(0), model_type))
        checkpoint = checkpoints.Checkpoint(model_type, config, params, tokenizer=tokenizer)
        checkpoints.write(checkpoint, str(folder / model_type), "hf")
    return [folder / model_type for model_type in types]


def images(image_size: int) -> list[str]:
    """Returns eight JPEGs in base64."""
    rng, found = np.random.default_rng(0), []
    for _ in range(8):
        file = io.BytesIO()
        pixels = rng.integers(0, 256, (image_size, image_size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(file, "jpeg", quality=90)
        found.append(base64.b64encode(file.getvalue()).decode())
    return found


class Sent(NamedTuple):
    """A request: its path, and its body as JSON."""

    path: str
    body: bytes


def requests(image_size: int, mix: str) -> Iterator[Sent]:
    """Yields requests of different images and options, without end.

    Args:
      mix: "captions", sampled alone, or "all": these, beam search, matches of one and of several
        texts, answers that are generated and chosen, and embeddings, as often as each other.
    """
    pictures = images(image_size)

    def sampled(n):
        return "caption", {
            "seed": n,
            "temperature": 0.5 + n % 10 / 10,
            "top_p": 0.5 + n % 7 / 14,
            "repetition_penalty": 1 + n % 5 / 10,
            "max_length": 16 + n % 5,
            "prompt": " ".join(f"w{k}" for k in range(n % 4)),
        }

    texts = [f"w{n} w{n + 1} w{n + 2}" for n in range(20)]
    kinds = [
        sampled,
        lambda n: ("caption", {"max_length": 16 + n % 5, "length_penalty": 0.5 + n % 3}),
        lambda n: ("match", {"texts": [texts[n % 20]]}),
        lambda n: ("match", {"texts": texts[n % 10 : n % 10 + 4]}),
        lambda n: ("answer", {"question": texts[n % 20]}),
        lambda n: ("answer", {"question": texts[n % 20], "candidates": texts[: 2 + n % 6]}),
        lambda n: ("embed", {"texts": texts[n % 10 : n % 10 + 2]}),
    ]
    kinds = kinds[:1] if mix == "captions" else kinds
    for number in itertools.count():
        name, body = kinds[number % len(kinds)](number)
        body["images"] = [pictures[number % 8]]
        yield Sent(f"/v1/{name}", json.dumps(body).encode())


async def post(
    streams: tuple[asyncio.StreamReader, asyncio.StreamWriter], sent: Sent
) -> tuple[int, bytes, bool]:
    """Returns status and body of a response, and whether the server closes the connection.

    By hand, as the client shares the cores with the server, and a library's takes as long as a
    small model.
    """
    reader, writer = streams
    head = f"POST {sent.path} HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n"
    writer.write(f"{head}content-length: {len(sent.body)}\r\n\r\n".encode() + sent.body)
    lines = (await reader.readuntil(b"\r\n\r\n")).lower().split(b"\r\n")
    length = next(int(line[15:]) for line in lines if line.startswith(b"content-length:"))
    body = await reader.readexactly(length)
    return int(lines[0].split()[1]), body, b"connection: close" in lines


async def load(url: str, clients: int, count: int, source: Iterator[Sent]) -> list[float]:
    """Returns the seconds of each of `count` requests, and last of all of them together."""
    latencies: list[float] = []
    left = iter(list(itertools.islice(source, count)))  # encoded before the clock starts

    async def client_loop() -> None:
        host, port = url.removeprefix("http://").split(":")
        streams = await asyncio.open_connection(host, int(port))
        for sent in left:
            start = time.perf_counter()
            status, body, _ = await post(streams, sent)
            assert status == 200, body
            latencies.append(time.perf_counter() - start)
        streams[1].close()

    start = time.perf_counter()
    await asyncio.gather(*(client_loop() for _ in range(clients)))
    return [*latencies, time.perf_counter() - start]
