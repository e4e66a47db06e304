"""The programs of a run, compiled ahead of time for TPUs that are not there.

Nothing is computed and no array is made: shapes go in, and what the compiler says comes out.
"""

import dataclasses
import os
import re
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import SingleDeviceSharding

from blip_jax import nn
from blip_jax.data.tokenizer import TokenIds, Tokenizer
from blip_jax.decoding import Decoding
from blip_jax.models import Model, functions
from blip_jax.nn import flops
from blip_jax.runtime.config import replace
from blip_jax.train.aot import hlo, memory_traffic, topology
from blip_jax.train.aot.roofline import Roofline, roofline
from blip_jax.train.config import TrainConfig, captioning, retrieval
from blip_jax.train.mesh import batch_sharding
from blip_jax.train.setup import TrainSetup

GIB = 2**30
IMAGES, TEXTS = 64, 2  # of a CapFilt batch on one chip: images, and texts scored for each


def vocabulary(name: str) -> Tokenizer | TokenIds:
    """Returns a tokenizer to compile with; bert-base-uncased is not downloaded for it."""
    if name.split("/")[-1] == "bert-base-uncased" and not os.path.isdir(name):
        return TokenIds()
    return Tokenizer.load(name)


@dataclasses.dataclass(frozen=True)
class CompiledCost:
    """What a program needs of one chip.

    Attributes:
      program: "step", "captioner" or "matcher".
      chips: that it runs on together.
      batch: pairs or images of all these chips, each time.
      arguments, temporaries, peak: bytes of HBM. Arguments are what lies there between steps;
        peak is the most at any time, the program itself included.
      flops: by formula (nn/flops.py); compiled: of the products in the compiled program.
      hbm: bytes to and from HBM.
      ici: bytes received from other chips, by kind of collective.
      roofline: of these, for its chip.
    """

    program: str
    chips: int
    batch: int
    arguments: int
    temporaries: int
    peak: int
    flops: float
    compiled: float
    hbm: int
    ici: dict[str, int]
    roofline: Roofline

    @property
    def rate(self) -> float:
        """Images a second over all chips, at best."""
        return self.batch / self.roofline.seconds


class OutOfMemory(Exception):
    """A program needs more memory than a chip has.

    Attributes:
      peak: bytes that it would need at least; nan where the compiler does not say.
    """

    def __init__(self, program: str, peak: float):
        super().__init__(program, peak)
        self.program, self.peak = program, peak


def step(config: TrainConfig, where: str) -> CompiledCost:
    """The step that `train` runs with this config, for all chips of the topology `where`.

    Raises:
      UserError: the config does not go with the topology.
      OutOfMemory: it needs more memory than a chip has.
    """
    setup = TrainSetup(config, topology.devices(where), vocabulary(config.tokenizer))
    placed = batch_sharding(setup.mesh)
    batch = {
        name: jax.ShapeDtypeStruct(spec.shape, spec.dtype, sharding=placed)
        for name, spec in setup.task.batch_spec(config.batch_size).items()
    }
    arguments = setup.functions.state, batch, jax.eval_shape(lambda: jax.random.key(0))
    total = setup.task.flops(config.batch_size)
    return compiled("step", where, setup.functions.step, arguments, config.batch_size, total)


def captioner(config: TrainConfig, where: str) -> CompiledCost:
    """CapFilt's captioner with this config's network, for one chip; as `step`."""
    config = fine_tuned(config, captioning())
    model, options = abstract(config), Decoding()
    size, prompt = model.image_size, len(functions.prompt_tokens(model))
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), (IMAGES, 1)))
    params = jax.eval_shape(lambda: options.params(IMAGES))
    inputs = (
        jax.ShapeDtypeStruct((IMAGES, size, size, 3), np.uint8),
        keys,
        params,
        jax.ShapeDtypeStruct((IMAGES, prompt), np.int32),
    )
    total = IMAGES * flops.captioning(model.config, prompt, options.max_length)
    turns = options.max_length - prompt - 1  # the prompt's prefill gives the first token
    write = functions.caption_function(model, options.shape(prompt))
    return mapped("captioner", where, write, model, inputs, total, turns)


def matcher(config: TrainConfig, where: str) -> CompiledCost:
    """CapFilt's filter with this config's network, for one chip; as `step`."""
    config = fine_tuned(config, retrieval())
    model = abstract(config)
    size, shape = model.image_size, (IMAGES, TEXTS, config.task.max_length)
    inputs = (
        jax.ShapeDtypeStruct((IMAGES, size, size, 3), np.uint8),
        jax.ShapeDtypeStruct(shape, np.int32),
        jax.ShapeDtypeStruct(shape, bool),
    )
    total = IMAGES * flops.matching(model.config, config.task.max_length, TEXTS)
    return mapped("matcher", where, functions.match_function(model), model, inputs, total)


PROGRAMS: dict[str, Callable[[TrainConfig, str], CompiledCost]] = {
    "step": step, "captioner": captioner, "matcher": matcher,
}  # fmt: skip


def fine_tuned(config: TrainConfig, recipe: TrainConfig) -> TrainConfig:
    """`recipe` with the network of `config`, or `config` itself if it trains the recipe's task.

    Images have the recipe's size if those of `config` have pre-training's.
    """
    if type(config.task) is type(recipe.task):
        return config
    model = config.model
    if model.vit.image_size == TrainConfig().model.vit.image_size:
        model = replace(model, **{"vit.image_size": recipe.model.vit.image_size})
    length = min(recipe.task.max_length, model.med.max_length)
    return replace(recipe, model=model, tokenizer=config.tokenizer, **{"task.max_length": length})


def abstract(config: TrainConfig) -> Model:
    """The model that a training of `config` leaves, as shapes."""
    tokenizer, task = vocabulary(config.tokenizer), config.task
    model = replace(config.model, **{"med.vocab_size": tokenizer.ids.vocab_size})
    return Model(
        nn.param_shapes(model, task.model_type),
        model,
        tokenizer,
        model_type=task.model_type,
        prompt=task.lm.prompt if task.lm else "",
        max_length=task.max_length,
    )


def mapped(
    name: str,
    where: str,
    program: functions.PmappedFunction,
    model: Model,
    inputs: tuple,
    flops: int,
    *turns,
) -> CompiledCost:
    """`compiled` of what one chip runs of a mapped program."""
    chip = SingleDeviceSharding(topology.devices(where)[0])
    place = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=chip)  # noqa: E731
    arguments = jax.tree.map(place, (model.params, (), inputs))
    jitted = jax.jit(program.per_device, out_shardings=chip)
    return compiled(name, where, jitted, arguments, IMAGES, flops, *turns)


def compiled(
    name: str, where: str, jitted: Any, arguments: tuple, batch: int, flops: int, turns: int = 1
) -> CompiledCost:
    """Compiles and reads the result.

    Args:
      jitted: a jitted function, and its arguments as shapes with shardings.
      flops: by formula, of all chips together.
      turns: of a loop that ends by what it finds.

    Raises:
      OutOfMemory: the compiler cannot place it.
    """
    chip, _ = topology.parse(where)
    lowered = jitted.trace(*arguments).lower(lowering_platforms=("tpu",))
    try:
        executable = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise OutOfMemory(name, needed(str(error))) from error
    memory = executable.memory_analysis()
    peak = memory.peak_memory_in_bytes + memory.generated_code_size_in_bytes
    if peak > chip.hbm * GIB:
        raise OutOfMemory(name, peak)
    program = hlo.HloModule(executable.as_text())
    ici, moved = program.collectives(turns), memory_traffic.hbm_bytes(program, turns)
    chips = program.partitions
    flops_a_chip = flops / chips
    return CompiledCost(
        program=name,
        chips=chips,
        batch=batch,
        arguments=memory.argument_size_in_bytes,
        temporaries=memory.temp_size_in_bytes,
        peak=peak,
        flops=flops_a_chip,
        compiled=memory_traffic.matrix_flops(program, turns),
        hbm=moved,
        ici=ici,
        roofline=roofline(chip, flops_a_chip, moved, sum(ici.values())),
    )


def needed(message: str) -> float:
    """Bytes that the compiler found no room for, as it says in one of two ways; nan: neither.

    The second counts temporaries alone, and so is less than what the program needs.
    """
    found = re.search(r"(?:Used |HLO temporaries \()([\d.]+)([KMGT])", message)
    if not found:
        return float("nan")
    return float(found[1]) * 2 ** {"K": 10, "M": 20, "G": 30, "T": 40}[found[2]]
