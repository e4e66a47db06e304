"""One Shapes dataset in a folder, as `blip-jax prepare --config shapes:vqa` makes it."""

from __future__ import annotations

import dataclasses
import os
import shutil

from etils import epath

from blip_jax.data.synthetic.builder import prepare
from blip_jax.data.synthetic.config import ShapesConfig
from blip_jax.data.synthetic.scenes import World
from blip_jax.runtime.arguments import Seed, check_fields
from blip_jax.runtime.config import to_json, write_config
from blip_jax.runtime.errors import UserError
from blip_jax.runtime.files import atomic_folder, read_json


@dataclasses.dataclass(frozen=True)
class ShapesDatasetConfig:
    """A dataset of one kind: questions, statements, dialogs, clips, or captions.

    Raises:
      UserError: a setting is out of range.
    """

    kind: str = "vqa"  # human, web, vqa, pairs, dialog or clips
    world: World = World()
    train: int | None = None  # images of the training split; the kind's default if not given
    val: int | None = None  # images of the validation split, 0 for none
    test: int | None = None  # images of the test split, 0 for none
    captions_per_image: int = 5  # texts of an image of `human`
    noise_share: float = 0.5  # share of the texts of `web` that do not describe their image
    short_share: float = 0.5  # share of the true texts of `web` that leave something out
    # Forms of questions (vqa, dialog) or statements (pairs); all that the world allows if empty,
    # but for those that small models hardly learn.
    templates: tuple[str, ...] = ()
    questions_per_image: int = 1  # most questions of an image or clip
    rounds: int = 3  # rounds of a dialog
    options: int = 10  # candidate answers of a round of a dialog, of which one is right
    option_synonyms: bool = False  # whether options may be synonyms of the right answer
    motion: str = "partial"  # of objects in clips: partial (none) or hop (from cell to cell)
    frames: int = 16  # frames of a clip
    blank_images: bool = False  # make all pictures grey, to see what texts alone say
    language: str = "english"  # of the texts of human and web; also japanese
    seed: Seed = 0  # another seed gives other records
    workers: int = 1  # processes that draw the pictures; it does not change them

    def __post_init__(self):
        check_fields(self)
        self.builder_config()

    def builder_config(self) -> ShapesConfig:
        """Returns the same settings as TFDS's builder takes them."""
        names = {field.name for field in dataclasses.fields(self)} - {"workers"}
        return ShapesConfig(**{name: getattr(self, name) for name in names})


def prepare_dataset(config: ShapesDatasetConfig, workdir: str) -> None:
    """Makes the dataset in `workdir`, all or nothing, unless it is there already.

    Besides the dataset, config.json holds the settings.

    Args:
      workdir: a local folder that is empty or missing, or holds this very dataset.

    Raises:
      UserError: the folder holds something else.
    """
    folder = epath.Path(workdir)
    if (folder / "features.json").exists():
        settings = to_json(dataclasses.replace(config, workers=1))
        made = read_json(folder / "config.json") if (folder / "config.json").exists() else {}
        if {"blank_images": False, "language": "english", **made, "workers": 1} != settings:
            raise UserError(f"{workdir} holds another dataset; choose another --workdir")
        return
    with atomic_folder(workdir) as temporary:
        build = temporary / "build"
        made = prepare(os.fspath(build), config.builder_config(), config.workers)
        for file in epath.Path(made).iterdir():
            shutil.move(os.fspath(file), temporary / file.name)
        shutil.rmtree(build)
        write_config(temporary, config)
