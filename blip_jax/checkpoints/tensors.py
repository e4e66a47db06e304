"""Reads and writes files of named tensors: PyTorch, safetensors and .npz."""

import json
import os
import pathlib
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import ml_dtypes  # noqa: F401  # makes "bfloat16" known to NumPy, for safetensors
import numpy as np
import safetensors
import safetensors.numpy

from blip_jax.runtime.errors import UserError
from blip_jax.runtime.files import temporary_name

TORCH = (".pth", ".pt", ".bin")
# Weight files of a Hugging Face folder; the first that exists is read.
WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
HALF = ("float16", "bfloat16")
# Data types of .safetensors and PyTorch files that NumPy has, too.
SAFETENSORS = frozenset("F64 F32 F16 BF16 I64 I32 I16 I8 U64 U32 U16 U8 BOOL".split())
TORCH_DTYPES = frozenset(
    "float64 float32 float16 bfloat16 int64 int32 int16 int8 uint8 bool".split()
)
# What DataParallel, torch.compile and Lightning put before names, or between their parts.
_WRAPPERS = re.compile(r"^((module|_orig_mod|model)\.)+|(?<=\.)((module|_orig_mod)\.)+")
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

    PyTorch files are unpickled without running code. Of names, what wrappers put before them is
    taken off: `module.`, `_orig_mod.` and `model.`, also one after the other.

    Raises:
      UserError: the file does not exist, is truncated, is of another format, or contains code.
    """
    return _unwrapped(_read(path))


def _unwrapped(tensors: Tensors) -> Tensors:
    names = {_WRAPPERS.sub("", name): name for name in tensors}
    if len(names) < len(tensors):  # for example a model and its average
        return tensors
    shapes = {name: tensors.shapes[wrapped] for name, wrapped in names.items()}
    return Tensors(shapes, lambda name: tensors[names[name]], tensors.extras)


def _read(path: str) -> Tensors:
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
        slices = {name: opened.get_slice(name) for name in opened.keys()}
        shapes = {name: tuple(found.get_shape()) for name, found in slices.items()}
        dtypes = {name: found.get_dtype() for name, found in slices.items()}
        extras = dict(json.loads((opened.metadata() or {}).get(EXTRAS, "{}")))
    except Exception as error:  # SafetensorError, and others by what is wrong with the header
        detail = " ".join(str(error).split())[:200]
        raise UserError(f"{file} is not a safetensors file, or is truncated ({detail})") from error
    _check_dtypes(file, dtypes, SAFETENSORS)
    return Tensors(shapes, opened.get_tensor, extras)


def _read_npz(file: pathlib.Path) -> Tensors:
    try:
        with np.load(file, allow_pickle=False) as opened:
            arrays = dict(opened)
    except Exception as error:  # NumPy and zlib raise many types
        raise UserError(f"{file} is not an .npz file of arrays, or is truncated") from error
    odd = {name: str(x.dtype) for name, x in arrays.items() if x.dtype.kind not in "fiub"}
    _check_dtypes(file, odd, frozenset())
    return Tensors({name: x.shape for name, x in arrays.items()}, arrays.__getitem__)


def _read_torch(file: pathlib.Path) -> Tensors:
    torch = import_torch(f"reading {file}")
    # Files written before PyTorch 1.6 are not zip archives; they cannot be memory-mapped.
    try:
        mapped = zipfile.is_zipfile(file)
        loaded = torch.load(file, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:  # PyTorch and pickle raise many types
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
    if not tensors or not state or not all(isinstance(name, str) for name in state):
        raise UserError(f"{file} has no state dict, neither at the top nor under 'model'")
    dtypes = {name: str(x.dtype).removeprefix("torch.") for name, x in state.items()}
    _check_dtypes(file, dtypes, TORCH_DTYPES)
    for name, x in state.items():
        if x.layout != torch.strided or x.numel() * x.element_size() > _stored_bytes(x):
            raise UserError(f"{file}: tensor {name} is not stored whole; save it .contiguous()")

    def get(name: str) -> np.ndarray:
        tensor = state[name].detach()
        return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()

    return Tensors({name: tuple(x.shape) for name, x in state.items()}, get, extras)


def _stored_bytes(tensor: Any) -> int:
    """Returns the size of a PyTorch tensor's storage; 0 if it has none, as on "meta"."""
    return 0 if tensor.is_meta else tensor.untyped_storage().nbytes()


def _check_dtypes(file: pathlib.Path, dtypes: Mapping[str, str], known: frozenset[str]) -> None:
    """Raises a UserError that names the first tensor whose data type is not among the known."""
    for name, dtype in dtypes.items():
        if dtype not in known:
            raise UserError(
                f"{file}: tensor {name} is {dtype}, which is not supported; save it as float32"
            )


def _read_shards(index: pathlib.Path) -> Tensors:
    try:
        where = dict(json.loads(index.read_text("utf-8"))["weight_map"])
        names = sorted(set(where.values()))
    except (ValueError, KeyError, TypeError, OSError, RecursionError) as error:
        raise UserError(f"{index} is not a shard index") from error
    for name in names:
        is_file = isinstance(name, str) and name == pathlib.PurePath(name).name
        if not is_file or "\\" in name or not name.endswith((".safetensors", *TORCH)):
            raise UserError(f"{index} lists the shard {name!r:.80}, not a weights file beside it")
    shards = {name: _read(str(index.parent / name)) for name in names}
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
    part = file.with_name(temporary_name(file.name))
    try:
        if torch is None:
            metadata = {"format": "pt"} | ({EXTRAS: json.dumps(extras)} if extras else {})
            safetensors.numpy.save_file(dict(tensors), part, metadata=metadata)
        else:
            same = {id(x): torch.from_numpy(_writable(x)) for x in tensors.values()}
            model = {name: same[id(x)] for name, x in tensors.items()}
            torch.save({"model": model, **extras}, part)
        os.replace(part, file)
    finally:
        part.unlink(missing_ok=True)


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
