"""Pictures in pages: as data that needs no other file."""

import base64
import io

import numpy as np
from PIL import Image

SIDE = 400  # pixels, the longer side of pictures
SMALL = 160  # pixels: a smaller picture is kept without loss, and enlarged without smoothing


def embedded(pixels: np.ndarray | None) -> dict[str, object]:
    """Returns "uri", "" for no picture, "width" and "height", and whether it is "small".

    Args:
      pixels: uint8 [H, W, 3], upright; None: there is no picture.
    """
    if pixels is None:
        return {"uri": "", "width": 0, "height": 0, "small": False}
    image = Image.fromarray(pixels)
    small = max(image.size) < SMALL
    image.thumbnail((SIDE, SIDE))
    buffer = io.BytesIO()
    image.save(buffer, "PNG" if small else "JPEG", **({} if small else {"quality": 85}))
    kind = "png" if small else "jpeg"
    uri = f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
    return {"uri": uri, "width": image.width, "height": image.height, "small": small}
