"""A network in use: parameters on the devices, tokenizer, mapped functions, batches through these.

B rows, T tokens.
"""

import contextlib
import functools
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from blip_jax import nn
from blip_jax.checkpoints import Checkpoint, hub
from blip_jax.checkpoints.training_data import TrainingDataset
from blip_jax.data.tokenizer import TokenIds, Tokenizer
from blip_jax.models import batching
from blip_jax.models.inputs import check_not_empty, encode_bucketed
from blip_jax.nn import BlipConfig
from blip_jax.runtime.arguments import check_arguments, check_methods
from blip_jax.runtime.errors import DIVERGED, UserError
from blip_jax.runtime.suggestions import hint

MAX_FUNCTIONS = 64  # number of compiled functions that a model keeps
SLOW_COMPILE_SECONDS = 1.5  # after this time a line says what is being compiled


class Base:
    """What all methods of a `Model` share.

    Attributes:
      params: nested dict of arrays, on every local device.
      config: frozen dataclass, of the network.
      model_type: what the checkpoint holds, one of `nn.MODEL_TYPES`.
      prompt: text that its captions begin with; "" for none.
      max_length: tokens of its training texts; longer ones are cut.
      name: for messages: where it was loaded from; "" if it was not.
      trained_on: datasets that it was trained on; None: unknown.
    """

    def __init_subclass__(cls) -> None:
        check_methods(cls)

    @check_arguments
    def __init__(
        self,
        params: dict[str, Any],
        config: BlipConfig,
        tokenizer: Tokenizer | TokenIds | str,
        *,
        model_type: str = "pretrain",
        prompt: str = "",
        max_length: int = 30,
        name: str = "",
        trained_on: tuple[TrainingDataset, ...] | None = None,
    ):
        """Takes a tokenizer, or a folder or Hugging Face id to load when needed; "": unknown."""
        if model_type not in nn.MODEL_TYPES:
            known = hint(model_type, nn.MODEL_TYPES)
            raise UserError(f"there is no model type {model_type!r}; {known}")
        self.name = name
        self.trained_on = trained_on
        self.params = params
        self.config = config
        self.model_type = model_type
        self.prompt = prompt
        self.max_length = min(max_length, config.med.max_length)
        self._tokenizer = tokenizer
        self._functions: dict[tuple, Callable] = {}
        self._compiled: set[tuple] = set()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_functions": {}, "_compiled": set()}  # compiled anew

    def __repr__(self) -> str:
        vit, med = self.config.vit, self.config.med
        size = sum(x.size for x in jax.tree.leaves(self.params))
        count = f"{size / 1e6:.0f}M" if size >= 1e6 else f"{size:,}"
        return (
            f"Model({self.model_type}, ViT {vit.width}x{vit.depth} @{vit.image_size}px, text "
            f"{med.width}x{med.depth}, {count} parameters, {self.config.dtype}): "
            f"{', '.join(nn.MODEL_TYPES[self.model_type].capabilities)}"
        )

    @functools.cached_property
    def tokenizer(self) -> Tokenizer:
        """Raises a UserError if it is not known, cannot be loaded, or is another model's."""
        given = self._tokenizer
        if given == "":
            raise UserError(
                "the checkpoint does not name its tokenizer; give tokenizer=FOLDER in Python, or "
                "add it with blip-jax convert --to jax --tokenizer FOLDER"
            )
        named = isinstance(given, str)
        tokenizer = Tokenizer.load(given) if named else given
        if tokenizer.ids.vocab_size != self.config.med.vocab_size:
            raise UserError(
                f"the tokenizer{f' {given}' if named else ''} has {tokenizer.ids.vocab_size} "
                f"tokens, the model {self.config.med.vocab_size}; give the model's own "
                "(tokenizer=FOLDER)"
            )
        return tokenizer

    @functools.cached_property
    def device_params(self) -> dict[str, Any]:
        """Returns the parameters, whole on each local device; from then on `params` is the same."""
        self.params = replicate_to_local_devices(self.params)
        return self.params

    @property
    def image_size(self) -> int:
        """Returns the width and height of input images in pixels."""
        return self.config.vit.image_size

    def push_to_hub(self, name: str, *, license: str = "", private: bool = False) -> str:
        """Writes the model to Hugging Face's hub, with a model card; returns the commit's address.

        transformers loads it by `from_pretrained`.

        Args:
          name: "ORG/NAME" of the repository, which is made if it does not exist.
          license: of the model, as the hub names it, as "apache-2.0"; "": not said.

        Raises:
          UserError: Hugging Face has no format for the model type, or the hub does not take it.
        """
        described = Checkpoint(
            self.model_type, self.config, jax.device_get(self.params), tokenizer=self.tokenizer,
            prompt=self.prompt, max_length=self.max_length, trained_on=self.trained_on,
        )  # fmt: skip
        return hub.push(described, name, license=license, private=private)

    def can(self, capability: str) -> bool:
        """Returns whether this type of model has a capability (`nn.ModelType.capabilities`)."""
        return capability in nn.MODEL_TYPES[self.model_type].capabilities

    def require(self, capability: str) -> None:
        """Raises a UserError unless this type of model has a capability."""
        if not self.can(capability):
            able = [n for n, kind in nn.MODEL_TYPES.items() if capability in kind.capabilities]
            raise UserError(
                f"a {self.model_type} model cannot {capability.replace('_', ' ')}; load a "
                f"{' or '.join(able)} model"
            )

    def _function(self, build: Callable, *options: Any) -> Callable:
        """Returns `build(self, *options)`, made once; the oldest of too many are dropped."""
        key = build, options
        if key not in self._functions:
            while len(self._functions) >= MAX_FUNCTIONS:
                self._functions.pop(next(iter(self._functions)))
            self._functions[key] = build(self, *options)
        return self._functions[key]

    def _run(
        self,
        function: Callable,
        images: list,
        arrays: Sequence,
        batch_size: int,
        on_error: str,
        title: str,
        num_frames: int = 0,
        **shared: Any,
    ) -> list[np.ndarray]:
        """Returns the results of a function over images, or clips, and the arrays of their rows.

        Rows of images that are skipped are NaN, or 0 in whole numbers.
        """
        check_not_empty(images, "images")
        parts = []
        if num_frames < 0:
            raise UserError(f"num_frames is {num_frames}; it must be 0 (images) or more")
        batches = self._image_batches(images, batch_size, on_error, title, num_frames)
        for rows, pixels, valid in batches:
            at = np.minimum(np.arange(rows.start, rows.start + len(pixels)), len(images) - 1)
            arguments = pixels, *jax.tree.map(lambda x, at=at: x[at], tuple(arrays))
            with self.compile_message(arguments, title):
                results = function(*arguments, **shared)
            leaves = [leaf[: rows.stop - rows.start] for leaf in jax.tree.leaves(results)]
            self._check_results([leaf[valid] for leaf in leaves])
            parts.append([_blank(leaf, valid) for leaf in leaves])
        return [np.concatenate(part) for part in zip(*parts, strict=True)]

    def _run_on_texts(self, function: Callable, arrays: Sequence, batch_size: int) -> np.ndarray:
        """Returns the result of a function over the arrays of texts."""
        rows = batching.padded_batch_size(len(arrays[0]), batch_size)
        (result,) = batching.run_in_batches(function, rows, *arrays)
        self._check_results([result])
        return result

    def _check_results(self, results: Sequence[np.ndarray]) -> None:
        """Raises a UserError if a number is NaN."""
        if any(np.isnan(x).any() for x in results if np.issubdtype(x.dtype, np.floating)):
            name = self.name or f"the {self.model_type} model"
            raise UserError(f"{name} gives NaN: its weights hold NaN or are too large; {DIVERGED}")

    def _image_batches(
        self, images: list, batch_size: int, on_error: str, title: str, num_frames: int = 0
    ) -> Iterator:
        return batching.image_batches(
            images, self.image_size, batch_size, on_error, title, self.config.exif_orientation,
            num_frames,
        )  # fmt: skip

    @contextlib.contextmanager
    def compile_message(self, arguments: Any, title: str) -> Iterator[None]:
        """Prints what is compiled at the first call of a shape, on a terminal or in a notebook."""
        shapes = tuple(np.shape(x) for x in jax.tree.leaves(arguments))
        key = title, shapes
        interactive = sys.stderr.isatty() or "ipykernel" in sys.modules
        if key in self._compiled or not interactive:
            yield
            return
        message = f"compiling {title}, once"
        timer = threading.Timer(
            SLOW_COMPILE_SECONDS, print, [message], {"file": sys.stderr, "flush": True}
        )
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
        self._compiled.add(key)

    def _cleaner(self, kind: str) -> Callable[[str], str]:
        """Returns the clean-up of a "caption" or a "question"; of "" none."""
        return getattr(self.tokenizer.cleanup, kind) if kind else str

    def _encode(self, texts: Sequence[str], kind: str) -> tuple:
        check_not_empty(texts, "texts")
        cleaned = list(map(self._cleaner(kind), texts))
        return encode_bucketed(self.tokenizer, cleaned, self.max_length)


def _blank(leaf: np.ndarray, valid: np.ndarray) -> np.ndarray:
    if valid.all():
        return leaf
    leaf = np.array(leaf)
    leaf[~valid] = np.nan if np.issubdtype(leaf.dtype, np.floating) else 0
    return leaf


def replicate_to_local_devices(params: dict[str, Any]) -> dict[str, Any]:
    """Returns every array whole on each local device; what is there already is not copied."""
    mesh = Mesh(np.array(jax.local_devices()), ("devices",))
    return jax.device_put(params, NamedSharding(mesh, PartitionSpec()))
