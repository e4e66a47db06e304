"""Where the folders of a benchmark's images or clips are."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping

from etils import epath

from blip_jax.runtime.errors import UserError

# Where people unpack an owner's folder of images, relative to that of the benchmark.
PLACES = ("", "images", "image", "Images", "mscoco", "Images/mscoco", "coco", "coco/images")


class ImageFolders:
    """Finds images by the names that the owner gave to them and to their folders."""

    def __init__(self, root: str, other_names: Mapping[str, tuple[str, ...]], what: str = "images"):
        """Args:
        root: the folder of the benchmark, or config.images.
        other_names: of the owner's folders.
        what: they hold, for messages.
        """
        self._root, self._other_names, self._what = root, other_names, what
        self._listings: dict[str, frozenset[str] | None] = {}

    def locate(self, *images: str) -> str:
        """Returns the path, relative to the root, of the first of the images that is there.

        If none is, the place where it should be, so that the image is counted as missing.

        Args:
          images: FOLDER/FILE, as the owner has them; the file may be in an inner folder.

        Raises:
          UserError: there is no folder for them.
        """
        expected = ""
        for image in images:
            folder, _, file = image.partition("/")
            for place in self._places(folder):
                path = os.path.join(place, file)
                names = self._listing(os.path.dirname(path))
                if names is not None and os.path.basename(path) in names:
                    return path
                if place and not expected and self._listing(place) is not None:
                    expected = path
        if not expected:
            folders = list(dict.fromkeys(image.partition("/")[0] for image in images))
            raise UserError(
                f"{self._root} has no folder of {self._what} {' or '.join(folders)} (looked there "
                f"and in {', '.join(place for place in PLACES if place)}); unpack them there, or "
                "name the folder that it is in with --config.images"
            )
        return expected

    def _places(self, folder: str) -> Iterator[str]:
        """Yields the possible paths of a folder of images; last the root itself, ""."""
        for name in (folder, *self._other_names.get(folder, ())):
            yield from (os.path.join(place, name) for place in PLACES)
        yield ""

    def _listing(self, folder: str) -> frozenset[str] | None:
        """Returns the names in a folder; None if it does not exist."""
        if folder not in self._listings:
            path = epath.Path(self._root) / folder
            names = frozenset(child.name for child in path.iterdir()) if path.is_dir() else None
            self._listings[folder] = names
        return self._listings[folder]
