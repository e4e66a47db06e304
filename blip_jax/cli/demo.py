"""The verb `demo`: a web page on which models are tried."""

import importlib.util

from blip_jax.cli import Parser
from blip_jax.runtime.errors import UserError


def run(argv: list[str]) -> int:
    """Runs the web demo until a signal comes; see `demo.server.serve`.

    Raises:
      UserError: bad arguments, a model that cannot be loaded, or an address that cannot be had.
      Interrupted: a signal came; its status is 0 after SIGTERM.
    """
    parser = Parser(
        "demo",
        "Runs a web page on which models are tried: captions, matching, answers, attention, many "
        "images at once, and CapFilt's selection of texts. A tab needs a model that is able.",
    )
    add = parser.add_argument
    add("--model", action="append", required=True,
        help="workdir, .pth, Hugging Face folder or id; may be given several times")  # fmt: skip
    add("--dtype", choices=("float32", "bfloat16"), default="float32", help="[float32]")
    add("--host", default="127.0.0.1", help="0.0.0.0: reachable from other machines [127.0.0.1]")
    add("--port", type=int, default=7860, help="0: any that is free [7860]")
    args = parser.parse_args(argv)
    if importlib.util.find_spec("gradio") is None:
        raise UserError('demo needs gradio; run: pip install -e ".[demo]"')

    from blip_jax import models
    from blip_jax.demo.server import serve
    from blip_jax.demo.work import Demo

    demo = Demo([models.load(name, dtype=args.dtype) for name in args.model])
    serve(demo, args.host, args.port)
    return 0
