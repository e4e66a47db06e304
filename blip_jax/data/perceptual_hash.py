"""Perceptual hashes of pictures: the bits of `imagehash.phash`, in half its time.

Axes: H height, W width; channels are red, green, blue and come last.
"""

from __future__ import annotations

import functools
import math

import cv2
import numpy as np
from PIL import Image

SIDE = 32  # of the small grey picture
BITS = 8  # low frequencies an axis
PRECISION = 22  # bits behind the point of PIL's weights
LOBES = 3  # of the Lanczos window
BLOCK = 8  # rows of a block of weights: of fewer, matrix products are slow, more have more zeros
STRIP = 16_000  # pixels turned grey at once, so that they stay in the processor's cache
GREY = np.array([[19595, 38470, 7471, 32768]], np.float32) / 65536  # PIL's, and a half to round by
# The lowest frequencies of a discrete cosine transform of SIDE values.
COSINES = 2 * np.cos(np.pi / SIDE * np.outer(np.arange(BITS), np.arange(SIDE) + 0.5))
ROUNDING = 1e-6  # more than the rounding errors of frequencies, which are below 1e-8


def perceptual_hash(picture: np.ndarray) -> str:
    """Returns the hash, 16 hex digits, of a picture uint8 [H, W, 3]."""
    small = _shrink(_grey(picture))
    difference = _from_median(COSINES @ small.astype(np.float64) @ COSINES.T)
    if np.abs(difference).min() < ROUNDING:
        difference = _from_median(_frequencies(small))
    return np.packbits(difference > 0).tobytes().hex()


def _frequencies(small: np.ndarray) -> np.ndarray:
    """Returns the lowest frequencies with imagehash's rounding errors, which decide bits where
    frequencies are equal but for these, as in a picture of one colour."""
    from scipy.fftpack import dct  # 0.2 s, and seldom needed

    return dct(dct(small, axis=0), axis=1)[:BITS, :BITS]


def _from_median(frequencies: np.ndarray) -> np.ndarray:
    ordered = np.sort(frequencies, axis=None)
    return frequencies - (ordered[BITS**2 // 2 - 1] + ordered[BITS**2 // 2]) / 2


def _grey(picture: np.ndarray) -> np.ndarray:
    """Returns the pixels of PIL's convert("L"), uint8 [H, W].

    PIL computes with whole numbers below 2**24, so float32 gives the same.
    """
    height, width = picture.shape[:2]
    grey = np.empty((height, width), np.uint8)
    rows = max(1, STRIP // width)
    for top in range(0, height, rows):
        strip = picture[top : top + rows].astype(np.float32)
        grey[top : top + rows] = cv2.transform(strip, GREY)
    return grey


def _shrink(grey: np.ndarray) -> np.ndarray:
    """Returns uint8 [SIDE, SIDE] of uint8 [H, W]: the pixels of PIL's resize with LANCZOS."""
    height, width = grey.shape
    # PIL leaves out an axis that has its length, and 13 begins with the columns of tall pictures.
    is_tall = height - SIDE > 2 * (width - SIDE)
    if SIDE in (height, width) or is_tall:
        image = Image.fromarray(grey).resize((SIDE, SIDE), Image.Resampling.LANCZOS)
        return np.asarray(image)
    columns = _shrink_axis(cv2.transpose(grey))
    return _shrink_axis(cv2.transpose(columns))


def _shrink_axis(pixels: np.ndarray) -> np.ndarray:
    """Returns uint8 [SIDE, N] of uint8 [L, N]: the first axis is resized."""
    exact = pixels.astype(np.float64)  # times multiples of 2**-PRECISION: no sum is rounded
    sums = np.empty((SIDE, pixels.shape[1]))
    for rows, taps, weights in _weights(len(pixels)):
        np.matmul(weights, exact[taps], out=sums[rows])
    sums += 0.5
    np.maximum(sums, 0, out=sums)  # np.clip takes four times as long for small arrays
    return np.minimum(sums, 255, out=sums).astype(np.uint8)


@functools.lru_cache(1024)
def _weights(length: int) -> list[tuple[slice, slice, np.ndarray]]:
    """Returns PIL's weights of `length` pixels in each of SIDE, as blocks of a banded matrix.

    A block: its rows, its columns, and the weights float64 [rows, columns], which PIL has in whole
    numbers of 2**-PRECISION. Outside of all blocks they are 0.
    """
    scale = length / SIDE
    stretch = max(scale, 1.0)
    reach = LOBES * stretch
    center = (np.arange(SIDE) + 0.5) * scale
    first = np.maximum((center - reach + 0.5).astype(int), 0)
    last = np.minimum((center + reach + 0.5).astype(int), length)
    taps = np.arange(2 * math.ceil(reach) + 1)
    pixel = first[:, None] + taps
    x = (pixel - center[:, None] + 0.5) / stretch
    weights = np.where(pixel < last[:, None], np.sinc(x) * np.sinc(x / LOBES), 0)
    weights /= np.add.accumulate(weights, axis=1)[:, -1:]  # summed in order, as PIL does
    whole = np.trunc(weights * (1 << PRECISION) + np.copysign(0.5, weights)) / (1 << PRECISION)
    matrix = np.zeros((SIDE, length))
    row, tap = np.nonzero(whole)
    matrix[row, pixel[row, tap]] = whole[row, tap]
    blocks = []
    for top in range(0, SIDE, BLOCK):
        rows, taps = slice(top, top + BLOCK), slice(first[top], last[top + BLOCK - 1])
        blocks.append((rows, taps, np.ascontiguousarray(matrix[rows, taps])))
    return blocks
