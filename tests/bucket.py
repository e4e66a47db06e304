"""A bucket on this machine: an emulator of Google's storage, in a process of its own.

A training in the same process would keep it from answering in time.
"""

import contextlib
import multiprocessing
import os
import socket
import socketserver
import sys
import threading
from collections.abc import Iterator


def serve(port: int, ready) -> None:
    from gcp_storage_emulator.handlers import objects

    objects.download = with_generation(objects.download)  # before it enters the server's table
    from gcp_storage_emulator.server import create_server

    socketserver.TCPServer.request_queue_size = 256  # TensorStore opens many connections at once
    server = create_server("localhost", port, in_memory=True, default_bucket="bucket")
    server.start()
    ready.set()
    threading.Event().wait()


def with_generation(download):
    """The emulator's answer with the header in which the real one says what version this is.

    TensorStore writes on condition of the version it has read, and cannot do without.
    """

    def answer(request, response, storage, *args, **kwargs):
        place = request.params["bucket_name"], request.params["object_id"]
        with contextlib.suppress(Exception):  # it is not there: the emulator says so
            response["x-goog-generation"] = storage.get_file_obj(*place)["generation"]
        return download(request, response, storage, *args, **kwargs)

    return answer


@contextlib.contextmanager
def bucket() -> Iterator[dict[str, str]]:
    """gs://bucket for as long as it is entered: the environment in which it is found."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    process = context.Process(target=serve, args=(port, ready), daemon=True)
    process.start()
    try:
        if not ready.wait(60):
            sys.exit("the emulator did not start")
        address = f"http://localhost:{port}"
        yield os.environ | {
            "STORAGE_EMULATOR_HOST": address,
            "TENSORSTORE_GCS_HTTP_URL": address,
            "GOOGLE_CLOUD_PROJECT": "none",
            "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",
        }
    finally:
        process.kill()
        process.join()
