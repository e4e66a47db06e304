"""The server under load, on loopback: throughput, waiting, compilations, bad requests, its end.

    python tests/bench/serve.py [--model small] [--image-size 64] [--turns 3] [--requests 320]

Serves a captioner with random weights twice: `batched`, where rows wait up to --wait-ms, and
`alone`, which computes one row at a time and waits for none. In turns, a client that sends one
request after another loads `alone`, and 16 clients that do so load `batched`; their requests have
different temperatures, top-p, penalties, lengths, seeds and prompts. Then come malformed requests,
and SIGTERM while the 16 clients go on.
"""

import argparse
import asyncio
import base64
import collections
import contextlib
import io
import itertools
import os
import pathlib
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time

import httpx2
import numpy as np
from PIL import Image

ROOT = pathlib.Path(__file__).resolve().parents[2]
CLIENTS, PATH = 16, "/v1/caption"
# By model: words of the vocabulary, and what is unlike ViT-B.
SMALL = {"width": 128, "depth": 2, "heads": 4}
SIZES = {"small": (1000, SMALL, SMALL | {"mlp_dim": 512}), "base": (30_000, {}, {})}


def build_model(folder: pathlib.Path, size: str, image_size: int) -> None:
    """Saves a captioner with random weights, as a Hugging Face folder."""
    import jax

    from blip_jax import checkpoints, nn
    from blip_jax.data.tokenizer import Tokenizer

    words, (count, vit, med) = folder / "words", SIZES[size]
    words.mkdir()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    (words / "vocab.txt").write_text("\n".join([*special, *(f"w{n}" for n in range(count))]))
    tokenizer = Tokenizer.load(str(words))
    vit = {"image_size": image_size, **vit}
    med = {"vocab_size": tokenizer.ids.vocab_size, **med}
    config = nn.preset("base", vit=vit, med=med)
    params = jax.tree.map(np.asarray, nn.init(config, jax.random.key(0), "captioner"))
    checkpoint = checkpoints.Checkpoint("captioner", config, params, tokenizer=tokenizer)
    checkpoints.write(checkpoint, str(folder / "captioner"), "hf")


class Process:
    """A server in a process of its own.

    Attributes:
      url: where it listens.
    """

    def __init__(self, model: pathlib.Path, *flags: str):
        argv = [sys.executable, "-m", "blip_jax", "serve", "--model", str(model), "--port", "0"]
        self.process = subprocess.Popen([*argv, *flags], stderr=subprocess.PIPE, text=True)
        lines = iter(self.process.stderr.readline, "")
        self.url = next(filter(None, (re.search(r"http://\S+", x) for x in lines)))[0]
        self.ready = next(x for x in lines if "ready after" in x).strip()

    def rss(self) -> float:
        """Returns MiB of memory in use."""
        text = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", text)[1]) / 1024

    def metric(self, name: str) -> float:
        """Returns the sum of a metric over its labels."""
        text = httpx2.get(f"{self.url}/metrics", trust_env=False, timeout=60).text
        found = re.findall(rf"^{name}(?:{{[^}}]*}})? (\S+)$", text, re.MULTILINE)
        return sum(map(float, found))

    def cpu(self) -> float:
        """Returns the CPU seconds that it has used."""
        fields = pathlib.Path(f"/proc/{self.process.pid}/stat").read_text().split()
        return (int(fields[13]) + int(fields[14])) / os.sysconf("SC_CLK_TCK")


def bodies(image_size: int):
    """Yields requests of different images and options, without end."""
    rng = np.random.default_rng(0)
    images = []
    for _ in range(8):
        file = io.BytesIO()
        pixels = rng.integers(0, 256, (image_size, image_size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(file, "jpeg", quality=90)
        images.append(base64.b64encode(file.getvalue()).decode())
    for number in itertools.count():
        yield {
            "images": [images[number % 8]],
            "seed": number,
            "temperature": 0.5 + number % 10 / 10,
            "top_p": 0.5 + number % 7 / 14,
            "repetition_penalty": 1 + number % 5 / 10,
            "max_length": 16 + number % 5,
            "prompt": " ".join(f"w{n}" for n in range(number % 4)),
        }


async def load(url: str, clients: int, requests: int, source) -> tuple[float, list[float]]:
    """Returns the seconds that requests took in all, and each by itself."""
    latencies: list[float] = []
    left = itertools.count()

    async def client_loop(client: httpx2.AsyncClient) -> None:
        while next(left) < requests:
            body, start = next(source), time.perf_counter()
            response = await client.post(url + PATH, json=body)
            assert response.status_code == 200, response.text
            latencies.append(time.perf_counter() - start)

    async with httpx2.AsyncClient(timeout=600, trust_env=False) as client:
        start = time.perf_counter()
        await asyncio.gather(*(client_loop(client) for _ in range(clients)))
        return time.perf_counter() - start, latencies


def compare(alone: Process, batched: Process, turns: int, requests: int, source) -> None:
    """Prints a table of the turns of both servers."""
    print("| turn | | requests/s | CPU s a request | p50 s | p99 s | mean batch s | rows of it |")
    print("|---|---|---|---|---|---|---|---|")
    ratios = []
    for turn in range(1, turns + 1):
        rates = []
        for name, server, clients, share in (("alone", alone, 1, 4), ("batched", batched, 16, 1)):
            count = max(requests // share, 1)
            names = ("blip_batch_seconds_sum", "blip_batch_seconds_count", "blip_batch_rows_sum")
            before, cpu = [server.metric(x) for x in names], server.cpu()
            seconds, latencies = asyncio.run(load(server.url, clients, count, source))
            cpu = (server.cpu() - cpu) / count
            spent, batches, rows = (server.metric(x) - y for x, y in zip(names, before))
            rates.append(count / seconds)
            p50, p99 = np.percentile(latencies, [50, 99])
            print(
                f"| {turn} | {name}, {clients} | {rates[-1]:.1f} | {cpu:.4f} | {p50:.3f} | "
                f"{p99:.3f} | {spent / batches:.3f} | {rows / batches:.1f} |", flush=True,
            )  # fmt: skip
        ratios.append(rates[1] / rates[0])
    middle = statistics.median(ratios)
    print(f"\nthroughput, batched by alone: {middle:.2f} ({min(ratios):.2f} to {max(ratios):.2f})")


MALFORMED = [
    b'{"images": [', b"[]", b"\xff\xfe", b"[" * 100_000, b'{"images": []}', b'{"images": ["AAAA"]}',
    b'{"images": ["http://127.0.0.1/"]}', b'{"images": ["AAAA"], "top_p": 2}',
    b'{"images": ["AAAA"], "seed": -1}', b'{"images": ["AAAA"], "prompt": "\\ud800"}',
]  # fmt: skip


async def malformed(server: Process, count: int) -> None:
    """Prints the statuses of malformed requests, and the server's memory before and after."""

    async def send(client, body):
        headers = {"content-type": "application/json"}
        response = await client.post(server.url + PATH, content=body, headers=headers)
        assert len(response.text.splitlines()) == 1 and set(response.json()) == {"error"}
        return response.status_code

    async with httpx2.AsyncClient(timeout=60, trust_env=False) as client:
        sizes = []
        for _ in range(3):
            chosen = itertools.islice(itertools.cycle(MALFORMED), count)
            found = [await send(client, body) for body in chosen]
            sizes.append(server.rss())
    statuses = collections.Counter(found)
    print(f"{count} malformed requests of {len(MALFORMED)} kinds, three times: {dict(statuses)}")
    print(f"memory after each time: {', '.join(f'{size:.1f}' for size in sizes)} MiB")


async def end_under_load(server: Process, source, seconds: float) -> None:
    """Prints how the requests of 16 clients end when SIGTERM comes."""
    outcomes: collections.Counter[str] = collections.Counter()

    async def client_loop() -> None:
        async with httpx2.AsyncClient(timeout=120, trust_env=False) as client:
            while True:
                try:
                    response = await client.post(server.url + PATH, json=next(source))
                    outcomes[str(response.status_code)] += 1
                    if response.status_code == 503:
                        await asyncio.sleep(0.02)
                except httpx2.ConnectError:
                    outcomes["connection refused"] += 1
                    return
                except httpx2.HTTPError as error:  # sent, and not answered
                    outcomes[f"lost ({type(error).__name__})"] += 1
                    return

    tasks = [asyncio.create_task(client_loop()) for _ in range(CLIENTS)]
    await asyncio.sleep(seconds)
    accepted = await asyncio.to_thread(server.metric, "blip_requests_in_flight")
    start = time.perf_counter()
    server.process.send_signal(signal.SIGTERM)
    await asyncio.gather(*tasks)
    seconds = time.perf_counter() - start
    status = await asyncio.to_thread(server.process.wait)
    print(f"SIGTERM with {accepted:.0f} requests in work: {dict(outcomes)}")
    print(f"it took connections for {seconds:.2f} s more, and ended with status {status}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=("small", "base"), default="small")
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--requests", type=int, default=320, help="of a turn of 16 clients")
    parser.add_argument("--wait-ms", type=float, default=100.0, help="that 16 clients need to come")
    args = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    os.environ["PYTHONPATH"] = f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    source = bodies(args.image_size)
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        build_model(pathlib.Path(folder), args.model, args.image_size)
        model = pathlib.Path(folder) / "captioner"
        flags = ["--num-beams", "1", "--max-tokens", "24"]
        alone = Process(model, *flags, "--batch-sizes", "1", "--max-wait-ms", "0")
        stack.callback(alone.process.kill)
        batched = Process(model, *flags, "--max-wait-ms", str(args.wait_ms))
        stack.callback(batched.process.kill)
        print(alone.ready, batched.ready, sep="\n")
        compiled = batched.metric("blip_compilations_total")
        compare(alone, batched, args.turns, args.requests, source)
        after = batched.metric("blip_compilations_total")
        print(f"programs compiled before the load: {compiled:.0f}, after it: {after:.0f}")
        asyncio.run(malformed(batched, 500))
        asyncio.run(end_under_load(batched, source, 3.0))


if __name__ == "__main__":
    main()
