"""Test environment, set before anything imports jax: eight fake CPU devices, no downloads.

Variables and not `jax.config`, so that the processes a test starts inherit them. Such a process
gets another number of devices by `jax.config.update("jax_num_cpu_devices", n)`.
"""

import os
import pathlib

CACHE = pathlib.Path(__file__).parents[1] / ".cache" / "jax"
DEVICES = "--xla_force_host_platform_device_count"
# Tests compile much and compute little: a third of the time to compile, the same numbers.
QUICK = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"

os.environ["JAX_PLATFORMS"] = "cpu"
if DEVICES not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {DEVICES}=8 {QUICK}".strip()
# Threads of XLA's CPU pool. Each device runs several collectives at once, each holding a thread
# until its partners come: with only as many threads as cores or devices they wait for ever.
os.environ.setdefault("NPROC", "64")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
