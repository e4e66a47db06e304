"""The settings of a bootstrap run."""

import dataclasses
from typing import Literal

from blip_jax.capfilt.bootstrap.arms import ARMS
from blip_jax.capfilt.config import CapFiltConfig, check_number, check_share
from blip_jax.data.tokenizer_training import TokenizerType
from blip_jax.runtime.arguments import Seed, check_fields
from blip_jax.runtime.errors import UserError
from blip_jax.runtime.suggestions import hint
from blip_jax.tasks.captioning import GREEDY
from blip_jax.tasks.evaluate import EvaluateConfig
from blip_jax.tasks.pretraining import PretrainingConfig
from blip_jax.train import recipes
from blip_jax.train.config import TrainConfig

FILLED = {"required": False}  # group in which the run sets datasets and models


@dataclasses.dataclass(frozen=True)
class WorldConfig:
    """The datasets of synthetic images that are made where none are given."""

    language: str = "english"  # of the texts, english or japanese
    image_size: int = 32  # width and height of images in pixels
    cells: int = 2  # the grid of an image is cells x cells, an object in one cell
    max_objects: int = 2  # most objects in an image
    shapes: int = 4  # number of different shapes
    colours: int = 5  # number of different colours
    jitter: float = 0.0  # how far objects are from the middle of their cell, as a share of the room
    human_images: int = 600  # number of images of the human pairs
    human_captions: int = 2  # captions of each of these images
    web_images: int = 10_000  # number of images of the web pairs, one text each
    noise_share: float = 0.5  # share of web texts that do not describe their image
    short_share: float = 0.5  # share of the true web texts that leave something out
    test_images: int = 1000  # number of images of the test split
    test_captions: int = 5  # captions of each of these images


@dataclasses.dataclass(frozen=True)
class BootstrapConfig:
    """The full pipeline: pre-train, CapFilt, pre-train again, evaluate; on the paper's four arms.

    Raises:
      UserError: an arm is unknown.
    """

    title: str = "CapFilt on the Shapes dataset"  # title of the report
    seeds: tuple[Seed, ...] = (0,)  # one run per seed; the table gives mean and spread
    # What is compared, by the names in blip_jax/capfilt/bootstrap/arms.py: the paper's none,
    # filter, captioner and both, or further ones such as human, both_beam, both_beam_round2.
    arms: tuple[str, ...] = ("none", "filter", "captioner", "both")
    human_dataset: str = ""  # folder of human pairs, with features.json; "" makes Shapes
    web_dataset: str = ""  # folder of web pairs; "" makes Shapes
    test_dataset: str = ""  # folder of the images to evaluate on; "" makes Shapes
    tokenizer: str = ""  # hub id or folder; "" trains one on the training texts
    # What is trained: BERT's (in lower case, by words between blanks), sentencepiece's or GPT-2's.
    tokenizer_type: TokenizerType = "wordpiece"
    # Clean-up of texts in all of the run, blip or unicode, as in a training run; "": as the
    # tokenizer's folder says, else blip.
    text_cleanup: Literal["", "blip", "unicode"] = ""
    vocab_size: int = 400  # number of tokens if a tokenizer is trained
    # Folders of datasets of later tasks, whose training texts, questions and answers count too if a
    # tokenizer is trained. A model keeps its vocabulary.
    vocabulary_datasets: tuple[str, ...] = ()
    world: WorldConfig = WorldConfig()
    # Share of human pairs in training batches, the same in all arms that have web texts.
    human_fraction: float = 0.25
    threshold: float = 0.5  # least P(match) of a text that the filter keeps
    pretraining: TrainConfig = dataclasses.field(default=recipes.pretraining(), metadata=FILLED)
    captioner: TrainConfig = dataclasses.field(default=recipes.captioning(), metadata=FILLED)
    filter: TrainConfig = dataclasses.field(default=recipes.retrieval(), metadata=FILLED)
    # One model that is both, of the arm both_shared.
    captioner_and_filter: TrainConfig = dataclasses.field(
        default=recipes.pretraining(), metadata=FILLED
    )
    capfilt: CapFiltConfig = dataclasses.field(
        default=CapFiltConfig(batch_size=256), metadata=FILLED
    )
    evaluation: EvaluateConfig = dataclasses.field(
        default=EvaluateConfig(
            task=PretrainingConfig(rerank_k=16, gallery_size=500, decoding=GREEDY)
        ),
        metadata=FILLED,
    )
    gallery_images: int = 60  # images shown in the report

    def __post_init__(self):
        check_fields(self)
        for name in ("seeds", "arms"):
            if not getattr(self, name):
                raise UserError(f"{name} is empty; give at least one")
        if len(set(self.seeds)) < len(self.seeds):
            raise UserError(f"seeds has a seed twice: {self.seeds}")
        check_number("threshold", self.threshold)
        check_share("human_fraction", self.human_fraction)
        for arm in self.arms:
            if arm not in ARMS:
                raise UserError(f"unknown arm {arm!r}; {hint(arm, ARMS)}")
            if ARMS[arm].perfect and self.web_dataset:
                raise UserError(
                    f"arm {arm!r} needs true texts of all web images, which only Shapes has; leave "
                    "it out, or leave out config.web_dataset"
                )
