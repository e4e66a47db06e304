"""The optimized program of a jitted function and its memory plan, without its machine code.

The TPU compiler optimizes the training step of ViT-B in half a CPU minute and then takes more than
twenty to turn it into machine code. All that is reported of a program is known before that: the
compiler writes it into files when it is asked to, and is ended once they are there.
"""

import multiprocessing
import os
import pathlib
import re
import tempfile
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

POLL_SECONDS = 0.2
# What the compiler writes, in this order.
TEXT = "*after_optimizations.txt"
ALLOCATIONS = "*after_optimizations-buffer-assignment.txt"
USAGE = "*after_optimizations-memory-usage-report.txt"
LAST = "*after_optimizations_after_buffer_assignment.txt"


class Optimized(NamedTuple):
    """What the compiler decided about a program; bytes are of one chip's HBM.

    Attributes:
      text: the optimized HLO.
      arguments_bytes: of the program's arguments.
      temporaries_bytes: what else is in use at some time.
      peak_bytes: the most that is in use at any time.
    """

    text: str
    arguments_bytes: int
    temporaries_bytes: int
    peak_bytes: int


def compile_whole(lowered: jax.stages.Lowered) -> Optimized:
    """Compiles a lowered function to the end; the peak includes its machine code."""
    executable = lowered.compile()
    memory = executable.memory_analysis()
    return Optimized(
        executable.as_text(),
        memory.argument_size_in_bytes,
        memory.temp_size_in_bytes,
        memory.peak_memory_in_bytes + memory.generated_code_size_in_bytes,
    )


def optimize(lowered: jax.stages.Lowered) -> Optimized:
    """Compiles a lowered function until its memory is planned; the peak is without machine code.

    The compiler goes on in a thread of this process, so call it by `in_child`.
    """
    done = []

    def compile() -> None:
        try:
            done.append(lowered.compile(compiler_options=options))
        except Exception as error:
            done.append(error)

    with tempfile.TemporaryDirectory(
        prefix="blip-jax-compile-", ignore_cleanup_errors=True
    ) as name:
        options = {"xla_dump_to": name, "xla_dump_hlo_as_text": True}
        threading.Thread(target=compile, daemon=True).start()
        folder = pathlib.Path(name)
        while not done and not any(folder.glob(LAST)):
            time.sleep(POLL_SECONDS)
        if done and isinstance(done[0], Exception):
            raise done[0]
        return read_plan(folder)


def read_plan(folder: pathlib.Path) -> Optimized:
    """Returns what the compiler wrote into `folder`."""

    def read(pattern: str) -> str:
        return next(folder.glob(pattern)).read_text("utf-8")

    sizes = re.findall(r"^allocation \d+: size (\d+), .*\bparameter \d", read(ALLOCATIONS), re.M)
    arguments = sum(map(int, sizes))
    peak = int(re.search(r"^Memory Space: default.*\nTotal bytes: (\d+)", read(USAGE), re.M)[1])
    return Optimized(read(TEXT), arguments, peak - arguments, peak)


def in_child(function: Callable, *arguments: Any) -> Any:
    """Returns function(*arguments), computed in a process that is ended when it is known.

    Raises: what the function raises.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send_result, args=(sender, function, arguments), daemon=True)
    process.start()
    sender.close()
    try:
        result, error = receiver.recv()
    except EOFError:
        process.join()
        raise RuntimeError(f"the compiler's process ended with {process.exitcode}") from None
    finally:
        process.kill()
        process.join()
    if error is not None:
        raise error
    return result


def _send_result(sender: Any, function: Callable, arguments: tuple) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        sender.send((function(*arguments), None))
    except Exception as error:
        sender.send((None, error))
    os._exit(0)  # the compiler's thread does not end by itself


def _end_with_parent() -> None:
    """Ends this process when its parent is killed."""
    multiprocessing.parent_process().join()
    os._exit(1)
