"""What the server refuses, with one line; none of it reaches a model, so nothing is compiled."""

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")

import base64
import contextlib
import http.server
import io
import signal
import socket
import threading
import time

from PIL import Image
from serving_fixture import IMAGES, SMALL, gated, running, wait_until

from blip_jax.runtime.errors import UserError
from blip_jax.serving.config import ServeConfig
from blip_jax.serving.server import listen
from blip_jax.serving.service import Service


@pytest.fixture
def serve(model):
    """A function that runs a server whose texts are embedded by a Gate."""
    with contextlib.ExitStack() as stack:
        models = [model("captioner"), model("retrieval")]
        yield lambda token="", **changes: stack.enter_context(gated(models, token, **changes))


def png(width, height) -> str:
    file = io.BytesIO()
    Image.new("L", (width, height)).save(file, "png")
    return base64.b64encode(file.getvalue()).decode()


TEXT = {"texts": ["a"]}
CAPTION, MATCH, EMBED = "/v1/caption", "/v1/match", "/v1/embed"
# status, what the line says, path, body, and headers
MALFORMED = [
    (400, "not JSON", EMBED, b'{"texts": ["a"]', {}),
    (400, "not JSON", EMBED, b"\xff\xfe\x00", {}),
    (422, "the body", EMBED, b"[1, 2]", {}),
    (422, "the body", EMBED, b"", {}),
    (422, "the body", EMBED, b"null", {}),
    (400, "", EMBED, b"[" * 200_000, {}),
    (415, "text/plain", EMBED, b"{}", {"content-type": "text/plain"}),
    (415, "compressed", EMBED, b"\x1f\x8b", {"content-encoding": "gzip"}),
    (413, "more than 1048576 bytes", EMBED, b" " * (1 << 20) + b"{}", {}),
    (404, "no such path", "/v1/nothing", {}, {}),
    (404, "can answer", "/v1/answer", {"images": ["a"], "question": "b"}, {}),
    (422, "texts[0]: Input should be a valid string", EMBED, {"texts": [1]}, {}),
    (422, "texts[0]", EMBED, b'{"texts": ["\\ud800"]}', {}),
    (422, "texts[1]: String should have at most 2000", EMBED, {"texts": ["a", "a" * 2001]}, {}),
    (422, "4 texts; give at most 3", EMBED, {"texts": ["a"] * 4}, {}),
    (422, "neither images nor texts", EMBED, {}, {}),
    (422, "text: Extra", EMBED, {"text": "a"}, {}),
    (422, "texts: Field required", MATCH, {"images": IMAGES[:1]}, {}),
    (422, "images: List should have at least 1", CAPTION, {"images": []}, {}),
    (422, "9 images; give at most 8", EMBED, {"images": IMAGES[:1] * 9}, {}),
    (422, "images[1]: neither base64 nor a URL", EMBED, {"images": [IMAGES[0], "é!"]}, {}),
    (422, "images[0]: not an image", EMBED, {"images": ["AAAA"]}, {}),
    (422, "images[0]: damaged", EMBED, {"images": [IMAGES[0][:400]]}, {}),
    (422, "images[0]: 2000x1000 pixels", EMBED, {"images": [png(2000, 1000)]}, {}),
    (422, "this URL is not fetched", EMBED, {"images": ["http://127.0.0.1:1/a"]}, {}),
    (422, "this URL is not fetched", EMBED, {"images": ["file:///etc/passwd"]}, {}),
    (422, "top_p is 2.0", CAPTION, {"images": IMAGES[:1], "top_p": 2.0}, {}),
    (422, "top_p", CAPTION, {"images": IMAGES[:1], "top_p": "0.5"}, {}),
    (422, "temperature", CAPTION, b'{"images": ["AAAA"], "temperature": NaN}', {}),
    (422, "temperature", CAPTION, {"images": IMAGES[:1], "temperature": 1e-300}, {}),
    (422, "num_beams is 7; this server has 2", CAPTION, {"images": IMAGES[:1], "num_beams": 7}, {}),
    (422, "cannot be combined", CAPTION, {"images": IMAGES[:1], "num_beams": 2, "top_p": 0.5}, {}),
    (422, "num_captions", CAPTION, {"images": IMAGES[:1], "top_p": 0.5, "num_captions": 9}, {}),
    (422, "max_length is 21", CAPTION, {"images": IMAGES[:1], "max_length": 21}, {}),
    (422, "prompt's", CAPTION, {"images": IMAGES[:1], "prompt": "a red " * 20}, {}),
    (422, "seed", CAPTION, {"images": IMAGES[:1], "top_p": 0.5, "seed": 2**32}, {}),
    (422, "top_k", CAPTION, {"images": IMAGES[:1], "top_k": 10**30}, {}),
    (400, "", CAPTION, b'{"images": ["AAAA"], "seed": ' + b"9" * 5000 + b"}", {}),
    (422, "method", CAPTION, {"images": IMAGES[:1], "method": "\x1b[31m"}, {}),
]


def test_what_is_malformed_is_one_line_and_the_next_request_is_served(serve):
    server = serve(max_body_mib=1.0, max_pixels=1_000_000)
    server.gate.opened.set()
    assert len(MALFORMED) >= 38
    for status, named, path, body, headers in MALFORMED:
        response = server.post(path, body, headers=headers)
        assert response.status_code == status, (named, response.text)
        (message,) = response.json().values()
        assert named in message and 0 < len(message) < 250 and message.isprintable(), message
    assert server.post(EMBED, TEXT).json()["texts"] == [[0.6000000238418579, 0.800000011920929]]
    assert not any(f"{status}" in server.get("/metrics").text for status in ('status="500"',))
    assert server.get("/v1/caption").status_code == 405
    wait_until(lambda: server.service.in_flight == 0)


def test_a_request_that_is_no_http_is_refused(serve):
    server = serve()
    with socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2]))) as client:
        client.sendall(b"\x16\x03\x01 hello\r\n\r\n")
        assert client.recv(1000).startswith(b"HTTP/1.1 400 ")


def test_more_requests_than_may_are_refused(serve):
    server = serve(max_requests=3, max_queue=50)
    results = []
    threads = [
        threading.Thread(target=lambda: results.append(server.post(EMBED, TEXT))) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    wait_until(lambda: server.service.in_flight == 3)
    refused = server.post(EMBED, TEXT)
    assert refused.status_code == 429 and refused.headers["retry-after"] == "1"
    server.gate.opened.set()
    for thread in threads:
        thread.join()
    assert [response.status_code for response in results] == [200] * 3
    assert server.post(EMBED, TEXT).status_code == 200


def test_more_rows_than_may_wait_are_refused(serve):
    server = serve(max_queue=2)
    refused = server.post(EMBED, {"texts": ["a"] * 3})
    assert refused.status_code == 429
    assert refused.json() == {"error": "more than 2 rows would wait; try again later"}


def test_a_result_that_comes_too_late_is_504_and_later_rows_are_dropped(serve):
    server = serve(timeout=0.3)
    late = server.post(EMBED, {"texts": ["a", "b"]})
    assert late.status_code == 504 and "within 0.3 s" in late.json()["error"]
    server.gate.opened.set()
    assert server.post(EMBED, TEXT).status_code == 200
    assert server.gate.computed == 2  # the row that was being computed, and the last one's
    wait_until(lambda: server.service.in_flight == 0)


def test_a_client_that_leaves_frees_its_place(serve):
    server = serve()
    server.post_later = threading.Thread(target=server.post, args=(EMBED, TEXT))
    server.post_later.start()
    assert server.gate.entered.wait(60)  # the device is busy with another's row
    with socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2]))) as client:
        head = f"POST {EMBED} HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n"
        client.sendall(f'{head}content-length: 16\r\n\r\n{{"texts": ["b"]}}'.encode())
        wait_until(lambda: server.service.in_flight == 2)
    wait_until(lambda: server.service.in_flight == 1)
    server.gate.opened.set()
    server.post_later.join()
    assert server.post(EMBED, TEXT).status_code == 200
    assert server.gate.computed == 2
    assert server.metric("blip_requests_total", path=EMBED, status="499") == 1


def test_a_body_that_does_not_come_is_refused(serve):
    server = serve(body_timeout=0.2)
    with socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2]))) as client:
        head = f"POST {EMBED} HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n"
        client.sendall(f'{head}content-length: 16\r\n\r\n{{"te'.encode())
        assert client.recv(1000).startswith(b"HTTP/1.1 408 ")
    wait_until(lambda: server.service.in_flight == 0)


def test_the_token(serve):
    server = serve(token="secret")
    server.gate.opened.set()
    for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": "secret"}):
        assert server.post(EMBED, TEXT, headers=headers).status_code == 401
        assert server.get("/metrics", headers=headers).status_code == 401
    right = {"authorization": "Bearer secret"}
    assert server.post(EMBED, TEXT, headers=right).status_code == 200
    assert server.get("/metrics", headers=right).status_code == 200
    assert server.get("/ready").status_code == server.get("/health").status_code == 200


def test_before_warm_up_it_is_healthy_and_not_ready(model):
    service = Service([model("retrieval")], SMALL)
    service.start = lambda: None
    with running(service, warm=False) as server:
        assert server.get("/health").status_code == 200
        assert server.get("/ready").status_code == 503
        refused = server.post(EMBED, TEXT)
        assert refused.status_code == 503 and "compiled" in refused.json()["error"]


def test_a_signal_ends_it_once_accepted_requests_are_answered(serve, capsys):
    server = serve()
    results = []
    accepted = threading.Thread(target=lambda: results.append(server.post(EMBED, TEXT)))
    accepted.start()
    assert server.gate.entered.wait(60)
    server.server.handle_exit(signal.SIGTERM, None)
    refused = server.post(EMBED, TEXT)
    assert refused.status_code == 503 and refused.headers["connection"] == "close"
    assert server.get("/ready").status_code == 503 and server.get("/health").status_code == 200
    time.sleep(0.3)  # it looks ten times a second whether it may end
    assert server.thread.is_alive() and not results
    server.gate.opened.set()
    accepted.join()
    assert results[0].status_code == 200 and results[0].headers["connection"] == "close"
    server.thread.join(60)
    assert not server.thread.is_alive()
    assert "ending after 1 requests in work" in capsys.readouterr().err


class Photos(http.server.BaseHTTPRequestHandler):
    """Another server: an image, and what leads elsewhere."""

    def do_GET(self):
        answers = {"/photos/a.png": 200, "/photos/moved": 302, "/photos/large": 200}
        self.send_response(answers.get(self.path, 404))
        self.send_header("location", "/secret/a.png")
        self.end_headers()
        large = b"\0" * (2 << 20)
        if self.path != "/photos/moved":
            data = base64.b64decode(IMAGES[0])
            self.wfile.write(large if self.path.endswith("large") else data)

    def log_message(self, *unused):
        pass


def test_urls_are_fetched_below_their_prefix_alone(serve, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Photos) as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        host = f"http://127.0.0.1:{other.server_port}"
        server = serve(allow_url=(f"{host}/photos/",), max_body_mib=1.0)
        server.service.functions["embed image"].opened.set()

        def fetch(url):
            response = server.post(EMBED, {"images": [url]})
            return response.status_code, response.json().get("error", "")

        assert fetch(f"{host}/photos/a.png") == (200, "")
        for url in (
            f"{host}/secret/a.png",
            f"{host}/photos/../secret/a.png",
            f"{host}/photos/%2e%2E/secret/a.png",
            f"{host}/photos/%252e%252e/secret/a.png",
            f"{host}/photos\\..\\secret/a.png",
            f"http://user@127.0.0.1:{other.server_port}/photos/a.png",
            host.replace("127", "126") + "/photos/a.png",
        ):
            status, message = fetch(url)
            assert status == 422 and "this URL is not fetched" in message, url
        assert "answers 302" in fetch(f"{host}/photos/moved")[1]
        assert "answers 404" in fetch(f"{host}/photos/b.png")[1]
        assert "more than 1048576 bytes" in fetch(f"{host}/photos/large")[1]
        other.shutdown()
    status, message = fetch(f"{host}/photos/a.png")
    assert status == 422 and "cannot be fetched" in message


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("port", 65536),
        ("port", -1),
        ("batch_sizes", ()),
        ("batch_sizes", (0,)),
        ("max_queue", 0),
        ("timeout", 0.0),
        ("timeout", float("nan")),
        ("body_timeout", float("inf")),
        ("num_beams", 0),
        ("max_wait_ms", -1.0),
        ("allow_url", ("https://host",)),
        ("allow_url", ("ftp://host/a/",)),
        ("allow_url", ("https://user@host/",)),
    ],
)
def test_wrong_settings_are_named(field, value):
    with pytest.raises(UserError, match=field):
        ServeConfig(**{field: value})


def test_an_address_in_use_is_named():
    with listen("127.0.0.1", 0) as taken, pytest.raises(UserError, match="choose another --host"):
        listen("127.0.0.1", taken.getsockname()[1])
