"""The verb `serve`: serves models over HTTP."""

import importlib.util

from blip_jax.cli import Parser
from blip_jax.cli.field_flags import add_field_flags, flags_in_messages, given_fields
from blip_jax.runtime.errors import UserError
from blip_jax.serving.config import ServeConfig

LIBRARIES = ("fastapi", "uvicorn", "prometheus_client", "httpx2")


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
    add = parser.add_argument
    add("--model", action="append", required=True,
        help="workdir, .pth, Hugging Face folder or id; may be given several times")  # fmt: skip
    add("--dtype", choices=("float32", "bfloat16"), default="float32", help="[float32]")
    add("--tokenizer", help="folder or Hugging Face id [the checkpoint's]")
    add_field_flags(parser, ServeConfig())
    args = parser.parse_args(argv)
    given = given_fields(args, ServeConfig)
    with flags_in_messages(given):
        config = ServeConfig(**given)
    token = _token(config.token_file)
    missing = [name for name in LIBRARIES if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f'serve needs {", ".join(missing)}; run: pip install -e ".[serve]"')

    from blip_jax import models
    from blip_jax.serving.server import serve
    from blip_jax.serving.service import Service

    loaded = [models.load(name, dtype=args.dtype, tokenizer=args.tokenizer) for name in args.model]
    serve(Service(loaded, config), token)
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
