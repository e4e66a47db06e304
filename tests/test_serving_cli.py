"""The verb `serve`: its arguments, and a process that serves until SIGTERM."""

import importlib.util
import os
import re
import signal
import subprocess
import sys

import pytest
import tiny_dataset
from network_calls import refused

from blip_jax.cli import serve


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        ([], "--model"),
        (["--model", "x", "--port", "70000"], "--port is 70000; it must be at most 65535"),
        (["--model", "x", "--max-queue", "0"], "--max-queue is 0; it must be at least 1"),
        (["--model", "x", "--allow-url", "host/"], "--allow-url is 'host/'"),
        (["--model", "x", "--token-file", "/nowhere"], "--token-file /nowhere cannot be read"),
        (["--model", "x", "--batch-sizes", "0", "4"], "--batch-sizes"),
    ],
)
def test_wrong_arguments_are_named(argv, named):
    assert named in refused(serve.run, argv)


@pytest.mark.parametrize("content", ["", " \n", "two words", "ä"])
def test_a_file_without_a_token_is_named(tmp_path, content):
    file = tmp_path / "token"
    file.write_text(content, "utf-8")
    assert str(file) in refused(serve.run, ["--model", "x", "--token-file", str(file)])


def test_a_missing_library_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert '".[serve]"' in refused(serve.run, ["--model", "x"])


@pytest.fixture
def start(model, tmp_path):
    """A function that starts a server of a tiny model, with further flags."""
    pytest.importorskip("fastapi")
    pytest.importorskip("uvicorn")
    workdir = tiny_dataset.save(model("retrieval"), str(tmp_path / "model"))
    started = []

    def run(*flags):
        argv = [sys.executable, "-m", "blip_jax", "serve", "--model", workdir, "--port", "0"]
        argv += ["--batch-sizes", "1", "--max-texts", "1", *flags]
        started.append(subprocess.Popen(argv, stderr=subprocess.PIPE, text=True))
        return started[-1], iter(started[-1].stderr.readline, "")

    yield run
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.slow
def test_a_process_serves_until_sigterm(start, tmp_path):
    import httpx2

    token = tmp_path / "token"
    token.write_text("secret\n")
    process, lines = start("--token-file", str(token))
    url = next(filter(None, (re.search(r"http://\S+", line) for line in lines)))[0]
    assert any("ready after" in line for line in lines)
    options = {"json": {"texts": ["a red circle"]}, "timeout": 60, "trust_env": False}
    assert httpx2.post(f"{url}/v1/embed", **options).status_code == 401
    options["headers"] = {"authorization": "Bearer secret"}
    found = httpx2.post(f"{url}/v1/embed", **options).json()["texts"]
    assert sum(x * x for x in found[0]) == pytest.approx(1, abs=1e-4)
    process.send_signal(signal.SIGTERM)
    rest = process.stderr.read()
    assert process.wait(60) == 0
    assert "all requests are answered" in rest and "Traceback" not in rest


@pytest.mark.slow
def test_sigterm_ends_a_warm_up(start):
    process, lines = start()
    assert any("listening" in line for line in lines)
    os.kill(process.pid, signal.SIGTERM)
    rest = process.stderr.read()
    assert process.wait(60) == 0 and "Traceback" not in rest
