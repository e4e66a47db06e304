"""Conversion rules: which tensor of a file is which parameter, and in what layout.

A rule pairs a tensor's name with a parameter's path. "*" in the name stands for the layer number,
as our layers are stacked on a leading axis. PyTorch stores a dense kernel as [out, in]; ours are
[in, out] with a separate axis for heads, and query, key and value are one array.
"""

import math
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from blip_jax.runtime.errors import DIVERGED, UserError


class Layout(NamedTuple):
    """A change of layout: `load` from a tensor to a parameter of the given shape, `save` back."""

    load: Callable[[np.ndarray, tuple[int, ...]], np.ndarray]
    save: Callable[[np.ndarray], np.ndarray]


def _dense(inputs: int) -> Layout:
    """Returns the layout [out, in] <-> [*in, *out], where the first `inputs` axes are inputs."""

    def save(w: np.ndarray) -> np.ndarray:
        return w.reshape(math.prod(w.shape[:inputs]), -1).T

    return Layout(lambda w, shape: w.T.reshape(shape), save)


def _patch_side(w: np.ndarray) -> int:
    return math.isqrt(w.shape[0] // 3)


SAME = Layout(lambda w, shape: w, lambda w: w)
FLAT = Layout(lambda w, shape: w.reshape(shape), lambda w: w.reshape(-1))  # biases
DENSE = _dense(1)
MERGE = _dense(2)  # from heads: [D, H * K] <-> [H, K, D]
# Convolution [D, 3, P, P] <-> [P * P * 3, D]
PATCH = Layout(
    lambda w, shape: w.transpose(2, 3, 1, 0).reshape(shape),
    lambda w: w.reshape(_patch_side(w), -1, 3, w.shape[1]).transpose(3, 2, 0, 1),
)


class Rule(NamedTuple):
    """The tensor of one parameter.

    Attributes:
      name: name of the tensor, with "*" for the layer number.
      path: path of the parameter, keys joined by "/". "[1]" after it: entry 1 of the third axis
        from the end, which holds query, key and value.
      first: layer number of the first stacked layer.
      tied: whether the tensor may be absent when another rule fills the same parameter.
    """

    name: str
    path: str
    layout: Layout = SAME
    first: int = 0
    tied: bool = False


def dense(name: str, path: str, kernel: Layout = DENSE) -> list[Rule]:
    """Returns the rules of a dense layer with a bias."""
    return [
        Rule(f"{name}.weight", f"{path}/kernel", kernel),
        Rule(f"{name}.bias", f"{path}/bias", FLAT),
    ]


def norm(name: str, path: str) -> list[Rule]:
    """Returns the rules of a LayerNorm."""
    return [Rule(f"{name}.weight", f"{path}/scale"), Rule(f"{name}.bias", f"{path}/bias")]


def under(prefix: str, rules: list[Rule]) -> list[Rule]:
    """Returns the rules with `prefix` before each path."""
    return [rule._replace(path=f"{prefix}/{rule.path}") for rule in rules]


class _Place(NamedTuple):
    """The part of a parameter that one tensor fills; tied tensors have the same `key`."""

    path: str
    layer: int | None
    part: int | None
    rule: Rule

    @property
    def key(self) -> tuple:
        return self[:3]

    def of(self, leaf: np.ndarray) -> np.ndarray:
        """Returns a view of that part of the parameter `leaf`."""
        view = leaf[...] if self.layer is None else leaf[self.layer]
        return view if self.part is None else view[..., self.part, :, :]

    def source_shape(self, leaf: Any) -> tuple[int, ...]:
        blank = np.broadcast_to(np.float32(0), leaf.shape)  # uses no memory
        return self.rule.layout.save(self.of(blank)).shape


def _places(leaves: Mapping[str, Any], rules: list[Rule]) -> Iterator[tuple[str, _Place]]:
    """Yields (tensor name, place) for each layer of each rule whose path is among the leaves."""
    for rule in rules:
        path, bracket, part = rule.path.partition("[")
        if path not in leaves:  # models without this head
            continue
        part = int(part[:-1]) if bracket else None
        if "*" not in rule.name:
            yield rule.name, _Place(path, None, part, rule)
            continue
        for layer in range(leaves[path].shape[0]):
            name = rule.name.replace("*", str(layer + rule.first))
            yield name, _Place(path, layer, part, rule)


def source_shapes(like: Mapping, rules: list[Rule]) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of a file's tensors by name.

    Args:
      like: the parameters, a nested dict of leaves with a shape.
    """
    leaves = flatten_dict(like, sep="/")
    return {name: place.source_shape(leaves[place.path]) for name, place in _places(leaves, rules)}


def load(
    tensors: Mapping[str, np.ndarray],
    like: Mapping,
    rules: list[Rule],
    ignored: Callable[[str], object] = lambda name: False,
) -> dict:
    """Returns the parameters that a file's tensors hold; names and shapes must match exactly.

    Each tensor is read once, and only the parameters are allocated, so tensors that are read on
    demand need no further memory.

    Args:
      tensors: tensors by name, of any float dtype.
      like: the parameters to fill: a nested dict of leaves with shape and dtype.
      rules: the conversion rules; a tensor may fill two parameters.
      ignored: whether a tensor of this name may be present and is skipped, as
        `re.Pattern.fullmatch` tells.

    Returns: nested dict of NumPy arrays with the shapes and dtypes of `like`.

    Raises:
      UserError: a tensor is missing, unknown, of another shape, or not bit-equal to a tensor that
        it is tied to, or not finite; or no rule fills a parameter.
    """
    leaves = flatten_dict(like, sep="/")
    places: dict[str, list[_Place]] = {}
    for name, place in _places(leaves, rules):
        places.setdefault(name, []).append(place)
    _check_names(tensors, places, ignored)
    filled = {place.path for several in places.values() for place in several}
    if leaves.keys() - filled:
        raise UserError(
            f"no conversion rule fills the parameter {_first(sorted(leaves.keys() - filled))}"
        )
    _check_shapes(tensors, places, leaves)
    found = {path: _empty(leaf.shape, leaf.dtype) for path, leaf in leaves.items()}
    # The first of several tied tensors fills the parameter; the others are compared with it.
    first: dict[tuple, str] = {}
    fills, ties = [], []
    for name, several in places.items():
        for place in several if name in tensors else ():
            own = first.setdefault(place.key, name) == name
            (fills if own else ties).append((name, place))

    def value(name: str, place: _Place) -> tuple[np.ndarray, np.ndarray]:
        slot = place.of(found[place.path])
        loaded = place.rule.layout.load(np.asarray(tensors[name]), slot.shape)
        loaded = loaded.astype(slot.dtype, copy=False)
        if loaded.dtype.kind == "f" and not np.isfinite(loaded).all():
            raise UserError(f"tensor {name} holds NaN or infinity; {DIVERGED}")
        return slot, loaded

    def fill(name: str, place: _Place) -> None:
        slot, loaded = value(name, place)
        slot[...] = loaded

    def same(name: str, place: _Place) -> bool:
        return _same_bits(*value(name, place))

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for _ in pool.map(lambda pair: fill(*pair), fills):
            pass
        for (name, place), equal in zip(
            ties, pool.map(lambda pair: same(*pair), ties), strict=True
        ):
            if not equal:
                tied = first[place.key]
                raise UserError(f"tensor {name} differs from {tied}, to which it is tied")
    return unflatten_dict(found, sep="/")


def _empty(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Returns np.empty aligned to 64 bytes, which JAX on CPU uses without a copy."""
    dtype, align = np.dtype(dtype), 64
    size = int(np.prod(shape)) * dtype.itemsize
    raw = np.empty(size + align, np.uint8)
    start = -raw.ctypes.data % align
    return raw[start : start + size].view(dtype).reshape(shape)


def _check_shapes(tensors, places: Mapping[str, list[_Place]], leaves: Mapping) -> None:
    shapes = getattr(tensors, "shapes", None)  # known without reading
    misshapen = []
    for name in (name for name in places if name in tensors):
        shape = tuple(np.shape(tensors[name]) if shapes is None else shapes[name])
        for want in (place.source_shape(leaves[place.path]) for place in places[name]):
            if shape != want:
                misshapen.append(f"{name} is {list(shape)}, the model's {list(want)}")
    if misshapen:
        raise UserError(f"wrong shape: {_first(misshapen)}")


def _check_names(tensors, places: Mapping[str, list[_Place]], ignored: Callable) -> None:
    present = {place.key for name in places if name in tensors for place in places[name]}
    missing = [
        name
        for name, several in places.items()
        if name not in tensors
        and not all(place.rule.tied and place.key in present for place in several)
    ]
    extra = [name for name in tensors if name not in places and not ignored(name)]
    complaints = []
    if missing:
        complaints.append(f"missing tensor {_first(missing)}")
    if extra:
        complaints.append(f"unknown tensor {_first(extra)}")
    if complaints:
        raise UserError("; ".join(complaints))


def _first(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} (and {len(names) - 1} more)"


def _same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    bits = np.dtype(f"u{a.itemsize}")
    return np.array_equal(a.view(bits), b.view(bits))


def save(params: Mapping, rules: list[Rule]) -> dict[str, np.ndarray]:
    """Returns a file's tensors by name: the exact inverse of `load`.

    Arrays are contiguous. Tied tensors are the same array under each of their names.
    """
    leaves = {path: np.asarray(leaf) for path, leaf in flatten_dict(params, sep="/").items()}
    tensors, saved = {}, {}
    for name, place in _places(leaves, rules):
        if place.key not in saved:
            array = place.rule.layout.save(place.of(leaves[place.path]))
            saved[place.key] = np.asarray(array, order="C")
        tensors[name] = saved[place.key]
    return tensors
