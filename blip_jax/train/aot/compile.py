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
from ml_collections import ConfigDict

from blip_jax import nn
from blip_jax.data.tokenizer import Tokenizer
from blip_jax.decoding import Decoding
from blip_jax.models import Model, functions
from blip_jax.nn import flops
from blip_jax.tasks import MODEL_TYPES
from blip_jax.train import config as run_config
from blip_jax.train.aot import hlo, memory_traffic, topology
from blip_jax.train.loop import Run
from blip_jax.train.mesh import batch_sharding

GIB = 2**30
IMAGES, TEXTS = 64, 2  # of a CapFilt batch on one chip: images, and texts scored for each


class Vocabulary:
    """bert-base-uncased's ids, which are all that a program knows of a tokenizer."""

    pad, cls, sep, dec, enc, vocab_size = 0, 101, 102, 30522, 30523, 30524

    def prompt(self, text: str) -> np.ndarray:
        """int32 [P]: a token a word, as which BLIP's prompts are written."""
        return np.array([self.dec, *(self.cls for _ in text.split())], np.int32)


def vocabulary(name: str) -> Tokenizer | Vocabulary:
    """A tokenizer to compile with: bert-base-uncased is not downloaded for it."""
    if name.split("/")[-1] == "bert-base-uncased" and not os.path.isdir(name):
        return Vocabulary()
    return Tokenizer.load(name)


@dataclasses.dataclass(frozen=True)
class Found:
    """What a program needs of one chip.

    Attributes:
      program: "step", "captioner" or "matcher".
      chips: that it runs on together.
      batch: pairs or images of all these chips, each time.
      arguments, temporaries, peak: bytes of HBM. Arguments are what lies there between steps;
        peak is the most at any time, the program itself included.
      flops: by formula (`cost`); compiled: of the products in the compiled program.
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
    roofline: flops.Roofline

    @property
    def rate(self) -> float:
        """Images a second over all chips, at best."""
        return self.batch / self.roofline.seconds


class DoesNotFit(Exception):
    """A program needs more memory than a chip has.

    Attributes:
      peak: bytes that it would need at least; nan where the compiler does not say.
    """

    def __init__(self, program: str, peak: float):
        super().__init__(program, peak)
        self.program, self.peak = program, peak


def step(config: ConfigDict, where: str) -> Found:
    """The step that `train` runs with this config, for all chips of the topology `where`.

    Raises:
      UserError: the config does not go with the topology.
      DoesNotFit: it needs more memory than a chip has.
    """
    run = Run(config, topology.devices(where), vocabulary(config.tokenizer))
    size, length, batch = run.model.vit.image_size, config.max_length, config.batch_size
    shapes = {
        "image": ((batch, size, size, 3), np.uint8),
        "ids": ((batch, length), np.int32),
        "mask": ((batch, length), bool),
        "valid": ((batch,), bool),
        "group": ((batch,), np.int32),
        "text_group": ((batch,), np.int32),
    }
    placed = batch_sharding(run.mesh)
    inputs = {name: jax.ShapeDtypeStruct(*shape, sharding=placed) for name, shape in shapes.items()}
    key = jax.eval_shape(lambda: jax.random.key(0))
    program = run.program
    total = flops.step(run.model, program.task.objectives, batch, length)
    return compiled("step", where, program.step, (program.shapes, inputs, key), batch, total)


def captioner(config: ConfigDict, where: str) -> Found:
    """CapFilt's captioner with this config's network, for one chip; as `step`."""
    config = fine_tuned(config, "captioner")
    model, options = abstract(config), Decoding()
    size, prompt = model.image_size, len(functions.prompt_tokens(model))
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), (IMAGES, 1)))
    inputs = (
        jax.ShapeDtypeStruct((IMAGES, size, size, 3), np.uint8),
        keys,
        jax.ShapeDtypeStruct((IMAGES, prompt), np.int32),
    )
    total = IMAGES * flops.captioning(model.config, prompt, options.max_length)
    turns = options.max_length - prompt - 1  # the first token behind the prompt comes with it
    write = functions.writer(model, options)
    return mapped("captioner", where, write, model, inputs, total, turns)


def matcher(config: ConfigDict, where: str) -> Found:
    """CapFilt's filter with this config's network, for one chip; as `step`."""
    config = fine_tuned(config, "filter")
    model = abstract(config)
    size, shape = model.image_size, (IMAGES, TEXTS, config.max_length)
    inputs = (
        jax.ShapeDtypeStruct((IMAGES, size, size, 3), np.uint8),
        jax.ShapeDtypeStruct(shape, np.int32),
        jax.ShapeDtypeStruct(shape, bool),
    )
    total = IMAGES * flops.matching(model.config, config.max_length, TEXTS)
    return mapped("matcher", where, functions.match_function(model), model, inputs, total)


PROGRAMS: dict[str, Callable[[ConfigDict, str], Found]] = {
    "step": step, "captioner": captioner, "matcher": matcher,
}  # fmt: skip


def fine_tuned(config: ConfigDict, task: str) -> ConfigDict:
    """The recipe of `task` with the network of `config`, or that itself where it is the task's.

    Images have the recipe's size, unless the network of `config` differs from its preset's.
    """
    if config.task == task:
        return config
    recipe = run_config.defaults(task).unlock()
    theirs, ours = run_config.changes(recipe), run_config.changes(config)
    vit = {**theirs.get("vit", {}), **ours.get("vit", {})}
    recipe.model.changes = {**theirs, **ours, "vit": vit}
    recipe.model.preset, recipe.tokenizer = config.model.preset, config.tokenizer
    positions = run_config.model_config(recipe, Vocabulary.vocab_size).med.max_length
    recipe.max_length = min(recipe.max_length, positions)
    return recipe


def abstract(config: ConfigDict) -> Model:
    """The model that a training of `config` leaves, as shapes."""
    tokenizer = vocabulary(config.tokenizer)
    model, model_type = (
        run_config.model_config(config, tokenizer.vocab_size),
        MODEL_TYPES[config.task],
    )
    params = nn.param_shapes(model, model_type)
    options = {"model_type": model_type, "prompt": config.prompt, "max_length": config.max_length}
    return Model(params, model, tokenizer, **options)


def mapped(
    name: str,
    where: str,
    program: functions.PmappedFunction,
    model: Model,
    inputs: tuple,
    flops: int,
    *turns,
) -> Found:
    """`compiled` of what one chip runs of a mapped program."""
    chip = SingleDeviceSharding(topology.devices(where)[0])
    place = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=chip)  # noqa: E731
    arguments = jax.tree.map(place, (model.params, inputs))
    jitted = jax.jit(program.per_device, out_shardings=chip)
    return compiled(name, where, jitted, arguments, IMAGES, flops, *turns)


def compiled(
    name: str, where: str, jitted: Any, arguments: tuple, batch: int, flops: int, turns: int = 1
) -> Found:
    """Compiles and reads the result.

    Args:
      jitted: a jitted function, and its arguments as shapes with shardings.
      flops: by formula, of all chips together.
      turns: of a loop that ends by what it finds.

    Raises:
      DoesNotFit: the compiler cannot place it.
    """
    chip, _ = topology.parse(where)
    lowered = jitted.trace(*arguments).lower(lowering_platforms=("tpu",))
    try:
        executable = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise DoesNotFit(name, needed(str(error))) from error
    memory = executable.memory_analysis()
    peak = memory.peak_memory_in_bytes + memory.generated_code_size_in_bytes
    if peak > chip.hbm * GIB:
        raise DoesNotFit(name, peak)
    program = hlo.HloModule(executable.as_text())
    ici, moved = program.collectives(turns), memory_traffic.hbm_bytes(program, turns)
    chips = program.partitions
    flops_a_chip = flops / chips
    return Found(
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
        roofline=flops.roofline(chip, flops_a_chip, moved, sum(ici.values())),
    )


def needed(message: str) -> float:
    """Bytes that the compiler found no room for, as it says in one of two ways; nan: neither.

    The second counts temporaries alone, and so is less than what the program needs.
    """
    found = re.search(r"(?:Used |HLO temporaries \()([\d.]+)([KMGT])", message)
    if not found:
        return float("nan")
    return float(found[1]) * 2 ** {"K": 10, "M": 20, "G": 30, "T": 40}[found[2]]
