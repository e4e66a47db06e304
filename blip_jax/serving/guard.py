"""What stands before the endpoints: token, size and time limits, and the count of requests."""

import asyncio
import contextlib
import hmac
import json
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from starlette.responses import JSONResponse

from blip_jax.runtime.terminal import printable
from blip_jax.serving.service import Service

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

PROTECTED = ("/v1/", "/metrics")  # prefixes of paths that need the token
# Of a body that is too large so much is read and dropped, as clients write all before they read.
_DROPPED_BODIES = 8


class Refused(Exception):
    """A request is answered with an error."""

    def __init__(self, status: int, message: str, **headers: str):
        super().__init__(message)
        self.status, self.headers = status, {k.replace("_", "-"): v for k, v in headers.items()}

    def response(self) -> JSONResponse:
        """Returns the response, {"error": one line}."""
        return ErrorLine({"error": printable(str(self))}, self.status, self.headers)


class ErrorLine(JSONResponse):
    """JSON in ASCII, as messages may quote what is no valid Unicode."""

    def render(self, content: Any) -> bytes:
        return json.dumps(content).encode()


class ClientGone(Exception):
    """The client has closed the connection; nobody reads a response."""


class Guard:
    """An ASGI application around another, `app`; its requests have bodies that are whole.

    Args:
      token: that clients of protected paths must send; "": none.
    """

    def __init__(self, app: Callable, service: Service, token: str):
        self._app, self._service, self._token = app, service, token
        self._paths = {"/health", "/ready", "/metrics", *service.endpoints}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":  # lifespan
            return await self._app(scope, receive, send)
        start, metrics = time.monotonic(), self._service.metrics
        path = scope["path"] if scope["path"] in self._paths else "other"
        status = 0

        async def counting(message: MutableMapping[str, Any]) -> None:
            nonlocal status
            status = message.get("status", status)
            if message["type"] == "http.response.start" and self._service.draining:
                # Otherwise the client's next request would come as the connection is closed.
                message["headers"] = [*message.get("headers", []), (b"connection", b"close")]
            await send(message)

        try:
            await self._refuse_or_pass(scope, receive, counting)
        except Refused as refused:
            await refused.response()(scope, receive, counting)
        except ClientGone:
            status = 499
        finally:
            metrics.requests.labels(path, status or 500).inc()
            metrics.request_seconds.labels(path).observe(time.monotonic() - start)

    async def _refuse_or_pass(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope["headers"])
        if self._token and scope["path"].startswith(PROTECTED):
            given = headers.get(b"authorization", b"")
            if not hmac.compare_digest(given, b"Bearer " + self._token.encode()):
                raise Refused(
                    401, "the bearer token is missing or wrong", www_authenticate="Bearer"
                )
        if scope["method"] != "POST" or scope["path"] not in self._service.endpoints:
            return await self._app(scope, receive, send)
        self._check_open(headers)
        self._service.in_flight += 1
        try:
            async with asyncio.timeout(self._service.config.timeout) as limit:
                body = await self._body(headers, receive)
                await self._work(scope, body, receive, send)
        except TimeoutError as error:
            if not limit.expired():
                raise
            seconds = self._service.config.timeout
            raise Refused(504, f"no result within {seconds:g} s; try again later") from error
        finally:
            self._service.in_flight -= 1

    def _check_open(self, headers: dict[bytes, bytes]) -> None:
        """Raises Refused unless the server takes requests, and such a one."""
        service = self._service
        if service.draining:
            raise Refused(503, "the server is about to end; send the request to another")
        if not service.ready:
            raise Refused(503, "programs are still being compiled; try again", retry_after="5")
        if service.in_flight >= service.config.max_requests:
            message = f"{service.in_flight} requests are in work; try again later"
            raise Refused(429, message, retry_after="1")
        content_type = headers.get(b"content-type", b"").decode("latin-1")
        if content_type.partition(";")[0].strip().lower() != "application/json":
            given = content_type[:80] or "missing"
            raise Refused(415, f"the content-type is {given}; send application/json")
        if headers.get(b"content-encoding", b"identity") != b"identity":
            raise Refused(415, "compressed bodies are not read; send plain JSON")

    async def _body(self, headers: dict[bytes, bytes], receive: Receive) -> bytes:
        """Returns the whole body of a request."""
        most, seconds = self._service.config.max_body, self._service.config.body_timeout
        too_large = Refused(413, f"the body has more than {most} bytes; send fewer images")
        declared = headers.get(b"content-length", b"0")
        if b"expect" in headers and declared.isdigit() and int(declared) > most:
            raise too_large  # the client has asked before it sends
        body, size, more = bytearray(), 0, True
        try:
            async with asyncio.timeout(seconds):
                while more and size <= most * _DROPPED_BODIES:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise ClientGone
                    part, more = message.get("body", b""), message.get("more_body", False)
                    size += len(part)
                    if size <= most:
                        body += part
                    else:
                        body.clear()
        except TimeoutError as error:
            raise Refused(408, f"the body did not come within {seconds:g} s") from error
        if size > most:
            raise too_large
        return bytes(body)

    async def _work(self, scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
        """Calls the application; cancels what it does if the client closes the connection."""
        whole = iter([{"type": "http.request", "body": body, "more_body": False}])

        async def replay() -> MutableMapping[str, Any]:
            return next(whole, None) or await asyncio.Future()  # no end before the response's

        work = asyncio.ensure_future(self._app(scope, replay, send))
        gone = asyncio.ensure_future(receive())
        try:
            await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                raise ClientGone
            work.result()
        finally:
            for task in (work, gone):
                task.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await work
