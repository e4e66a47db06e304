"""The server under load, on loopback: throughput, waiting, compilations, bad requests, its end.

    python tests/bench/serve.py [--model small] [--image-size 64] [--mix all] [--turns 3]

Serves models with random weights twice: `batched`, where rows wait up to --wait-ms, and `alone`,
which computes one row at a time and waits for none. In turns, a client that sends one request after
another loads `alone`, and 16 clients that do so load `batched`; serve_load.py has their requests.
Then come malformed requests, and SIGTERM while the 16 clients go on.
"""

import argparse
import asyncio
import collections
import contextlib
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
from serve_load import SIZES, build_models, load, post, requests

ROOT = pathlib.Path(__file__).resolve().parents[2]
CLIENTS, PATH = 16, "/v1/caption"


class Process:
    """A server in a process of its own.

    Attributes:
      url: where it listens.
    """

    def __init__(self, models: list[pathlib.Path], *flags: str):
        argv = [sys.executable, "-m", "blip_jax", "serve", "--port", "0"]
        argv += [x for model in models for x in ("--model", str(model))]
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
        return sum(self.labelled(name).values())

    def labelled(self, name: str) -> dict[str, float]:
        """Returns a metric by its labels."""
        text = httpx2.get(f"{self.url}/metrics", trust_env=False, timeout=60).text
        found = re.findall(rf"^{name}({{[^}}]*}})? (\S+)$", text, re.MULTILINE)
        return {labels: float(value) for labels, value in found}

    def cpu(self) -> float:
        """Returns the CPU seconds that it has used."""
        fields = pathlib.Path(f"/proc/{self.process.pid}/stat").read_text().split()
        return (int(fields[13]) + int(fields[14])) / os.sysconf("SC_CLK_TCK")


def compare(servers: dict[str, Process], args: argparse.Namespace, source) -> None:
    """Prints a table of the turns of both servers."""
    print(
        "| turn | | requests/s | CPU s a request | p50 s | p99 s | wait + a mean batch of each s | "
        "wait + the longest of each s | rows a batch |\n|---|---|---|---|---|---|---|---|---|"
    )
    ratios = []
    for turn in range(1, args.turns + 1):
        rates = []
        for (name, server), clients, share in zip(servers.items(), (1, CLIENTS), (4, 1)):
            count = max(args.requests // share, 1)
            names = ("blip_batch_seconds_sum", "blip_batch_seconds_count", "blip_batch_rows_sum")
            before, cpu = [server.labelled(x) for x in names], server.cpu()
            *latencies, seconds = asyncio.run(load(server.url, clients, count, source))
            cpu = (server.cpu() - cpu) / count
            spent, batches, rows = (
                {k: v - y.get(k, 0) for k, v in server.labelled(x).items()}
                for x, y in zip(names, before, strict=True)
            )
            # A row waits behind at most one batch of each other function, as the oldest comes next.
            wait = args.wait_ms / 1000 if clients > 1 else 0
            bound = wait + sum(spent[k] / batches[k] for k in spent if batches[k])
            longest = wait + server.metric("blip_longest_batch_seconds")
            rates.append(count / seconds)
            p50, p99 = np.percentile(latencies, [50, 99])
            print(
                f"| {turn} | {name}, {clients} | {rates[-1]:.1f} | {cpu:.4f} | {p50:.3f} | "
                f"{p99:.3f} | {bound:.3f} | {longest:.3f} | "
                f"{sum(rows.values()) / sum(batches.values()):.1f} |",
                flush=True,
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
    host, port = server.url.removeprefix("http://").split(":")

    async def client_loop() -> None:
        while True:
            try:
                streams = await asyncio.open_connection(host, int(port))
            except ConnectionError:
                outcomes["connection refused"] += 1
                return
            try:
                is_closed = False
                while not is_closed:
                    status, _, is_closed = await post(streams, next(source))
                    outcomes[str(status)] += 1
                streams[1].close()
                await asyncio.sleep(0.02)
            except (ConnectionError, asyncio.IncompleteReadError) as error:  # and not answered
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
    parser.add_argument("--model", choices=SIZES, default="small")
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--mix", choices=("all", "captions"), default="all")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--requests", type=int, default=320, help="of a turn of 16 clients")
    parser.add_argument("--wait-ms", type=float, default=100.0, help="that 16 clients need to come")
    args = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    os.environ["PYTHONPATH"] = f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    source = requests(args.image_size, args.mix)
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        types = ("captioner", "retrieval", "vqa")[: 1 if args.mix == "captions" else 3]
        models = build_models(pathlib.Path(folder), args.model, args.image_size, types)
        flags = ["--num-beams", "1" if args.mix == "captions" else "3", "--max-tokens", "24"]
        named = {"alone": ["--batch-sizes", "1", "--max-wait-ms", "0"],
                 "batched": ["--max-wait-ms", str(args.wait_ms)]}  # fmt: skip
        servers = {}
        for name, own in named.items():
            servers[name] = Process(models, *flags, *own)
            stack.callback(servers[name].process.kill)
            print(servers[name].ready, flush=True)
        batched = servers["batched"]
        compiled = batched.metric("blip_compilations_total")
        compare(servers, args, source)
        after = batched.metric("blip_compilations_total")
        print(f"programs compiled before the load: {compiled:.0f}, after it: {after:.0f}")
        asyncio.run(malformed(batched, 500))
        asyncio.run(end_under_load(batched, source, 3.0))


if __name__ == "__main__":
    main()
