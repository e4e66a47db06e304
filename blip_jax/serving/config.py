"""The settings of the server."""

import dataclasses
import math
import re

from blip_jax.runtime.arguments import check_fields
from blip_jax.runtime.errors import UserError


@dataclasses.dataclass(frozen=True)
class ServeConfig:
    """Where the server listens, how it batches, and what it refuses."""

    host: str = "127.0.0.1"  # address to listen on; 0.0.0.0: all of this machine
    port: int = 8000  # TCP port; 0: any that is free
    # Rows a device that programs are compiled for. An image with its texts is a row, of sampled
    # captions each caption.
    batch_sizes: tuple[int, ...] = (1, 4, 16)
    max_wait_ms: float = 10.0  # a row waits this long for others, to be computed in one batch
    max_queue: int = 256  # rows that wait; 429 beyond
    max_requests: int = 64  # requests that are read, waiting or computed; 429 beyond
    timeout: float = 60.0  # seconds from a request's begin to its response; 504 beyond
    body_timeout: float = 10.0  # seconds to receive a request, and to fetch a URL; 408 beyond
    max_body_mib: float = 16.0  # of a request, and of an image from a URL; 413 beyond
    max_pixels: int = 25_000_000  # of an image, by its header
    max_images: int = 16  # of a request
    max_texts: int = 16  # that one request of /v1/match compares
    max_candidates: int = 64  # answers to choose from
    max_captions: int = 8  # texts of an image
    max_tokens: int = 40  # of a caption, [DEC] and prompt counted
    num_beams: int = 3  # of beam search, which programs are compiled for
    # Prefixes of URLs that may be fetched, as https://host/photos/; without any none is.
    allow_url: tuple[str, ...] = ()
    token_file: str = ""  # file with the bearer token that clients must send; none: no token

    def __post_init__(self):
        check_fields(self)
        least = {"max_wait_ms": 0, "port": 0}
        for field in dataclasses.fields(self):
            if field.type not in (int, float):
                continue
            value, lowest = getattr(self, field.name), 1 if field.type is int else 0.1
            lowest = least.get(field.name, lowest)
            if not lowest <= value < math.inf:
                raise UserError(f"{field.name} is {value}; it must be at least {lowest}")
        if self.port > 65535:
            raise UserError(f"port is {self.port}; it must be at most 65535")
        if not self.batch_sizes or min(self.batch_sizes) < 1:
            raise UserError("batch_sizes must be one or more numbers above 0, such as 1 4 16")
        for prefix in self.allow_url:
            # Without the slash it would also allow https://host.example.org/.
            if not re.fullmatch(r"https?://[^/?#@\\\s]+/[^?#\\\s]*", prefix):
                raise UserError(
                    f"allow_url is {prefix!r}; give https:// or http://, a host and a path that "
                    "begins with /, as https://host/photos/"
                )

    @property
    def max_body(self) -> int:
        """Returns the most bytes of a request."""
        return int(self.max_body_mib * 2**20)
