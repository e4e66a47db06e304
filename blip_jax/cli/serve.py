"""The verb `serve`: serves models over HTTP."""

from blip_jax.cli import Parser
from blip_jax.cli.field_flags import add_field_flags, flags_in_messages, given_fields
from blip_jax.cli.model_flags import add_model_flags, load_models
from blip_jax.runtime.errors import UserError
from blip_jax.runtime.extras import check_installed
from blip_jax.serving.config import ServeConfig

LIBRARIES = ("fastapi", "fastapi_offline", "uvicorn", "prometheus_client", "httpx2")


def run(argv: list[str]) -> int:
    """Serves models until SIGTERM or Ctrl-C; see `serving.server.serve`.

    Raises:
      UserError: bad arguments, a model that cannot be loaded, or an address that cannot be had.
      Interrupted: the server has ended after a signal; its status is 0 after SIGTERM.
    """
    parser = Parser(
        "serve",
        "Serves models over HTTP: /v1/caption, /v1/match, /v1/answer and /v1/embed, each by the "
        "first model that is able. /docs describes them; /health, /ready and /metrics are for "
        "operation. SIGTERM ends it once accepted requests are answered.",
    )
    add_model_flags(parser)
    add_field_flags(parser, ServeConfig())
    args = parser.parse_args(argv)
    given = given_fields(args, ServeConfig)
    with flags_in_messages(given):
        config = ServeConfig(**given)
    token = _token(config.token_file)
    check_installed("serve", *LIBRARIES)

    from blip_jax.serving.server import serve
    from blip_jax.serving.service import Service

    serve(Service(load_models(args), config), token)
    return 0


def _token(path: str) -> str:
    """Returns the bearer token in a file; "" without a file."""
    if not path:
        return ""
    try:
        with open(path, encoding="ascii") as file:
            token = file.read().strip()
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "not ASCII"
        raise UserError(f"--token-file {path} cannot be read ({reason.lower()})") from error
    if not token or not token.isprintable() or " " in token:
        raise UserError(f"--token-file {path} holds no token; write one word into it")
    return token
