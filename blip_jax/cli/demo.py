"""The verb `demo`: a web page on which models are tried."""

from blip_jax.cli import Parser
from blip_jax.cli.model_flags import add_model_flags, load_models
from blip_jax.runtime.extras import check_installed


def run(argv: list[str]) -> int:
    """Runs the web demo until a signal comes; see `demo.server.serve`.

    Raises:
      UserError: bad arguments, a model that cannot be loaded, or an address that cannot be had.
      Interrupted: a signal came; its status is 0 after SIGTERM.
    """
    parser = Parser(
        "demo",
        "Runs a web page on which models are tried: captions, matching, answers, attention, many "
        "images at once, and CapFilt's selection of texts. A tab is shown if a model can do it.",
    )
    add_model_flags(parser)
    add = parser.add_argument
    add("--host", default="127.0.0.1", help="0.0.0.0: reachable from other machines [127.0.0.1]")
    add("--port", type=int, default=7860, help="0: any that is free [7860]")
    args = parser.parse_args(argv)
    check_installed("demo", "gradio")

    from blip_jax.demo.server import serve
    from blip_jax.demo.work import Demo

    serve(Demo(load_models(args)), args.host, args.port)
    return 0
