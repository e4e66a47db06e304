"""A server of tiny models in a thread of this process, on loopback, and requests to it."""

import asyncio
import base64
import contextlib
import dataclasses
import json
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import httpx2
import numpy as np
from network_calls import FILES

from blip_jax.serving.batch_sizes import BatchSizes
from blip_jax.serving.config import ServeConfig
from blip_jax.serving.server import Server, listen
from blip_jax.serving.service import Service

IMAGES = [base64.b64encode(file).decode() for file in FILES]
# One batch size and few programs, as each is compiled.
SMALL = ServeConfig(
    port=0, batch_sizes=(1,), max_wait_ms=30, max_tokens=20, max_texts=3, max_candidates=4,
    num_beams=2, max_images=8, timeout=60,
)  # fmt: skip


class Gate:
    """In place of a function of rows: waits until it is opened, then gives unit vectors."""

    def __init__(self):
        self.batch_sizes, self.sizes = BatchSizes([1]), [1]
        self.opened, self.entered, self.computed = threading.Event(), threading.Event(), 0

    def __call__(self, rows):
        self.entered.set()
        assert self.opened.wait(60)
        self.computed += len(rows)
        return [np.array([0.6, 0.8], np.float32)] * len(rows)

    def warm_up(self, size):
        """Compiles nothing."""


class Running:
    """A server that runs, and its client.

    Attributes:
      service, server: of the program.
      url: where it listens.
      thread: in which it runs.
    """

    def __init__(self, service: Service, token: str = ""):
        self.service, self.server = service, Server(service, token)
        self._listener = listen("127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.thread = threading.Thread(target=self.server.run, args=([self._listener],))

    def get(self, path: str, **options: Any) -> httpx2.Response:
        return httpx2.get(self.url + path, timeout=60, trust_env=False, **options)

    def post(self, path: str, body: Any = None, **options: Any) -> httpx2.Response:
        """Sends JSON, or bytes as they are."""
        headers = {"content-type": "application/json", **options.pop("headers", {})}
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return httpx2.post(
            self.url + path, content=content, headers=headers, timeout=60, trust_env=False,
            **options,
        )  # fmt: skip

    def post_all(self, requests: Sequence[tuple[str, Any]]) -> list[httpx2.Response]:
        """Sends requests, (path, body) each, at the same time."""

        async def send() -> list[httpx2.Response]:
            async with httpx2.AsyncClient(timeout=60, trust_env=False) as client:
                sent = [client.post(self.url + path, json=body) for path, body in requests]
                return await asyncio.gather(*sent)

        return asyncio.run(send())

    def metric(self, name: str, **labels: str) -> float:
        """Returns the value of a metric; 0 if it was never counted."""
        return self.service.metrics.registry.get_sample_value(name, labels) or 0.0


@contextlib.contextmanager
def running(service: Service, token: str = "", warm: bool = True) -> Iterator[Running]:
    """A server for the block; `warm`: once its programs are compiled."""
    found = Running(service, token)
    found.thread.start()
    try:
        if warm:
            wait_until(lambda: service.ready or service.failure)
            assert service.failure is None, service.failure
        yield found
    finally:
        found.server.should_exit = True
        found.thread.join()


@contextlib.contextmanager
def gated(models: Sequence[Any], token: str = "", **changes: Any) -> Iterator[Running]:
    """A server whose functions are Gates, for the block; `gate` is that of texts.

    Args:
      changes: of the settings `SMALL`.
    """
    service = Service(models, dataclasses.replace(SMALL, **changes))
    service.functions.update({name: Gate() for name in service.functions})
    with running(service, token) as found:
        found.gate = service.functions["embed text"]
        try:
            yield found
        finally:
            for gate in service.functions.values():
                gate.opened.set()


def wait_until(condition, seconds: float = 300) -> None:
    """Waits for a condition, and fails if it does not come."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.01)
