"""Images, broken records and tars as they are found in the wild, for the tests of imports."""

import io
import json
import pathlib
import struct
import tarfile
import zlib

import cv2
import numpy as np
from PIL import Image


def picture(seed: int, width: int = 48, height: int = 40) -> Image.Image:
    """A smooth picture of its own for each seed."""
    small = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
    return Image.fromarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC))


def encoded(image: Image.Image, format: str = "JPEG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def jpeg(seed: int, **size) -> bytes:
    return encoded(picture(seed, **size), quality=90)


def bomb(side: int = 40_000) -> bytes:
    """The head of a PNG that claims `side` squared pixels."""
    head = b"IHDR" + struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + head + struct.pack(">I", zlib.crc32(head))


# Ten ways of being broken, or odd: (image, text, name in a tar), by what they are.
def ways(seed: int) -> dict[str, tuple[bytes, bytes, str]]:
    image, whole, text = picture(seed), jpeg(seed), f"picture {seed}".encode()
    grey = np.asarray(image.convert("L")).astype(np.uint16) * 257
    frames = [picture(seed + 1)]
    name = f"{seed:07d}"
    return {
        "truncated": (whole[: len(whole) // 2], text, name),
        "zero bytes": (b"", text, name),
        "wrong magic": (b"\0\1" + whole[2:], text, name),
        "bomb": (bomb(), text, name),
        "animated GIF": (encoded(image, "GIF", save_all=True, append_images=frames), text, name),
        "CMYK": (encoded(image.convert("CMYK"), quality=90), text, name),
        "16-bit PNG": (encoded(Image.fromarray(grey), "PNG"), text, name),
        "broken UTF-8": (whole, b"caf\xe9 \xff", name),
        "10,000 words": (whole, b"word " * 10_000, name),
        "path traversal": (whole, text, f"../../{name}"),
    }


# Of the ways, those that leave no row, and under which reason.
SKIP_REASONS = {
    "truncated": "undecodable image",
    "zero bytes": "undecodable image",
    "wrong magic": "undecodable image",
    "bomb": "undecodable image",
    "broken UTF-8": "text not UTF-8",
    "path traversal": "unsafe name",
}


def write_tar(path: pathlib.Path, samples, mode: str = "w") -> pathlib.Path:
    """Writes samples, (name, {suffix: bytes, or what JSON is made of}) each."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as tar:
        for name, members in samples:
            for suffix, content in members.items():
                data = content if isinstance(content, bytes) else json.dumps(content).encode()
                member = tarfile.TarInfo(f"{name}.{suffix}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return path


def write_shards(folder: pathlib.Path, shards: int, records: int, broken: int = 50) -> int:
    """Writes img2dataset's tars, every `broken`th record in one of the ten ways; returns records.

    Their images are drawn once for each of 500 seeds and differ by a comment behind the image.
    """
    kinds = list(ways(0))
    drawn = [jpeg(seed) for seed in range(500)]
    for shard in range(shards):
        samples = []
        for place in range(records):
            number = shard * records + place
            image, text = drawn[number % 500], f"picture {number}".encode()
            name, suffix = f"{shard:05d}{place:04d}", "jpg"
            if number % broken == broken - 1:
                image, text, other = ways(number)[kinds[number // broken % len(kinds)]]
                name = other if other.startswith("..") else name
            image += f"#{number}".encode() if image else b""
            about = {"url": f"https://a.b/{number}.jpg", "key": name, "status": "success"}
            samples.append((name, {suffix: image, "txt": text, "json": about}))
        write_tar(folder / f"{shard:05d}.tar", samples)
    return shards * records
