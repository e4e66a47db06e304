"""Images of requests: base64 or URLs to pixels.

S pixels a side.
"""

import asyncio
import base64
import binascii
import io
import re
import urllib.parse
import warnings
from collections.abc import Sequence
from concurrent.futures import Executor

import httpx2
import numpy as np
from PIL import Image

from blip_jax.data.images import ImageError, decode, resize
from blip_jax.serving.config import ServeConfig

# Further formats of PIL call other programs (EPS) or are seldom what a client means to send.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
_DATA_URL = re.compile(r"data:image/[\w.+-]+;base64,")
# What resolves to another path than it shows.
_DOT_SEGMENT = re.compile(r"(^|/)\.{1,2}(/|$)")


class ImageReader:
    """Reads the images of requests, in a pool of threads.

    Args:
      config: what is allowed.
      pool: in which images are decoded.
    """

    def __init__(self, config: ServeConfig, pool: Executor):
        self._config, self._pool = config, pool
        self._client = httpx2.AsyncClient(follow_redirects=False, timeout=config.body_timeout)

    async def close(self) -> None:
        """Closes connections to other servers."""
        await self._client.aclose()

    async def read(self, images: Sequence[str], size: int, upright: bool) -> list[np.ndarray]:
        """Returns uint8 [S, S, 3] of each image.

        Args:
          images: base64 or URLs.
          size: S.
          upright: see `data.images.decode`.

        Raises:
          ImageError: one cannot be read; the message names it.
        """
        loop = asyncio.get_running_loop()

        async def one(number: int, image: str) -> np.ndarray:
            try:
                data = await self._fetch(image) if _is_url(image) else image
                return await loop.run_in_executor(self._pool, self._pixels, data, size, upright)
            except ImageError as error:
                raise ImageError(f"images[{number}]: {error}") from error

        return await asyncio.gather(*(one(*numbered) for numbered in enumerate(images)))

    def _pixels(self, data: bytes | str, size: int, upright: bool) -> np.ndarray:
        if isinstance(data, str):
            data = _from_base64(data)
        self._check_header(data)
        return resize(decode(data, upright), size)

    def _check_header(self, data: bytes) -> None:
        """Raises an ImageError unless it is an image of a known format with few enough pixels."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of PIL, about large images
                width, height = Image.open(io.BytesIO(data), formats=FORMATS).size
        except Image.DecompressionBombError as error:
            raise ImageError(f"more than {self._config.max_pixels} pixels") from error
        except Exception as error:  # PIL raises many types of errors on damaged files
            known = ", ".join(FORMATS)
            raise ImageError(f"not an image of a format that is read ({known})") from error
        if width * height > self._config.max_pixels:
            raise ImageError(f"{width}x{height} pixels are more than {self._config.max_pixels}")

    async def _fetch(self, url: str) -> bytes:
        if not self._is_allowed(url):
            raise ImageError("this URL is not fetched; send the image in base64")
        try:
            async with (
                asyncio.timeout(self._config.body_timeout),
                self._client.stream("GET", url) as response,
            ):
                if response.status_code != 200:
                    raise ImageError(f"its server answers {response.status_code}")
                data = bytearray()
                async for part in response.aiter_bytes():
                    data += part
                    if len(data) > self._config.max_body:
                        raise ImageError(f"more than {self._config.max_body} bytes")
                return bytes(data)
        except (httpx2.HTTPError, httpx2.InvalidURL, TimeoutError, ValueError) as error:
            if isinstance(error, ImageError):
                raise
            raise ImageError(f"it cannot be fetched ({type(error).__name__})") from error

    def _is_allowed(self, url: str) -> bool:
        if not url.startswith(self._config.allow_url) or not url.isprintable() or "\\" in url:
            return False
        path = urllib.parse.unquote(urllib.parse.unquote(urllib.parse.urlsplit(url).path))
        return not _DOT_SEGMENT.search(path)


def _is_url(image: str) -> bool:
    return "://" in image[:16]


def _from_base64(text: str) -> bytes:
    prefix = _DATA_URL.match(text[:100])
    try:
        return base64.b64decode(text[prefix.end() if prefix else 0 :], validate=True)
    except (binascii.Error, ValueError) as error:
        raise ImageError("neither base64 nor a URL") from error
