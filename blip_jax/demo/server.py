"""Runs the page until a signal comes; what visitors send is deleted then."""

import contextlib
import os
import socket
import tempfile
import time

from blip_jax.demo.uploads import MAX_UPLOAD
from blip_jax.demo.work import Demo
from blip_jax.runtime.errors import UserError
from blip_jax.runtime.signals import Interrupted, SignalHandler
from blip_jax.runtime.terminal import print_note

FONTS = ("system-ui", "sans-serif")  # of the visitor's system: nothing is fetched from other hosts
_MONOSPACE = ("ui-monospace", "monospace")
_POLL_SECONDS = 0.2


def serve(demo: Demo, host: str, port: int) -> None:
    """Serves the page.

    Raises:
      UserError: the address cannot be had.
      Interrupted: a signal came; its status is 0 after SIGTERM.
    """
    with tempfile.TemporaryDirectory(prefix="blip-jax-demo-") as folder:
        # Gradio reads these when it is imported.
        os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_TEMP_DIR": folder}
        import gradio as gr

        from blip_jax.demo.page import build
        from blip_jax.demo.views import CSS

        page = build(demo)
        theme = gr.themes.Default(font=list(FONTS), font_mono=list(_MONOSPACE))
        port = _checked(host, port)
        try:
            page.launch(
                server_name=host, server_port=port, share=False, inbrowser=False, quiet=True,
                prevent_thread_lock=True, show_error=False, footer_links=[], ssr_mode=False,
                pwa=False, mcp_server=False, enable_monitoring=False, run_history=False,
                max_file_size=MAX_UPLOAD, theme=theme, css=CSS, state_session_capacity=1000,
            )  # fmt: skip
        except OSError as error:
            raise _no_address(host, port, error) from error
        shown = f"[{host}]" if ":" in host else host
        print_note(f"blip-jax demo: on http://{shown}:{port}; Ctrl-C ends it")
        with SignalHandler() as signals:
            while not signals.requested:
                time.sleep(_POLL_SECONDS)
        with contextlib.redirect_stdout(None):
            page.close(verbose=False)
    raise Interrupted("ended", signals.number)


def _checked(host: str, port: int) -> int:
    """Returns the port, or for 0 a free one.

    Raises:
      UserError: the address cannot be had.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        with socket.create_server((host, port), family=family) as listener:
            return listener.getsockname()[1]
    except (OSError, OverflowError) as error:
        raise _no_address(host, port, error) from error


def _no_address(host: str, port: int, error: Exception) -> UserError:
    reason = getattr(error, "strerror", None) or str(error)
    return UserError(
        f"cannot listen on {host} port {port} ({reason.lower()}); choose another --host or --port"
    )
