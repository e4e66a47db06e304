"""What a Shapes dataset holds: kinds, their settings, and numbers of images."""

from __future__ import annotations

import dataclasses
import hashlib
import json

import tensorflow_datasets as tfds

from blip_jax.data.synthetic import clips, dialogs, question_templates, statements
from blip_jax.data.synthetic.languages import ENGLISH, LANGUAGES
from blip_jax.data.synthetic.scenes import World
from blip_jax.runtime.arguments import Seed, check_value
from blip_jax.runtime.errors import UserError
from blip_jax.runtime.suggestions import hint

KINDS = ("human", "web", "vqa", "pairs", "dialog", "clips")  # a kind's number is part of its seeds
SPLITS = ("train", "val", "test")
DEFAULT_COUNTS = {
    "human": (600, 500, 1000),
    "web": (10_000, 500, 1000),
    "vqa": (8000, 1000, 2000),
    "pairs": (8000, 1000, 2000),
    "dialog": (5000, 500, 1000),
    "clips": (2000, 200, 400),
}
_CAPTION_SETTINGS = ("captions_per_image", "noise_share", "short_share")
# The settings that determine the records of each kind, besides splits, seed and world.
SETTINGS = {
    "human": _CAPTION_SETTINGS,
    "web": _CAPTION_SETTINGS,
    "vqa": ("templates", "questions_per_image"),
    "pairs": ("templates",),
    "dialog": ("templates", "rounds", "options", "option_synonyms"),
    "clips": ("templates", "questions_per_image", "motion", "frames"),
}
# Names of all forms of question or statement of a kind, and of those that are used by default.
TEMPLATES = {
    "vqa": (question_templates.TEMPLATES, tuple(question_templates.TEMPLATES)),
    "pairs": (statements.TEMPLATES, statements.DEFAULT_TEMPLATES),
    "dialog": (dialogs.ASKED, dialogs.DEFAULT_TEMPLATES),
    "clips": (
        {name: question_templates.TEMPLATES[name] for name in clips.TEMPLATES},
        clips.TEMPLATES,
    ),
}
MAX_OPTIONS = 14  # the smallest world has no more answers


@dataclasses.dataclass(eq=False)
class ShapesConfig(tfds.core.BuilderConfig):
    """What to build.

    Attributes:
      kind: "human": true, full captions. "web": one alt-text an image, a share of them noise.
        "vqa": questions with answers of ten annotators. "pairs": a statement about two images.
        "dialog": a caption and rounds of questions, each with candidate answers. "clips": video
        files with a caption and questions.
      world: settings of the scenes.
      train, val, test: images a split; None takes the kind's default (DEFAULT_COUNTS), 0 leaves
        the split out. Those of `web`, val and test, are for measuring a filter. Records 2i and
        2i + 1 of `vqa`, `pairs` and `clips` are twins; with an even number each has its twin.
      captions_per_image: texts an image of `human`; a web image has one.
      noise_share: share of web texts that are noise, kinds as in NOISE_MIX.
      short_share: share of the web texts of a scene (true, or mismatched, or with one attribute
        wrong) that are short.
      seed: the same seed gives the same records; other seeds share none.
      templates: forms of questions (`vqa`, `dialog`) or statements (`pairs`), of TEMPLATES; empty
        takes the kind's defaults that the world allows.
      questions_per_image: most questions an image of `vqa` or a clip; further ones than the first
        ask for attributes and backgrounds (questions.FOR_ANY_SCENE).
      rounds: rounds of a dialog.
      options: candidate answers of a round, 2 to MAX_OPTIONS.
      option_synonyms: whether options may be synonyms of the right answer, with a relevance of 0.5.
        Which of two synonyms was said cannot be known, so recall at 1 cannot reach 100 then.
      motion: of the objects in clips: "partial" (none) or "hop".
      frames: frames of a clip, 2 or more.
      blank_images: whether all pictures are grey, to see what can be learned from texts alone. The
        records do not differ otherwise.
      language: of the texts, english or japanese (of `human` and `web` alone).
      name: leave it out; it is the kind and a digest of the settings, so that each build has a
        folder of its own.

    Raises:
      UserError: a setting is out of range.
    """

    name: str = ""
    kind: str = "human"
    world: World = dataclasses.field(default_factory=World)
    train: int | None = None
    val: int | None = None
    test: int | None = None
    captions_per_image: int = 5
    noise_share: float = 0.5
    short_share: float = 0.5
    seed: Seed = 0
    templates: tuple[str, ...] = ()
    questions_per_image: int = 1
    rounds: int = 3
    options: int = 10
    option_synonyms: bool = False
    motion: str = "partial"
    frames: int = 16
    blank_images: bool = False
    language: str = "english"

    def __post_init__(self):
        check_value("seed", self.seed, Seed)
        if self.kind not in KINDS:
            raise UserError(f"kind is {self.kind!r}; it must be one of {', '.join(KINDS)}")
        if self.language not in LANGUAGES:
            raise UserError(
                f"there is no language {self.language!r:.80}; {hint(self.language, LANGUAGES)}"
            )
        if self.language != ENGLISH.name and self.kind not in ("human", "web"):
            raise UserError(
                f"datasets of kind {self.kind} are in english alone; leave out language, or set "
                "kind to human or web"
            )
        for split, count in zip(SPLITS, DEFAULT_COUNTS[self.kind], strict=True):
            if getattr(self, split) is None:
                setattr(self, split, count)
            if getattr(self, split) < 0:
                raise UserError(f"{split} is {getattr(self, split)}; it must be 0 or more")
        for share in ("noise_share", "short_share"):
            if not 0 <= getattr(self, share) <= 1:
                raise UserError(f"{share} is {getattr(self, share)}; it must be from 0 to 1")
        if self.captions_per_image < 1:
            raise UserError(
                f"captions_per_image is {self.captions_per_image}; it must be 1 or more"
            )
        if not any(self.counts().values()):
            raise UserError("train, val and test are all 0; at least one must hold images")
        if self.kind in TEMPLATES:
            self.templates = self._templates()
        if self.questions_per_image < 1:
            raise UserError(
                f"questions_per_image is {self.questions_per_image}; it must be 1 or more"
            )
        if self.kind in ("dialog", "clips") and self.world.max_objects < 2:
            raise UserError(f"{self.kind} needs two objects; set world.max_objects to 2 or more")
        if self.kind == "dialog":
            self._check_dialog()
        if self.kind == "clips":
            self._check_clips()
        text = json.dumps(self.settings(), sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()[:8]
        self.name = self.name or f"{self.kind}-{digest}"

    def _templates(self) -> tuple[str, ...]:
        """Returns the names of the templates that are used."""
        known, default = TEMPLATES[self.kind]
        for name in self.templates:
            if name not in known:
                raise UserError(f"{self.kind} has no template {name!r}; {hint(name, known)}")
            if self.kind != "dialog" and not known[name].possible(self.world):
                raise UserError(f"template {name} needs a world with {known[name].needs}")
        if self.templates or self.kind == "dialog":
            return tuple(dict.fromkeys(self.templates or default))
        return tuple(name for name in default if known[name].possible(self.world))

    def _check_dialog(self) -> None:
        most = dialogs.max_rounds(self.templates)
        if not 1 <= self.rounds <= most:
            raise UserError(
                f"rounds is {self.rounds}; it must be from 1 to {most}, since no round asks what "
                f"is known already (templates: {', '.join(self.templates)})"
            )
        if not 2 <= self.options <= MAX_OPTIONS:
            raise UserError(f"options is {self.options}; it must be from 2 to {MAX_OPTIONS}")

    def _check_clips(self) -> None:
        if self.motion not in clips.MOTIONS:
            raise UserError(f"motion is {self.motion!r}; it must be {' or '.join(clips.MOTIONS)}")
        if self.frames < 2:
            raise UserError(f"frames is {self.frames}; it must be 2 or more")
        if self.world.image_size % 2:
            raise UserError(f"world.image_size is {self.world.image_size}; a clip's must be even")

    def settings(self) -> dict:
        """Returns all that determines the records, as plain JSON values."""
        names = ("kind", *SPLITS, *SETTINGS[self.kind], "seed")
        values = {name: getattr(self, name) for name in names}
        if self.blank_images:
            values["blank_images"] = True
        if self.language != ENGLISH.name:
            values["language"] = self.language
        return {**values, "world": dataclasses.asdict(self.world)}

    def counts(self) -> dict[str, int]:
        """Returns the number of images of each split that has any."""
        return {split: getattr(self, split) for split in SPLITS if getattr(self, split)}
