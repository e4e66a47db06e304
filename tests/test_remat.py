"""The choice of what a training recomputes in its backward pass (`model.remat=auto`)."""

import types

import jax
import pytest

from blip_jax import nn
from blip_jax.data.tokenizer import TokenIds
from blip_jax.runtime.config import replace
from blip_jax.tasks.captioning import CaptioningConfig
from blip_jax.train.config import TrainConfig
from blip_jax.train.remat import resolve_remat
from blip_jax.train.setup import TrainSetup

AUTO = nn.preset("tiny")


def accelerator(bytes_limit: int | None):
    stats = None if bytes_limit is None else {"bytes_limit": bytes_limit}
    return types.SimpleNamespace(platform="gpu", memory_stats=lambda: stats)


def compiled(model: nn.BlipConfig):
    """Stands for a compiled step that needs 1,000 bytes, and 100 of program."""
    assert model == replace(AUTO, remat="dots")
    memory = types.SimpleNamespace(peak_memory_in_bytes=1000, generated_code_size_in_bytes=100)
    return types.SimpleNamespace(memory_analysis=lambda: memory)


def not_called(model):
    raise AssertionError("compiled without need")


@pytest.mark.parametrize("bytes_limit, remat", [(1099, "full"), (1100, "dots"), (None, "dots")])
def test_products_are_kept_where_they_fit(bytes_limit, remat):
    assert resolve_remat(AUTO, accelerator(bytes_limit), compiled) == replace(AUTO, remat=remat)


def test_a_compiler_without_memory_is_no_error():
    def out_of_memory(model):
        raise jax.errors.JaxRuntimeError(
            "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm."
        )

    assert resolve_remat(AUTO, accelerator(2000), out_of_memory).remat == "full"


def test_other_errors_of_the_compiler_are_raised():
    def fails(model):
        raise jax.errors.JaxRuntimeError("INTERNAL: Mosaic failed to compile TPU kernel")

    with pytest.raises(jax.errors.JaxRuntimeError, match="Mosaic"):
        resolve_remat(AUTO, accelerator(2000), fails)


def test_cpus_keep_products_and_compile_nothing():
    assert resolve_remat(AUTO, jax.devices("cpu")[0], not_called).remat == "dots"


@pytest.mark.parametrize("remat", ["none", "dots", "full"])
def test_a_named_policy_stays(remat):
    model = replace(AUTO, remat=remat)
    assert resolve_remat(model, accelerator(1), not_called) is model


def test_the_step_of_a_training_is_what_has_to_fit():
    config = TrainConfig(task=CaptioningConfig(max_length=16), model=AUTO, batch_size=8)
    setup = TrainSetup(config, tokenizer=TokenIds())
    assert setup.config.model.remat == setup.task.model.remat == "dots"
    model = replace(setup.config.model, remat="auto")
    memory = setup.compile_step(setup.config.model).memory_analysis()
    needed = memory.peak_memory_in_bytes + memory.generated_code_size_in_bytes
    for limit, remat in ((needed, "dots"), (needed - 1, "full")):
        assert resolve_remat(model, accelerator(limit), setup.compile_step).remat == remat
