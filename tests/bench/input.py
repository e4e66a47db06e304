"""Training input beside what a user would write with PIL: JPEGs to augmented pictures.

    python tests/bench/input.py [--images 128] [--rounds 9] [--height 375] [--width 500]

Random crop to 224 pixels, flip and RandAugment of two operations, each done half the time, with the
same draws for all: PIL and numpy; blip_jax with PIL's pixels (the default), and with
`data.augment.fast`. Each to uint8, as training takes it (it normalises on the device), and to
normalised float32. Where torchvision can be imported, its transforms too, which normalise on the
host; its RandAugment has operations of its own. All take turns in this process on one thread; the
figures are medians of CPU time over the rounds.
"""

import argparse
import io
import pathlib
import statistics
import sys
import time

import cv2
import numpy as np
from PIL import Image, ImageEnhance, ImageOps

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
from blip_jax.data import augment, crops, images  # noqa: E402

SIZE = 224
GREY = (128, 128, 128)
AFFINE = {"ShearX": (1, 0.15, 0, 0, 1, 0), "ShearY": (1, 0, 0, 0.15, 1, 0),
          "TranslateX": (1, 0, 5, 0, 1, 0), "TranslateY": (1, 0, 0, 0, 1, 5)}  # fmt: skip


def photo(seed: int, height: int, width: int, quality: int = 90) -> bytes:
    """Returns a JPEG with coarse and fine detail: about 85 kB at 500 x 375 and quality 90."""
    rng = np.random.default_rng(seed)
    total = rng.normal(0, 1, (height, width, 3)).astype(np.float32) * 18
    for size in (2, 4, 8, 16, 32, 64, 128, 256):
        coarse = rng.standard_normal((height // size + 2, width // size + 2, 3)).astype(np.float32)
        total += size**0.7 * cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    picture = np.clip(total / total.std() * 55 + 120, 0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=quality)
    return file.getvalue()


def with_pil(data: bytes, rng: np.random.Generator) -> np.ndarray:
    """PIL's decoding, crop, flip and RandAugment at the strength of BLIP's pre-training."""
    image = Image.open(io.BytesIO(data)).convert("RGB")
    top, left, height, width = crops.random_crop_box(image.height, image.width, (0.2, 1.0), rng)
    box = (left, top, left + width, top + height)
    image = image.crop(box).resize((SIZE, SIZE), Image.Resampling.BICUBIC)
    if rng.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    for choice in rng.integers(len(augment.OPS), size=2):
        if rng.random() < 0.5:
            image = pil_operation(augment.OPS[choice], image, 1 if rng.random() < 0.5 else -1)
    return np.asarray(image)


def pil_operation(op: str, image: Image.Image, sign: int) -> Image.Image:
    if op in AFFINE:
        identity = np.array([1, 0, 0, 0, 1, 0])
        matrix = tuple(identity + sign * (np.array(AFFINE[op]) - identity))
        method, bilinear = Image.Transform.AFFINE, Image.Resampling.BILINEAR
        return image.transform(image.size, method, matrix, bilinear, fillcolor=GREY)
    if op == "Rotate":
        return image.rotate(sign * 15, Image.Resampling.BILINEAR, fillcolor=GREY)
    operations = {
        "Identity": lambda: image,
        "AutoContrast": lambda: ImageOps.autocontrast(image),
        "Equalize": lambda: ImageOps.equalize(image),
        "Brightness": lambda: ImageEnhance.Brightness(image).enhance(1.0),
        "Sharpness": lambda: ImageEnhance.Sharpness(image).enhance(1.0),
    }
    return operations[op]()


def with_torchvision():
    """The transforms of torchvision, on one thread; None where it cannot be imported."""
    try:
        import torch
        from torchvision import transforms
    except (ImportError, RuntimeError):  # RuntimeError: built for another torch
        return None
    torch.set_num_threads(1)
    transform = transforms.Compose([
        transforms.RandomResizedCrop(SIZE, (0.2, 1.0), interpolation=Image.Resampling.BICUBIC),
        transforms.RandomHorizontalFlip(),
        transforms.RandAugment(2, 5),
        transforms.ToTensor(),
        transforms.Normalize(images.MEAN.tolist(), images.STD.tolist()),
    ])  # fmt: skip
    return lambda data, rng: transform(Image.open(io.BytesIO(data)).convert("RGB"))


def ours(fast: bool):
    transform = augment.TrainTransform(SIZE, fast=fast)
    return lambda data, rng: transform.pair_of_bytes(data, "", rng)[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--height", type=int, default=375)
    parser.add_argument("--width", type=int, default=500)
    args = parser.parse_args()
    data = [photo(seed, args.height, args.width) for seed in range(args.images)]
    kilobytes = statistics.mean(map(len, data)) / 1000
    print(f"{args.images} JPEGs of {args.width} x {args.height}, {kilobytes:.0f} kB")
    to_uint8 = {"PIL": with_pil, "blip_jax": ours(fast=False), "blip_jax, fast": ours(fast=True)}
    ways = {f"{name}, uint8": way for name, way in to_uint8.items()}
    for name, way in to_uint8.items():
        ways[f"{name}, float32"] = lambda d, rng, way=way: images.normalize(way(d, rng))
    if (torchvision := with_torchvision()) is not None:
        ways["torchvision, float32"] = torchvision
    times: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(args.rounds + 1):
        for name, way in ways.items():
            start = time.process_time()
            for row, encoded in enumerate(data):
                way(encoded, np.random.default_rng([number, row]))
            if number:  # the first round warms up
                times[name].append((time.process_time() - start) / len(data) * 1000)
    for name, found in times.items():
        peer = f"PIL, {name.rpartition(', ')[2]}"
        ratio = statistics.median(a / b for a, b in zip(times[peer], found, strict=True))
        middle = statistics.median(found)
        print(f"{name:26} {middle:.2f} ms, {1000 / middle:.0f} images/s, {ratio:.2f} x PIL's")


if __name__ == "__main__":
    main()
