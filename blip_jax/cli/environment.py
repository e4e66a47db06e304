"""What the command line sets for the process: threads, messages of libraries, compiled programs."""

import logging
import os
import pathlib
import re
import sys
import warnings
from typing import Any

CACHE = "BLIP_JAX_CACHE"  # environment variable: the folder of compiled programs; "" is none
FAKE_DEVICES = re.compile(r"--xla_force_host_platform_device_count=(\d+)")


def use_one_blas_thread() -> None:
    """Makes NumPy compute matrix products in the thread that asks for them.

    Data work has a process for each core, and XLA threads of its own. OpenBLAS's would wait in a
    loop: 0.2 s of CPU time at the start of every process, and a tenth of an import. Sets an
    environment variable unless it is set, so it must come before NumPy is imported.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def silence_libraries() -> None:
    """Hides what libraries say below an error; the environment is for XLA and TensorFlow."""
    from absl import logging as absl_logging

    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    absl_logging.set_verbosity(absl_logging.ERROR)
    # Orbax logs an error in each of its threads and for each array, besides raising it.
    logging.getLogger("absl").addFilter(_is_not_of_orbax)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    sys.unraisablehook = _report_unraisable
    warnings.filterwarnings("ignore", module=r"(?!blip_jax)")


def _is_not_of_orbax(record: logging.LogRecord) -> bool:
    return f"{os.sep}orbax{os.sep}" not in record.pathname


def _report_unraisable(found: Any) -> None:
    # TensorStore's threads end behind the event loop of a save that has failed.
    if str(found.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(found)


def disable_tfds_progress() -> None:
    """Hides the progress bars of tensorflow-datasets."""
    import tensorflow_datasets as tfds

    tfds.disable_progress_bar()


def cache_compiled_programs() -> None:
    """Makes JAX keep compiled programs in $BLIP_JAX_CACHE, or else in ~/.cache/blip_jax.

    Sets environment variables, so it must come before JAX is imported. Several CPU devices keep
    nothing: programs from the cache run their collectives in another order on each device, and
    the devices now and then wait for each other forever.
    """
    fake = FAKE_DEVICES.search(os.environ.get("XLA_FLAGS", ""))
    devices = int(fake[1]) if fake else int(os.environ.get("JAX_NUM_CPU_DEVICES", 1))
    folder = os.environ.get(CACHE, str(pathlib.Path.home() / ".cache" / "blip_jax"))
    if devices == 1 and folder:
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", folder)


def keep_no_programs_of_several_cpus() -> None:
    """Turns the cache off where several processes compute on CPUs; see above."""
    import jax

    if jax.process_count() > 1 and jax.default_backend() == "cpu":
        jax.config.update("jax_enable_compilation_cache", False)
