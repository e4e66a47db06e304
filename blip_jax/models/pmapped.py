"""Functions of a network mapped over this host's devices, compiled once for models of one network.

D local devices, b rows a device.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any, ClassVar

import jax

from blip_jax import nn

if TYPE_CHECKING:
    from blip_jax.models.model import Model

MAX_PROGRAMS = 64  # number of programs that models of equal networks share; the oldest are dropped


class PmappedFunction:
    """A function of (method caller, arrays) by `jax.pmap`: trees of arrays [D * b, ...] in and out.

    Args:
      program: names what the function computes of a network, options included. Functions of one
        program for models of equal networks are compiled once, so they must not hold a model;
        None: this one is compiled by itself.
      takes_shared: the function takes after the method caller a tree of arrays, the argument
        `shared` of a call, that is the same for all rows of a device.
      shared_axis: None: the devices share it; 0: its arrays [D, ...] have a part for each; or one
        of these for each of a tuple.

    Attributes:
      per_device: what one device does, of (parameters, shared, tuple of trees of arrays [b, ...]).
    """

    _mapped: ClassVar[dict[Hashable, tuple[Callable, Callable]]] = {}  # by program and network

    def __init__(
        self,
        function: Callable,
        model: Model,
        program: Hashable = None,
        takes_shared: bool = False,
        shared_axis: int | None | tuple[int | None, ...] = None,
    ):
        network = nn.network(model.config, model.model_type)
        found = self._mapped.get((program, network)) if program else None
        if found is None:
            found = _map(function, network, takes_shared, shared_axis)
        if program:
            self._mapped.pop((program, network), None)  # the newest comes last
            while len(self._mapped) >= MAX_PROGRAMS:
                self._mapped.pop(next(iter(self._mapped)))
            self._mapped[program, network] = found
        self.per_device, self._pmapped = found
        self._model = model

    def __call__(self, *arrays: Any, shared: Any = ()) -> Any:
        return self.collect(self.dispatch(*arrays, shared=shared))

    def dispatch(self, *arrays: Any, shared: Any = ()) -> Any:
        """Sends the arrays to the devices without waiting; returns what `collect` takes."""
        devices = jax.local_device_count()
        parts = jax.tree.map(lambda x: x.reshape(devices, -1, *x.shape[1:]), arrays)
        return self._pmapped(self._model.device_params, shared, parts)

    def collect(self, dispatched: Any) -> Any:
        """Returns the results as NumPy arrays."""
        return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), jax.device_get(dispatched))


def _map(
    function: Callable,
    network: Any,
    takes_shared: bool,
    shared_axis: int | None | tuple[int | None, ...],
) -> tuple[Callable, Callable]:
    """Returns what one device does, and this mapped over the devices; see `PmappedFunction`."""

    def per_device(params: Any, shared: Any, arrays: tuple) -> Any:
        apply = method_caller(network, params)
        return function(apply, shared, *arrays) if takes_shared else function(apply, *arrays)

    in_axes = (None, shared_axis, 0)
    return per_device, jax.pmap(per_device, in_axes=in_axes, devices=jax.local_devices())


def method_caller(network: Any, params: Any) -> Callable:
    """Returns a function that calls a method of the network: (name, *arguments) to its results."""
    # Separated here, outside of the loop over tokens; XLA drops it where nothing is generated.
    generates = hasattr(network, "decode_step")
    separate = nn.separate_layers(params) if generates else params

    def apply(method: str, *args: Any) -> Any:
        chosen = separate if method == "decode_step" else params
        return network.apply({"params": chosen}, *args, method=method)

    return apply
