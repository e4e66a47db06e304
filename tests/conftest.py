"""Test environment, set before anything imports jax: eight fake CPU devices, no downloads.

Variables and not `jax.config`, so that the processes a test starts inherit them. Such a process
gets another number of devices by `jax.config.update("jax_num_cpu_devices", n)`.
"""

import functools
import importlib.metadata
import os
import pathlib

import pytest

DEVICES = "--xla_force_host_platform_device_count"
# Tests compile much and compute little: a fraction of the time to compile, the same numbers.
QUICK = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
# A process whose XLA does not know a flag ends; this one is gone in jaxlib 0.12.
if importlib.metadata.version("jaxlib").startswith("0.10."):
    QUICK += " --xla_cpu_use_fusion_emitters=false"

os.environ["JAX_PLATFORMS"] = "cpu"
if DEVICES not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {DEVICES}=8 {QUICK}".strip()
# Threads of XLA's CPU pool. Each device runs several collectives at once, each holding a thread
# until its partners come: with only as many threads as cores or devices they wait for ever.
os.environ.setdefault("NPROC", "64")
# Programs that come out of JAX's compilation cache run collectives of several CPU devices in an
# order of each device's own, and then now and then wait for each other for ever.
os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "0"
os.environ.setdefault("HF_HUB_OFFLINE", "1")


SLOW_TESTS = pathlib.Path(__file__).with_name("slow_tests.txt")  # see slow_tests.py


def pytest_collection_modifyitems(items):
    slow = set(SLOW_TESTS.read_text().splitlines())
    for item in items:
        if item.nodeid in slow:
            item.add_marker("slow")


def pytest_addoption(parser):
    parser.addoption("--full", action="store_true", help="slow checks at their full size")


@pytest.fixture(scope="session")
def full(request) -> bool:
    """Whether slow checks run at their full size."""
    return request.config.getoption("--full")


@pytest.fixture(scope="module", autouse=True)
def compiled():
    """Lets go of a module's programs behind it: they would pile up to gigabytes."""
    yield
    import jax  # not above: the variables come first

    jax.clear_caches()


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """The tiny datasets and their tokenizer: `tiny_dataset.build` in a folder of the module."""
    import tiny_dataset  # not above: it imports jax

    return tiny_dataset.build(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def model(world):
    """A function that returns a tiny model of a type, the same one at each call."""
    import tiny_dataset

    return functools.cache(
        lambda model_type, seed=2: tiny_dataset.trained(world, seed, "", model_type)
    )
