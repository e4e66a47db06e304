"""The routes of the server, and its errors as one line of JSON."""

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi_offline import FastAPIOffline
from starlette.exceptions import HTTPException
from starlette.responses import Response

import blip_jax
from blip_jax.data.images import ImageError
from blip_jax.runtime.errors import UserError
from blip_jax.serving.batcher import QueueFull
from blip_jax.serving.endpoints import ENDPOINTS, Endpoint
from blip_jax.serving.guard import Guard, Refused
from blip_jax.serving.requests import ErrorResponse
from blip_jax.serving.service import ModelFailed, Service

_ERRORS = {
    400: "not JSON", 401: "no token, or a wrong one", 408: "the body came too slowly",
    413: "the body is too large", 415: "not application/json", 422: "a wrong field or image",
    429: "too many requests", 503: "not ready, or about to end", 504: "no result in time",
}  # fmt: skip
_STATUS = {ImageError: 422, UserError: 422, ModelFailed: 500}


def create_app(service: Service, token: str = "") -> Guard:
    """Returns the ASGI application of a service.

    Args:
      token: the bearer token that clients must send; "": none.
    """
    api = FastAPIOffline(
        title="blip-jax",
        version=blip_jax.__version__,
        description="Captions, matches, answers and embeddings of images.",
    )
    for path, endpoint in service.endpoints.items():
        _add_endpoint(api, service, path, endpoint)
    _add_operation(api, service)
    _add_error_lines(api, service)
    return Guard(api, service, token)


def _add_endpoint(api: FastAPI, service: Service, path: str, endpoint: Endpoint) -> None:
    async def handle(request: Any) -> Any:
        return await service.answer(path, request)

    handle.__annotations__ = {"request": endpoint.Request, "return": endpoint.Response}
    errors = {
        status: {"model": ErrorResponse, "description": text} for status, text in _ERRORS.items()
    }
    summary = (type(endpoint).__doc__ or "").partition("\n")[0]
    api.post(path, name=endpoint.capability, description=summary, responses=errors)(handle)


def _add_operation(api: FastAPI, service: Service) -> None:
    """Adds what those who run the server ask for."""

    @api.get("/health")
    async def health() -> dict[str, str]:
        """Says that the process works; requests may not be taken yet."""
        return {"status": "ok"}

    @api.get("/ready", responses={503: {"model": ErrorResponse}})
    async def ready() -> dict[str, str]:
        """Says that requests are taken: programs are compiled, and the server is not ending."""
        if service.draining or not service.ready:
            raise Refused(503, "about to end" if service.draining else "compiling programs")
        return {"status": "ready"}

    @api.get("/metrics", response_class=Response)
    async def metrics() -> Response:
        """Gives metrics in Prometheus' text format."""
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4")


def _add_error_lines(api: FastAPI, service: Service) -> None:
    known = {kind.path: kind.capability for kind in ENDPOINTS}

    def handler(refusal: Callable[[Request, Any], Refused]) -> Callable[..., Awaitable[Response]]:
        async def handle(request: Request, error: Any) -> Response:
            return refusal(request, error).response()

        return handle

    def http(request: Request, error: HTTPException) -> Refused:
        path = request.url.path
        if error.status_code == 404 and path in known:
            return Refused(404, f"no model of this server can {known[path]}; see /docs")
        text = {
            400: "the body is not JSON in UTF-8, or nested too deep",
            404: "no such path; see /docs",
            405: f"{request.method} is not served here; see /docs",
        }
        return Refused(error.status_code, text.get(error.status_code, str(error.detail)))

    def one_line(request: Request, error: Exception) -> Refused:
        return Refused(_STATUS[type(error)], str(error))

    def full(request: Request, error: QueueFull) -> Refused:
        message = f"more than {service.config.max_queue} rows would wait; try again later"
        return Refused(429, message, retry_after="1")

    def failed(request: Request, error: Exception) -> Refused:
        return Refused(500, f"the server failed ({type(error).__name__}); see its log")

    api.add_exception_handler(HTTPException, handler(http))
    api.add_exception_handler(RequestValidationError, handler(_invalid))
    api.add_exception_handler(Refused, handler(lambda request, error: error))
    api.add_exception_handler(QueueFull, handler(full))
    for kind in _STATUS:
        api.add_exception_handler(kind, handler(one_line))
    api.add_exception_handler(Exception, handler(failed))


def _invalid(request: Request, error: RequestValidationError) -> Refused:
    """Returns the first error of a body: its field as `images[0]`, and what is wrong."""
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        return Refused(400, f"the body is not JSON ({first['ctx']['error']})")
    place = "".join(f"[{x}]" if isinstance(x, int) else f".{x}" for x in first["loc"][1:])
    message = first["msg"].removeprefix("Value error, ")
    more = f" (and {len(error.errors()) - 1} more)" if len(error.errors()) > 1 else ""
    return Refused(422, f"{place.lstrip('.')[:100] or 'the body'}: {message}{more}")
