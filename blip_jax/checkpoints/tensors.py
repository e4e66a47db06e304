"""Reads and writes files of named tensors: PyTorch, safetensors and .npz."""

import json
import os
import pathlib
import pickle
import zipfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import ml_dtypes  # noqa: F401  # makes "bfloat16" known to NumPy, for safetensors
import numpy as np
import safetensors
import safetensors.numpy

from blip_jax.runtime.errors import UserError

TORCH = (".pth", ".pt", ".bin")
# Weight files of a Hugging Face folder; the first that exists is read.
WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
HALF = ("float16", "bfloat16")
EXTRAS = "extras"  # metadata key of a .safetensors file, with JSON


class Tensors(Mapping):
    """Tensors by name, each read from the file on access; float16 and bfloat16 become float32.

    Attributes:
      shapes: shapes by name, known without reading.
      extras: other values of the file by name.
    """

    def __init__(
        self,
        shapes: Mapping[str, tuple[int, ...]],
        read: Callable[[str], np.ndarray],
        extras: Mapping[str, Any] | None = None,
    ):
        self.shapes, self._read, self.extras = dict(shapes), read, dict(extras or {})

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self.shapes:
            raise KeyError(name)
        array = self._read(name)
        return array.astype(np.float32) if array.dtype.name in HALF else array

    def __contains__(self, name: object) -> bool:
        return name in self.shapes

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)


def read(path: str) -> Tensors:
    """Opens the tensors of a file, or of a folder with one of WEIGHTS.

    PyTorch files are unpickled without running code.

    Raises:
      UserError: the file does not exist, is truncated, is of another format, or contains code.
    """
    file = pathlib.Path(path).expanduser()
    if file.is_dir():
        found = [file / name for name in WEIGHTS if (file / name).is_file()]
        if not found:
            raise UserError(f"{path} has no weights; expected one of {', '.join(WEIGHTS)}")
        file = found[0]
    if not file.is_file():
        raise UserError(f"{path} does not exist")
    if file.name.endswith(".index.json"):
        return _read_shards(file)
    readers = {".safetensors": _read_safetensors, ".npz": _read_npz}
    readers |= dict.fromkeys(TORCH, _read_torch)
    if file.suffix not in readers:
        raise UserError(f"{path} is not a weights file; supported endings: {', '.join(readers)}")
    return readers[file.suffix](file)


def _read_safetensors(file: pathlib.Path) -> Tensors:
    try:
        opened = safetensors.safe_open(file, "numpy")
        shapes = {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}
        extras = json.loads((opened.metadata() or {}).get(EXTRAS, "{}"))
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{file} is not a safetensors file, or is truncated ({error})") from error
    return Tensors(shapes, opened.get_tensor, extras)


def _read_npz(file: pathlib.Path) -> Tensors:
    try:
        with np.load(file, allow_pickle=False) as opened:
            arrays = dict(opened)
    except (ValueError, OSError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        raise UserError(f"{file} is not an .npz file of arrays, or is truncated") from error
    return Tensors({name: x.shape for name, x in arrays.items()}, arrays.__getitem__)


def _read_torch(file: pathlib.Path) -> Tensors:
    torch = import_torch(f"reading {file}")
    # Files written before PyTorch 1.6 are not zip archives; they cannot be memory-mapped.
    mapped = zipfile.is_zipfile(file)
    try:
        loaded = torch.load(file, map_location="cpu", weights_only=True, mmap=mapped)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, OSError) as error:
        if "GLOBAL" in str(error):  # the name of a function or class
            raise UserError(
                f"{file} contains pickled code, which is not run; if you trust the file, save its "
                "state dict alone: torch.save({'model': state_dict}, …)"
            ) from error
        raise UserError(f"{file} is not a PyTorch checkpoint, or is truncated") from error
    extras = dict(loaded) if isinstance(loaded, dict) else {}
    state = next((extras.pop(key) for key in ("model", "state_dict") if key in extras), loaded)
    if state is loaded:
        extras = {}
    tensors = isinstance(state, dict) and all(isinstance(x, torch.Tensor) for x in state.values())
    if not tensors or not state:
        raise UserError(f"{file} has no state dict, neither at the top nor under 'model'")

    def get(name: str) -> np.ndarray:
        tensor = state[name].detach()
        return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()

    return Tensors({name: tuple(x.shape) for name, x in state.items()}, get, extras)


def _read_shards(index: pathlib.Path) -> Tensors:
    try:
        where = json.loads(index.read_text("utf-8"))["weight_map"]
        shards = {name: read(str(index.parent / name)) for name in sorted(set(where.values()))}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{index} is not a shard index") from error
    absent = [name for name, shard in where.items() if name not in shards[shard]]
    if absent:
        raise UserError(f"{index} lists tensor {absent[0]} in {where[absent[0]]}, which lacks it")
    shapes = {name: shards[shard].shapes[name] for name, shard in where.items()}
    return Tensors(shapes, lambda name: shards[where[name]][name])


def write(tensors: Mapping[str, np.ndarray], path: str, extras: Mapping[str, Any]) -> None:
    """Writes a .safetensors file, or a PyTorch file `{"model": tensors, **extras}`, atomically.

    A PyTorch file stores an array that occurs under several names once.

    Args:
      extras: plain values, which `read` returns.

    Raises:
      UserError: the ending is of neither format, or PyTorch is not installed.
    """
    file = pathlib.Path(path).expanduser()
    if file.suffix not in (".safetensors", *TORCH):
        raise UserError(f"cannot write {path}: its name must end in .safetensors or .pth")
    torch = import_torch(f"writing {file}") if file.suffix in TORCH else None
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(file.name + ".part")
    if torch is None:
        metadata = {"format": "pt"} | ({EXTRAS: json.dumps(extras)} if extras else {})
        safetensors.numpy.save_file(dict(tensors), part, metadata=metadata)
    else:
        same = {id(x): torch.from_numpy(_writable(x)) for x in tensors.values()}
        model = {name: same[id(x)] for name, x in tensors.items()}
        torch.save({"model": model, **extras}, part)
    os.replace(part, file)


def _writable(array: np.ndarray) -> np.ndarray:
    return array if array.flags.writeable else array.copy()  # PyTorch rejects other paths


def import_torch(purpose: str):
    """Returns the module torch.

    Raises:
      UserError: PyTorch is not installed; `purpose` begins the message.
    """
    try:
        import torch
    except ImportError as error:
        raise UserError(f'{purpose} needs PyTorch: pip install "blip-jax[torch]"') from error
    return torch
