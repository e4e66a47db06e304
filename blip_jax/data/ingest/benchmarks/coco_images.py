"""The names of COCO's images, which several benchmarks use."""

from __future__ import annotations

import re

from blip_jax.data.ingest.benchmarks.owner_files import OwnerFile

URL = "https://cocodataset.org/#download"


def image_path(folder: str, image_id: int) -> str:
    """Returns FOLDER/FILE of an image of 2014 or 2015: test2015/COCO_test2015_000000000001.jpg."""
    return f"{folder}/COCO_{folder}_{image_id:012d}.jpg"


def image_id(file: OwnerFile, image: str) -> str:
    """Returns the id in the name of an image: COCO_val2014_000000391895.jpg -> "391895".

    Raises:
      UserError: the name, which stands in `file`, is not one of COCO's.
    """
    found = re.search(r"(\d+)\.\w+$", image)
    if not found:
        raise file.wrong(f"names the image {image!r}, which is not one of COCO's")
    return str(int(found[1]))
