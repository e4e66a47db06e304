"""Files of named tensors: PyTorch's, safetensors and NumPy's, read when asked for, float32."""

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
# What a Hugging Face folder may keep its weights in; the first that is there is read.
WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
HALF = ("float16", "bfloat16")
EXTRAS = "extras"  # the entry of a .safetensors file's metadata that holds ours, as JSON


class Tensors(Mapping):
    """Tensors by name, read from the file each time one is asked for.

    Attributes:
      shapes: by name, known without reading.
      extras: other values of the file, by name.
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
    """The tensors of a file, or of a folder that holds one of WEIGHTS.

    float16 and bfloat16 become float32. PyTorch files are unpickled without running code.

    Raises:
      UserError: there is no such file, it is cut short, is of another format, or holds code.
    """
    file = pathlib.Path(path).expanduser()
    if file.is_dir():
        found = [file / name for name in WEIGHTS if (file / name).is_file()]
        if not found:
            raise UserError(f"{path} holds no weights; looked for {', '.join(WEIGHTS)}")
        file = found[0]
    if not file.is_file():
        raise UserError(f"{path} does not exist")
    if file.name.endswith(".index.json"):
        return _read_shards(file)
    readers = {".safetensors": _read_safetensors, ".npz": _read_npz}
    readers |= dict.fromkeys(TORCH, _read_torch)
    if file.suffix not in readers:
        raise UserError(f"{path} is no file of weights; known: {', '.join(readers)}")
    return readers[file.suffix](file)


def _read_safetensors(file: pathlib.Path) -> Tensors:
    try:
        opened = safetensors.safe_open(file, "numpy")
        shapes = {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}
        extras = json.loads((opened.metadata() or {}).get(EXTRAS, "{}"))
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{file} is not a safetensors file, or is cut short ({error})") from error
    return Tensors(shapes, opened.get_tensor, extras)


def _read_npz(file: pathlib.Path) -> Tensors:
    try:
        with np.load(file, allow_pickle=False) as opened:
            arrays = dict(opened)
    except (ValueError, OSError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        raise UserError(f"{file} is not an .npz file of arrays, or is cut short") from error
    return Tensors({name: x.shape for name, x in arrays.items()}, arrays.__getitem__)


def _read_torch(file: pathlib.Path) -> Tensors:
    torch = import_torch(f"reading {file}")
    # Files of before PyTorch 1.6 are no zip archives, and are read whole.
    mapped = zipfile.is_zipfile(file)
    try:
        loaded = torch.load(file, map_location="cpu", weights_only=True, mmap=mapped)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, OSError) as error:
        if "GLOBAL" in str(error):  # the name of a function or class
            raise UserError(
                f"{file} holds pickled code, which is not run; if you trust it, keep its state "
                "dict alone: torch.save({'model': state_dict}, …)"
            ) from error
        raise UserError(f"{file} is not a PyTorch checkpoint, or is cut short") from error
    extras = dict(loaded) if isinstance(loaded, dict) else {}
    state = next((extras.pop(key) for key in ("model", "state_dict") if key in extras), loaded)
    if state is loaded:
        extras = {}
    tensors = isinstance(state, dict) and all(isinstance(x, torch.Tensor) for x in state.values())
    if not tensors or not state:
        raise UserError(f"{file} holds no state dict, neither bare nor under 'model'")

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
        raise UserError(f"{index} is not an index of shards") from error
    absent = [name for name, shard in where.items() if name not in shards[shard]]
    if absent:
        raise UserError(f"{index} names {absent[0]}, which {where[absent[0]]} does not hold")
    shapes = {name: shards[shard].shapes[name] for name, shard in where.items()}
    return Tensors(shapes, lambda name: shards[where[name]][name])


def write(tensors: Mapping[str, np.ndarray], path: str, extras: Mapping[str, Any]) -> None:
    """Writes a .safetensors file, or a PyTorch file `{"model": tensors, **extras}`.

    The file appears under its name when it is whole. Arrays that are one and the same are stored
    once in a PyTorch file. `extras` are plain values: `read` gives them back.

    Raises:
      UserError: another ending, or PyTorch is not installed.
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
    return array if array.flags.writeable else array.copy()  # PyTorch takes no other


def import_torch(purpose: str):
    """The module.

    Raises:
      UserError: PyTorch is not installed.
    """
    try:
        import torch
    except ImportError as error:
        raise UserError(f'{purpose} needs PyTorch: pip install "blip-jax[torch]"') from error
    return torch
