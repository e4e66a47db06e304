"""Images and texts as users give them, to arrays of few shapes.

B images, G texts an image, H height, W width, T tokens, P prompt tokens.
"""

import io
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from etils import epath
from PIL import Image

from blip_jax.data.images import ImageError, decode, from_pil
from blip_jax.data.tokenizer import Tokenizer
from blip_jax.data.video import VideoError, frames
from blip_jax.runtime.errors import UserError
from blip_jax.runtime.files import is_special

LENGTH_BUCKET = 16  # texts are padded to a multiple of this, for few compilations
PROMPT_BUCKET = 4  # prompts are padded to a multiple of this
CANDIDATE_BUCKET = 64  # lists of candidate answers are padded to a multiple of this many

# A path (local or gs://), a file's bytes, an open file, a PIL image, or an array (NumPy, JAX,
# PyTorch): uint8 or float 0 … 1, [H, W], [H, W, 1 | 3 | 4] or [3, H, W].
ImageLike = Any
ACCEPTED = (
    "a path, bytes, an open file, a PIL image, or an array uint8 or float 0..1 [height, width, 3]"
)


def load_image(image: ImageLike, exif_orientation: bool = True) -> np.ndarray:
    """Returns an image as uint8 [H, W, 3].

    Args:
      exif_orientation: see `data.images.decode`; PIL images may have EXIF too.

    Raises:
      ImageError: it cannot be read, or is no image; the message does not name it.
    """
    if isinstance(image, Image.Image):
        return from_pil(image, exif_orientation)
    image = _file_content(image)
    if isinstance(image, bytes):
        return decode(image, exif_orientation)
    if hasattr(image, "__array__") or hasattr(image, "detach"):
        return _from_array(_as_numpy(image))
    raise ImageError(f"{type(image).__name__} is not an image; give {ACCEPTED}")


def load_clip(clip: ImageLike, num_frames: int, image_size: int) -> np.ndarray:
    """Returns frames of a clip, a path, bytes or an open file: uint8 [F, S, S, 3]; see `frames`.

    Raises:
      ImageError: it cannot be read, or is no video; the message does not name it.
    """
    data = _file_content(clip)
    if not isinstance(data, bytes):
        raise ImageError(f"{type(clip).__name__} is not a clip; give a path, bytes or an open file")
    try:
        return frames(data, num_frames, image_size)
    except VideoError as error:
        raise ImageError(str(error)) from error


def _file_content(given: Any) -> Any:
    """Returns the bytes of a path, an open file, or bytes; anything else as it is."""
    if isinstance(given, (str, os.PathLike)):
        return _read(given)
    content = given.read() if hasattr(given, "read") else given
    return bytes(content) if isinstance(content, (bytearray, memoryview)) else content


def _read(path: str | os.PathLike) -> bytes:
    if is_special(path):
        raise ImageError("not a regular file")
    if os.fspath(path).startswith(("http://", "https://")):
        raise ImageError("URLs are not downloaded; save the file and give its path")
    try:
        return epath.Path(path).read_bytes()
    except KeyError as error:  # raised by etils for an unknown URL scheme
        raise ImageError("the scheme of this URL is not supported; give a path") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise ImageError(reason.lower()) from error


def _as_numpy(array: Any) -> np.ndarray:
    """Returns a NumPy, JAX or PyTorch array as NumPy, on any device and also with gradients."""
    if hasattr(array, "detach"):
        array = array.detach().cpu()
        array = array.float() if array.is_floating_point() else array  # NumPy has no bfloat16
    return np.asarray(array)


def _from_array(array: np.ndarray) -> np.ndarray:
    shape = list(array.shape)
    if array.ndim == 3 and array.shape[-1] not in (1, 3, 4) and array.shape[0] in (1, 3, 4):
        array = np.moveaxis(array, 0, -1)
    if array.ndim == 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.ndim not in (2, 3) or not array.size or array.shape[2:] not in ((), (3,), (4,)):
        raise ImageError(f"an array of shape {shape} is not an image; give {ACCEPTED}")
    if np.issubdtype(array.dtype, np.floating) or array.dtype.name == "bfloat16":
        array = array.astype(np.float32)
        if not (np.isfinite(array).all() and 0 <= array.min() and array.max() <= 1):
            raise ImageError(
                f"a float array from {array.min():.3g} to {array.max():.3g}; scale it to 0..1, or "
                "give uint8"
            )
        array = np.round(array * 255)
    elif array.dtype == np.uint16:  # the higher bits, as of files of 16 bits
        array = array >> 8
    elif array.dtype == bool:
        array = array * np.uint8(255)
    elif not np.issubdtype(array.dtype, np.integer):
        raise ImageError(f"an array of {array.dtype}; give uint8")
    elif array.min() < 0 or array.max() > 255:
        raise ImageError(
            f"an array of {array.dtype} from {array.min()} to {array.max()}; give uint8"
        )
    return np.asarray(Image.fromarray(array.astype(np.uint8)).convert("RGB"))


def image_name(image: ImageLike, number: int) -> str:
    """Returns the name of an image in error messages: its path or its number."""
    return os.fspath(image) if isinstance(image, (str, os.PathLike)) else f"number {number}"


def as_images(images: ImageLike | Sequence[ImageLike]) -> list[ImageLike]:
    """Returns images as a list: one image as a list of one, an array [B, H, W, 3] as its images.

    Raises:
      UserError: neither an image nor a sequence of them.
    """
    if isinstance(images, (str, os.PathLike, bytes, bytearray, Image.Image, io.IOBase)):
        return [images]
    if hasattr(images, "__array__") or hasattr(images, "detach"):
        array = _as_numpy(images)
        if array.ndim == 1 and array.dtype.kind in "OUS":  # of paths, or of images
            return array.tolist()
        return list(array) if array.ndim == 4 else [array]
    if hasattr(images, "read"):
        return [images]
    try:
        return list(images)
    except TypeError:
        raise UserError(
            f"images is {type(images).__name__}; give {ACCEPTED}, or a list of these"
        ) from None


def as_list(values: Any) -> list:
    """Returns a sequence as a list, and anything else as a list of one."""
    return list(values) if is_sequence(values) else [values]


def is_sequence(value: Any) -> bool:
    """Returns whether it is a sequence, as a list; a string is none."""
    is_text = isinstance(value, (str, bytes))
    return hasattr(value, "__iter__") and not is_text and getattr(value, "ndim", 1) > 0


def broadcast(*lists: list, names: Sequence[str]) -> list[list]:
    """Returns lists of one length; lists of one entry are repeated.

    Raises:
      UserError: one is empty, or two have different lengths above 1.
    """
    for values, name in zip(lists, names, strict=True):
        check_not_empty(values, name)
    count = max(map(len, lists))
    for values, name in zip(lists, names, strict=True):
        if len(values) not in (1, count):
            longest = next(n for v, n in zip(lists, names, strict=True) if len(v) == count)
            raise UserError(
                f"{count} {longest} and {len(values)} {name}; give one {name.removesuffix('s')} "
                "for all, or one for each"
            )
    return [values * count if len(values) == 1 else values for values in lists]


def check_not_empty(values: Sequence, name: str) -> None:
    """Raises a UserError if there are none."""
    if not len(values):
        raise UserError(f"no {name}; give at least one")


def encode_bucketed(
    tokenizer: Tokenizer, texts: list[str], max_length: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns ids int32 [B, T] and mask bool [B, T]; T is a multiple of 16, or `max_length`."""
    ids, mask = tokenizer.encode(texts, max_length)
    longest = int(mask.sum(-1).max(initial=1))
    length = min(-(-longest // LENGTH_BUCKET) * LENGTH_BUCKET, max_length)
    return ids[:, :length], mask[:, :length]


def encode_candidates(
    tokenizer: Tokenizer, candidates: list[str], max_length: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns ids int32 [C, T], mask bool [C, T] and which are no padding, bool [C].

    C is a multiple of 64, the padding comes last.
    """
    check_not_empty(candidates, "candidates")
    ids, mask = encode_bucketed(tokenizer, candidates, max_length)
    padding = -len(ids) % CANDIDATE_BUCKET
    padded = [np.pad(x, ((0, padding), (0, 0))) for x in (ids, mask)]
    return *padded, np.arange(len(ids) + padding) < len(ids)


def encode_prompts(
    tokenizer: Tokenizer, prompt: str | Sequence[str], count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns prompts int32 [B, P], padded, and their lengths int32 [B]; P is a multiple of 4.

    Args:
      prompt: one for all, or one an image.
      count: B.

    Raises:
      UserError: there are more or fewer than `count`.
    """
    texts = as_list(prompt)
    texts = texts * count if len(texts) == 1 else texts
    if len(texts) != count:
        raise UserError(f"{len(texts)} prompts for {count} images; give one for all, or one each")
    rows = {text: tokenizer.prompt(text) for text in set(texts)}
    lengths = np.array([len(rows[text]) for text in texts], np.int32)
    width = -(-int(lengths.max(initial=1)) // PROMPT_BUCKET) * PROMPT_BUCKET
    ids = np.full((count, width), tokenizer.ids.pad, np.int32)
    for number, text in enumerate(texts):
        ids[number, : lengths[number]] = rows[text]
    return ids, lengths
