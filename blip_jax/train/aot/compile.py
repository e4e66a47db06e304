"""Compiles the programs of a run ahead of time, for TPUs that need not exist.

Nothing is computed and no array is created: the compiler gets shapes, and its memory analysis and
the text of the compiled program are read.
"""

import dataclasses
import os
import re
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, SingleDeviceSharding

from blip_jax import nn
from blip_jax.data.tokenizer import TokenIds, Tokenizer
from blip_jax.decoding import Decoding
from blip_jax.models import Model, functions
from blip_jax.nn import flops
from blip_jax.runtime.config import replace
from blip_jax.train.aot import hlo, memory_traffic, optimized, topology
from blip_jax.train.aot.roofline import Roofline, roofline, update_bytes
from blip_jax.train.config import TrainConfig
from blip_jax.train.recipes import captioning, retrieval
from blip_jax.train.setup import TrainSetup, abstract_batch

GIB = 2**30
CAPFILT_IMAGES = 64  # in a CapFilt batch on one chip
CAPFILT_TEXTS_PER_IMAGE = 2  # that the filter scores


def load_tokenizer(name: str) -> Tokenizer | TokenIds:
    """Returns a tokenizer to compile with; for bert-base-uncased its ids, without a download."""
    if name.split("/")[-1] == "bert-base-uncased" and not os.path.isdir(name):
        return TokenIds()
    return Tokenizer.load(name)


@dataclasses.dataclass(frozen=True)
class CompiledCost:
    """What one run of a program needs; all but `batch_size` is per chip.

    Attributes:
      program: "step", "captioner" or "matcher".
      chips: number of chips that the program runs on.
      batch_size: pairs or images per run, over all these chips.
      remat: what the backward pass recomputes; of a step "auto" is replaced by what fits.
      arguments_bytes: HBM that is in use between steps.
      temporaries_bytes: HBM that is in use only during a step.
      peak_bytes: the most HBM in use at any time, the program's code included.
      flops: by formula (nn/flops.py).
      compiled_flops: of the matrix products in the compiled program.
      hbm_bytes_by_part: read from and written to HBM, by part of the program, most first.
      update_bytes: of `hbm_bytes`, what a step needs whatever its batch; see `update_bytes`.
      ici_bytes: received from other chips, by kind of collective.
      roofline: of `flops`, the bytes of HBM and `ici_bytes`, for this kind of chip.
    """

    program: str
    chips: int
    batch_size: int
    remat: str
    arguments_bytes: int
    temporaries_bytes: int
    peak_bytes: int
    flops: float
    compiled_flops: float
    hbm_bytes_by_part: dict[str, int]
    update_bytes: int
    ici_bytes: dict[str, int]
    roofline: Roofline

    @property
    def hbm_bytes(self) -> int:
        """Returns the bytes that are read from and written to HBM."""
        return sum(self.hbm_bytes_by_part.values())

    @property
    def images_per_second(self) -> float:
        """Returns the upper bound of images per second over all chips."""
        return self.batch_size / self.roofline.seconds


class OutOfMemory(Exception):
    """A program needs more memory than a chip has.

    Attributes:
      program: as in CompiledCost.
      peak_bytes: a lower bound of what it needs; nan if the compiler does not say.
    """

    def __init__(self, program: str, peak_bytes: float):
        super().__init__(program, peak_bytes)
        self.program, self.peak_bytes = program, peak_bytes


class Program(NamedTuple):
    """A jitted function and what is known of it.

    Attributes:
      jitted, arguments: the function and its arguments, as shapes with shardings.
      batch_size, flops: over all chips together; FLOPs by formula.
      update_bytes: see CompiledCost.
      default_trip_count: iterations of loops that end by a condition on data.
    """

    jitted: jax.stages.Wrapped
    arguments: tuple
    batch_size: int
    flops: int
    default_trip_count: int = 1
    update_bytes: int = 0


def step(config: TrainConfig, topology_name: str) -> Program:
    """Returns the step that `train` runs with this config, on all chips of the topology.

    Raises:
      UserError: the config does not fit the topology.
    """
    devices = topology.devices(topology_name)
    setup = TrainSetup(config, devices, load_tokenizer(config.tokenizer))
    batch = abstract_batch(setup.task, config.batch_size, setup.mesh)
    key = jax.eval_shape(lambda: jax.random.key(0))
    return Program(
        setup.functions.step,
        (setup.functions.state, batch, key),
        batch_size=config.batch_size,
        flops=setup.task.flops(config.batch_size),
        update_bytes=update_bytes(setup.functions.state),
    )


def captioner(config: TrainConfig, topology_name: str) -> Program:
    """Returns CapFilt's captioner with this config's network, on one chip."""
    model, decoding = abstract_model(fine_tuning_config(config, captioning())), Decoding()
    size, prompt_length = model.image_size, len(functions.prompt_tokens(model))
    key_shape = (CAPFILT_IMAGES, 1)
    inputs = (
        jax.ShapeDtypeStruct((CAPFILT_IMAGES, size, size, 3), np.uint8),
        jax.eval_shape(lambda: jax.random.split(jax.random.key(0), key_shape)),
        jax.eval_shape(lambda: decoding.params(CAPFILT_IMAGES)),
        jax.ShapeDtypeStruct((CAPFILT_IMAGES, prompt_length), np.int32),
    )
    return per_device(
        topology_name,
        functions.caption_function(model, decoding.shape(prompt_length)),
        model,
        inputs,
        flops.captioning(model.config, prompt_length, decoding.max_length),
        # The prefill of the prompt gives the first token, so it needs no iteration.
        default_trip_count=decoding.max_length - prompt_length - 1,
    )


def matcher(config: TrainConfig, topology_name: str) -> Program:
    """Returns CapFilt's filter with this config's network, on one chip."""
    config = fine_tuning_config(config, retrieval())
    model, length = abstract_model(config), config.task.max_length
    size, text_shape = model.image_size, (CAPFILT_IMAGES, CAPFILT_TEXTS_PER_IMAGE, length)
    inputs = (
        jax.ShapeDtypeStruct((CAPFILT_IMAGES, size, size, 3), np.uint8),
        jax.ShapeDtypeStruct(text_shape, np.int32),
        jax.ShapeDtypeStruct(text_shape, bool),
    )
    return per_device(
        topology_name,
        functions.match_function(model),
        model,
        inputs,
        flops.matching(model.config, length, CAPFILT_TEXTS_PER_IMAGE),
    )


PROGRAMS: dict[str, Callable[[TrainConfig, str], Program]] = {
    "step": step, "captioner": captioner, "matcher": matcher,
}  # fmt: skip


def fine_tuning_config(config: TrainConfig, recipe: TrainConfig) -> TrainConfig:
    """Returns `recipe` with the network of `config`; `config` itself if it trains that task.

    The image size is the recipe's if that of `config` is the default of pre-training.
    """
    if type(config.task) is type(recipe.task):
        return config
    model = config.model
    if model.vit.image_size == TrainConfig().model.vit.image_size:
        model = replace(model, **{"vit.image_size": recipe.model.vit.image_size})
    length = min(recipe.task.max_length, model.med.max_length)
    return replace(recipe, model=model, tokenizer=config.tokenizer, **{"task.max_length": length})


def abstract_model(config: TrainConfig) -> Model:
    """Returns the model that training with `config` produces, with shapes as parameters."""
    tokenizer, task = load_tokenizer(config.tokenizer), config.task
    model = replace(config.model, **{"med.vocab_size": tokenizer.ids.vocab_size})
    return Model(
        nn.param_shapes(model, task.model_type),
        model,
        tokenizer,
        model_type=task.model_type,
        prompt=task.lm.prompt if task.lm else "",
        max_length=task.max_length,
    )


def per_device(
    topology_name: str,
    function: functions.PmappedFunction,
    model: Model,
    inputs: tuple,
    flops_per_image: int,
    default_trip_count: int = 1,
) -> Program:
    """Returns what one chip runs of a pmapped function on CAPFILT_IMAGES images."""
    device = topology.devices(topology_name)[0]
    sharding = SingleDeviceSharding(device)
    mesh = Mesh(np.array([device]), "x").abstract_mesh

    def on_chip(*inputs):
        with jax.sharding.use_abstract_mesh(mesh):
            return function.per_device(*inputs)

    arguments = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
        (model.params, (), inputs),
    )
    return Program(
        jax.jit(on_chip, out_shardings=sharding),
        arguments,
        batch_size=CAPFILT_IMAGES,
        flops=CAPFILT_IMAGES * flops_per_image,
        default_trip_count=default_trip_count,
    )


def compile_program(
    name: str, config: TrainConfig, topology_name: str, machine_code: bool = True
) -> CompiledCost:
    """Compiles one of PROGRAMS and returns what it needs.

    Args:
      machine_code: False: only optimize the program and plan its memory; see `optimized.optimize`.

    Raises:
      UserError: the config does not fit the topology.
      OutOfMemory: the program needs more memory than a chip has.
    """
    if name == "step" and config.model.remat == "auto":
        try:
            config = replace(config, **{"model.remat": "dots"})
            return compile_program(name, config, topology_name, machine_code)
        except OutOfMemory:
            config = replace(config, **{"model.remat": "full"})
    chip, _ = topology.parse(topology_name)
    program = PROGRAMS[name](config, topology_name)
    lowered = program.jitted.trace(*program.arguments).lower(lowering_platforms=("tpu",))
    try:
        found = (optimized.compile_whole if machine_code else optimized.optimize)(lowered)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise OutOfMemory(name, required_bytes(str(error))) from error
    if found.peak_bytes > chip.hbm_gib * GIB:
        raise OutOfMemory(name, found.peak_bytes)
    module = hlo.HloModule(found.text)
    ici_bytes = module.collectives(program.default_trip_count)
    hbm_bytes_by_part = memory_traffic.hbm_bytes_by_part(module, program.default_trip_count)
    hbm_bytes = sum(hbm_bytes_by_part.values())
    flops_per_chip = program.flops / module.partitions
    return CompiledCost(
        program=name,
        chips=module.partitions,
        batch_size=program.batch_size,
        remat=config.model.remat,
        arguments_bytes=found.arguments_bytes,
        temporaries_bytes=found.temporaries_bytes,
        peak_bytes=found.peak_bytes,
        flops=flops_per_chip,
        compiled_flops=memory_traffic.matrix_flops(module, program.default_trip_count),
        hbm_bytes_by_part=hbm_bytes_by_part,
        update_bytes=program.update_bytes,
        ici_bytes=ici_bytes,
        roofline=roofline(chip, flops_per_chip, hbm_bytes, sum(ici_bytes.values())),
    )


def required_bytes(message: str) -> float:
    """Returns the bytes that an out-of-memory message of the compiler names; nan if none.

    The compiler has two such messages. The one about HLO temporaries counts these alone, which is
    less than what the program needs.
    """
    match = re.search(r"(?:Used |HLO temporaries \()([\d.]+)([KMGT])", message)
    if not match:
        return float("nan")
    return float(match[1]) * 2 ** {"K": 10, "M": 20, "G": 30, "T": 40}[match[2]]
