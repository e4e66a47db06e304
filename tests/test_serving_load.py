"""The server under many requests: malformed ones leave nothing behind, and its end loses none."""

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")

import collections
import itertools
import pathlib
import re
import signal
import threading

import httpx2
from serving_fixture import gated, wait_until

EMBED, CAPTION = "/v1/embed", "/v1/caption"
KINDS = [
    (400, EMBED, b'{"texts": ["a"'),
    (400, EMBED, b"\xff\xfe"),
    (400, EMBED, b"[" * 50_000),
    (422, EMBED, b"[1]"),
    (422, EMBED, b'{"texts": [1]}'),
    (422, EMBED, b'{"images": ["AAAA"]}'),
    (422, EMBED, b'{"images": ["file:///etc/passwd"]}'),
    (422, CAPTION, b'{"images": ["AAAA"], "top_p": 2}'),
    (422, CAPTION, b'{"images": ["AAAA"], "prompt": "\\ud800"}'),
    (404, "/v1/nothing", b"{}"),
]
ROOM = b" " * 100_000  # of each body: 500 of them that are kept would be 50 MB


def resident() -> int:
    """Returns the bytes of memory that this process has."""
    status = pathlib.Path("/proc/self/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) * 1024


def send(client, count: int) -> list[int]:
    """Returns the statuses of malformed requests; each answer is one line."""
    found = []
    for _, path, body in itertools.islice(itertools.cycle(KINDS), count):
        headers = {"content-type": "application/json"}
        response = client.post(path, content=body + ROOM, headers=headers)
        (message,) = response.json().values()
        assert message.isprintable() and "\n" not in response.text
        found.append(response.status_code)
    return found


@pytest.mark.skipif(not pathlib.Path("/proc/self/status").exists(), reason="needs Linux")
def test_500_malformed_requests_are_refused_and_leave_no_memory_behind(model):
    with (
        gated([model("captioner"), model("retrieval")]) as server,
        httpx2.Client(base_url=server.url, trust_env=False, timeout=60) as client,
    ):
        send(client, 100)  # buffers and caches come to their size
        before = resident()
        found = send(client, 500)
        assert found == [status for status, _, _ in KINDS] * 50
        assert resident() - before < 20e6
        wait_until(lambda: server.service.in_flight == 0, 30)  # the answer comes a moment before
        assert server.gate.computed == 0


def test_sigterm_under_load_loses_no_request(model):
    outcomes: collections.Counter = collections.Counter()
    enough = threading.Barrier(17, timeout=60)

    def client_loop(url: str) -> None:
        with httpx2.Client(base_url=url, trust_env=False, timeout=60) as client:
            for number in itertools.count():
                if number == 3:
                    enough.wait()
                try:
                    status = client.post(EMBED, json={"texts": ["a"]}).status_code
                except httpx2.HTTPError as error:  # sent, and not answered
                    status = type(error).__name__
                outcomes[status] += 1
                if status != 200:
                    return

    with gated([model("captioner"), model("retrieval")]) as server:
        server.gate.opened.set()
        clients = [threading.Thread(target=client_loop, args=[server.url]) for _ in range(16)]
        for client in clients:
            client.start()
        enough.wait()
        server.server.handle_exit(signal.SIGTERM, None)
        for client in clients:
            client.join()
        server.thread.join(60)
        assert not server.thread.is_alive()
    assert outcomes.keys() == {200, 503} and outcomes[503] == 16
    assert server.gate.computed == outcomes[200] >= 48
