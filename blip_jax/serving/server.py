"""The process of the server: it listens, and ends once its last request is answered."""

import asyncio
import signal
import socket
import sys
import time
from types import FrameType

import uvicorn

from blip_jax.runtime.errors import UserError
from blip_jax.runtime.signals import Interrupted
from blip_jax.runtime.terminal import print_note
from blip_jax.serving.app import create_app
from blip_jax.serving.service import Service

# For which connections that were just made stay open, so that their requests get status 503.
LINGER_SECONDS = 0.5


class Server(uvicorn.Server):
    """Uvicorn's server with a graceful end.

    The first SIGTERM or Ctrl-C lets requests that were accepted be answered, while further ones get
    status 503; then it ends. A second one ends it at once.

    Attributes:
      signal: the first signal that came; None: none.
    """

    def __init__(self, service: Service, token: str = ""):
        config = uvicorn.Config(
            create_app(service, token), lifespan="off", access_log=False, log_level="error",
            ws="none", server_header=False,
        )  # fmt: skip
        super().__init__(config)
        self.signal: int | None = None
        self._service, self._start = service, time.monotonic()
        self._told = False

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begins to drain; called by uvicorn."""
        if self.signal is not None:
            self.should_exit = self.force_exit = True
            return
        self.signal = sig
        self._service.draining = True
        print_note(f"blip-jax serve: ending after {self._service.in_flight} requests in work")

    async def on_tick(self, counter: int) -> bool:
        """Returns whether to end; called by uvicorn ten times a second."""
        service = self._service
        if service.ready and not self._told:
            self._told = True
            seconds = time.monotonic() - self._start
            print_note(f"blip-jax serve: ready after {seconds:.1f} s")
        if service.failure is not None or (service.draining and not service.in_flight):
            self.should_exit = True
        return await super().on_tick(counter)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begins to take connections and to compile; called by uvicorn, once signals are caught."""
        await super().startup(sockets)
        service = self._service
        for path, model in service.models.items():
            print_note(f"blip-jax serve: {path} by {model.name} ({model.model_type})")
        for listener in sockets or []:
            host, port = listener.getsockname()[:2]
            url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
            count = sum(len(function.sizes) for function in service.functions.values())
            print_note(f"blip-jax serve: listening on {url} (/docs); compiling {count} programs")
        service.start()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Closes connections, then the service; called by uvicorn."""
        for listener in self.servers:
            listener.close()
        if not self.force_exit:
            await asyncio.sleep(LINGER_SECONDS)
        await super().shutdown(sockets)
        await self._service.close()


def listen(host: str, port: int) -> socket.socket:
    """Returns a socket that listens.

    Raises:
      UserError: the address cannot be had.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=1024)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise UserError(
            f"cannot listen on {host} port {port} ({reason.lower()}); choose another --host or "
            "--port"
        ) from error


def serve(service: Service, token: str = "") -> None:
    """Serves until a signal comes; see `Server`.

    Raises:
      UserError: the address cannot be had, or a model gives NaN.
      Interrupted: a signal came; its status is 0 after SIGTERM.
    """
    listener = listen(service.config.host, service.config.port)
    server = Server(service, token)
    with listener:
        server.run(sockets=[listener])
    sys.stdout.flush()
    if server.signal is None and service.failure is not None:
        raise service.failure
    raise Interrupted("ended; all requests are answered", server.signal or signal.SIGTERM)
