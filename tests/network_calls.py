"""Images and texts of the tiny dataset, and a model's network called directly, on one device."""

import functools

import jax
import numpy as np
import pytest
import tiny_dataset

from blip_jax import nn
from blip_jax.data.images import decode, normalize
from blip_jax.data.synthetic.builder import make_record
from blip_jax.runtime.errors import UserError

FILES = [make_record(row, "test", tiny_dataset.HUMAN)["image"] for row in range(10)]
PIXELS = [decode(file) for file in FILES]
TEXTS = [make_record(row, "test", tiny_dataset.HUMAN)["texts"][0] for row in range(10)]


@functools.partial(jax.jit, static_argnums=(0, 1, 2), static_argnames="role")
def run(config, model_type, method, params, *args, **role):
    return nn.network(config, model_type).apply({"params": params}, *args, method=method, **role)


def call(model, method, *args, **role):
    """A method of the network, on one device."""
    params = jax.tree.map(np.asarray, model.params)
    return run(model.config, model.model_type, method, params, *args, **role)


def tokens_of(model, pixels=PIXELS):
    return call(model, "encode_image", normalize(np.stack(pixels)))


def context_of(model, pixels, role):
    return call(model, "image_context", tokens_of(model, pixels), role=role)


def refused(function, *args, **options):
    """The message of the UserError that a call ends in: one line."""
    with pytest.raises(UserError) as caught:
        function(*args, **options)
    message = str(caught.value)
    assert message and "\n" not in message
    return message
