"""Parameters that a task starts from, made of those of another run."""

from collections.abc import Callable
from typing import Any

from flax import traverse_util

from blip_jax import nn

Params = dict[str, Any]  # nested dict of float32 arrays


def select(params: Params, like: Params) -> Params:
    """Returns the part of `params` that has the structure of `like`.

    Raises:
      KeyError: a part is missing or has another shape; it names the path.
    """
    return fill(like, params, is_new=lambda name: False)


def resized_positions(params: Params, model: nn.BlipConfig) -> Params:
    """Returns `params` with the position embedding of images resized to the model's image size."""
    position = nn.resize_position_embedding(params["vit"]["position"], model.vit.tokens)
    return {**params, "vit": {**params["vit"], "position": position}}


def fill(
    fresh: Params,
    params: Params,
    is_new: Callable[[str], bool],
    origin: Callable[[str], str] = lambda name: name,
) -> Params:
    """Returns `fresh` with the values of `params` where these have them.

    Args:
      fresh: parameters of a task, or their shapes.
      params: of another run.
      is_new: whether a path in `fresh`, as "med/layers/…", stays as it is if `params` has nothing
        of its shape.
      origin: maps a path in `fresh` to the one in `params` that it is taken from.

    Raises:
      KeyError: a part that is not new is missing, or has another shape; it names the path.
    """
    found = traverse_util.flatten_dict(params, sep="/")
    filled: dict[str, Any] = {}
    for name, value in traverse_util.flatten_dict(fresh, sep="/").items():
        place = name if name in found else origin(name)
        if place in found and found[place].shape == value.shape:
            filled[name] = found[place]
        elif is_new(name):
            filled[name] = value
        else:
            raise KeyError(place)
    return traverse_util.unflatten_dict(filled, sep="/")


def without_role(name: str) -> str:
    """Returns the path of the part that both roles share: "med/encoder_x" becomes "med/x"."""
    return "/".join(part.removeprefix("encoder_").removeprefix("decoder_")
                    for part in name.split("/"))  # fmt: skip
