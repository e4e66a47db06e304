"""A network in use: parameters on the devices, tokenizer, programs, and batches through these.

B rows, T tokens.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from blip_jax.data.tokenizer import Tokenizer
from blip_jax.models import batching
from blip_jax.models.inputs import check_not_empty, encode
from blip_jax.nn import BlipConfig
from blip_jax.runtime.errors import UserError

# What each method needs, and in which model types it is.
USES = {
    "caption": ("writes captions", ("captioner", "pretrain")),
    "match": ("matches images and texts", ("retrieval", "pretrain")),
    "answer": ("answers questions", ("vqa",)),
    "verify": ("verifies statements about two images", ("nlvr",)),
    "encode": ("aligns images and texts", ("retrieval", "pretrain", "aligned")),
    "hidden_states": ("gives hidden states", ("features", "retrieval", "pretrain")),
}


class Base:
    """What all methods of a `Model` share.

    Attributes:
      params: nested dict of arrays, on every local device.
      config: frozen dataclass, of the network.
      model_type: what the checkpoint holds, one of `nn.MODEL_TYPES`.
      prompt: text that its captions begin with; "" for none.
      max_length: tokens of its training texts; longer ones are cut.
    """

    def __init__(
        self,
        params: dict[str, Any],
        config: BlipConfig,
        tokenizer: Tokenizer | str,
        *,
        model_type: str = "pretrain",
        prompt: str = "",
        max_length: int = 30,
    ):
        """`tokenizer`: or the folder or Hugging Face id of one, loaded when needed; "": unknown."""
        self.params = params
        self.config = config
        self.model_type = model_type
        self.prompt = prompt
        self.max_length = min(max_length, config.med.max_length)
        self._tokenizer = tokenizer
        self._programs: dict[tuple, Callable] = {}

    @functools.cached_property
    def tokenizer(self) -> Tokenizer:
        """Raises a UserError if it is not known, cannot be loaded, or is another model's."""
        given = self._tokenizer
        if given == "":
            raise UserError("the checkpoint does not name its tokenizer: give tokenizer=FOLDER")
        named = isinstance(given, str)
        found = Tokenizer.load(given) if named else given
        if found.ids.vocab_size != self.config.med.vocab_size:
            raise UserError(
                f"the tokenizer{f' {given}' if named else ''} has {found.ids.vocab_size} tokens, "
                f"the model {self.config.med.vocab_size}: give the model's own (tokenizer=FOLDER)"
            )
        return found

    @functools.cached_property
    def device_params(self) -> dict[str, Any]:
        """The parameters, whole on each local device; from then on `params` is the same."""
        self.params = replicate_to_local_devices(self.params)
        return self.params

    @property
    def image_size(self) -> int:
        """Pixels a side."""
        return self.config.vit.image_size

    def can(self, use: str) -> bool:
        """Whether this model type has what a method needs, one of USES."""
        return self.model_type in USES[use][1]

    def require(self, use: str) -> None:
        """Raises a UserError unless this model type `has` it."""
        does, model_types = USES[use]
        if not self.can(use):
            raise UserError(
                f"a {self.model_type} model is none that {does}; load one of model_type "
                f"{' or '.join(model_types)}"
            )

    def _program(self, build: Callable, *options: Any) -> Callable:
        """`build(self, *options)`, made once."""
        key = build, options
        if key not in self._programs:
            self._programs[key] = build(self, *options)
        return self._programs[key]

    def _run(self, program: Callable, images: list, arrays: Sequence, batch_size: int) -> list:
        """`program` over images and what goes with them; its results put together."""
        check_not_empty(images, "images")
        parts = []
        for rows, pixels in batching.image_batches(images, self.image_size, batch_size):
            at = np.minimum(np.arange(rows.start, rows.start + len(pixels)), len(images) - 1)
            leaves = jax.tree.leaves(program(pixels, *(array[at] for array in arrays)))
            parts.append([leaf[: rows.stop - rows.start] for leaf in leaves])
        return [np.concatenate(part) for part in zip(*parts, strict=True)]

    def _encode(self, texts: Sequence[str], clean: Callable | None) -> tuple:
        check_not_empty(texts, "texts")
        cleaned = [clean(text) for text in texts] if clean else list(texts)
        return encode(self.tokenizer, cleaned, self.max_length)


def replicate_to_local_devices(params: dict[str, Any]) -> dict[str, Any]:
    """Every array whole on each local device; nothing is copied that lies there already."""
    mesh = Mesh(np.array(jax.local_devices()), ("devices",))
    return jax.device_put(params, NamedSharding(mesh, PartitionSpec()))
