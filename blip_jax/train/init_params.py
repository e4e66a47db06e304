"""Parameters that a training run starts from, of other runs and of published encoders."""

import contextlib
import dataclasses
from typing import Any

import jax
from etils import epath

from blip_jax.checkpoints import pretrained_encoders
from blip_jax.checkpoints.sources import local_copy, read
from blip_jax.data.tokenizer import Tokenizer
from blip_jax.nn import BlipConfig
from blip_jax.runtime.errors import UserError
from blip_jax.tasks.base import Params, Task

# Ends of the names of fields that may differ between a run and the run it starts from: they change
# no shape, or the task maps the parameters (Task.adapt_params).
_FREE = ("_std", "dropout", "drop_path", "image_size", "eps", "sharing", "learned_merge_layer")


def load_init_params(source: str, task: Task, key: jax.Array) -> Params:
    """Returns the parameters for `task` of another model, by `task.adapt_params`.

    Args:
      source: what `models.load` takes: a workdir, a Hugging Face folder or id, a .pth file.
      key: of parameters that the task has and the other model has not.

    Raises:
      UserError: it holds another network, or lacks a part that the task needs.
    """
    checkpoint = read(source, training_state=False)
    _check_tokenizer(source, checkpoint.tokenizer, task.tokenizer)
    tokens = checkpoint.config.med.vocab_size, task.model.med.vocab_size
    if tokens[0] != tokens[1]:
        raise UserError(
            f"init.run {source} has a vocabulary of {tokens[0]} tokens, config.tokenizer one of "
            f"{tokens[1]}; give its own tokenizer"
        )
    if flags := _flags_of_network(checkpoint.config, task.model):
        raise UserError(f"init.run {source} has another network than the config; give {flags}")
    shapes = jax.eval_shape(task.init_params, key)
    try:
        params = task.adapt_params(checkpoint.params, checkpoint.config, shapes)
    except KeyError as error:
        width = checkpoint.config.embed_dim
        if width != task.model.embed_dim:
            raise UserError(
                f"init.run {source} has features of another width than the config; give "
                f"--config.model.embed_dim={width}"
            ) from error
        raise UserError(
            f"init.run {source} holds a {checkpoint.model_type} model without {error}, which "
            f"{task.config.name} needs; start from a pre-training run"
        ) from error
    is_shape = lambda leaf: isinstance(leaf, jax.ShapeDtypeStruct)  # noqa: E731
    if not any(map(is_shape, jax.tree.leaves(params))):
        return params
    fresh = jax.jit(task.init_params)(key)
    return jax.tree.map(lambda own, new: new if is_shape(own) else own, params, fresh)


def _flags_of_network(theirs: BlipConfig, ours: BlipConfig) -> str:
    """Returns all flags that give the config the other model's network; "" if it has the same."""
    different = {}
    for part in ("vit", "med"):
        for field in dataclasses.fields(getattr(ours, part)):
            value, own = (getattr(getattr(x, part), field.name) for x in (theirs, ours))
            if value != own and not field.name.endswith(_FREE):
                different[f"{part}.{field.name}"] = value
    if different and theirs.embed_dim != ours.embed_dim:
        different["embed_dim"] = theirs.embed_dim
    return " ".join(f"--config.model.{name}={value}" for name, value in different.items())


def _check_tokenizer(source: str, theirs: Tokenizer | str, ours: Any) -> None:
    """Raises a UserError if the run's tokenizer gives words other ids than the first run's.

    Args:
      theirs: a tokenizer, or the folder of one; a name on a hub is not looked up.
      ours: a tokenizer, or the ids alone that are enough to compile.
    """
    advice = "give its own"
    if isinstance(theirs, str):
        advice = f"give --config.tokenizer={theirs}"
    if isinstance(theirs, str) and theirs and epath.Path(theirs).is_dir():
        theirs = Tokenizer.load(theirs)
    known = isinstance(theirs, Tokenizer) and isinstance(ours, Tokenizer)
    if known and not ours.has_same_words(theirs):
        raise UserError(
            f"init.run {source} was trained with another tokenizer than config.tokenizer; {advice}"
        )


def load_pretrained_encoders(
    params: Params, model: BlipConfig, vit: str, text_encoder: str
) -> Params:
    """Returns fresh parameters with published encoders in their place (paper, section 4.1)."""
    with contextlib.ExitStack() as stack:
        paths = [path and stack.enter_context(local_copy(path)) for path in (vit, text_encoder)]
        return pretrained_encoders.load_pretrained_encoders(params, model, *paths)
