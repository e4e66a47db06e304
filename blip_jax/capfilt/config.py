"""The settings of CapFilt and of assembling its result; the defaults are the paper's."""

import dataclasses
import math
from typing import Literal

from blip_jax.capfilt.work_queue import LEASE_SECONDS
from blip_jax.decoding import Decoding
from blip_jax.runtime.arguments import NonNegative, Positive, Seed, check_fields
from blip_jax.runtime.beam import BeamConfig
from blip_jax.runtime.config import required
from blip_jax.runtime.errors import UserError
from blip_jax.runtime.suggestions import hint

METHODS = ("nucleus", "sample", "top_k", "greedy", "beam")  # of decoding_methods
DEFAULT_TOP_K = 50  # of the method "top_k" if decoding.top_k is 0


def check_number(name: str, value: float) -> None:
    """Raises a UserError if a field is NaN or infinite."""
    if not math.isfinite(value):
        raise UserError(f"{name} is {value}; expected a finite number")


def check_share(name: str, value: float) -> None:
    """Raises a UserError if a field is not in 0..1."""
    if not 0 <= value <= 1:
        raise UserError(f"{name} is {value}; expected 0 to 1")


@dataclasses.dataclass(frozen=True)
class ScoringConfig:
    """What is captioned and how, for `run`.

    Attributes:
      dataset: the input: a dataset's folder, or the mixture file of an earlier round (inputs.py).
      split: of the dataset.
      output: folder of the scored dataset.
      decodings: how each captioner generates; each gives `num_captions` texts.
      batch_size: images on each device at a time.
      shard_rows: rows of the input in a shard.
      plugin_image_size: shorter side, in pixels, of plug-ins' pictures at most; 0: any.
      seed: of sampling.
      command: the command line, for the dataset card.
      lease_seconds: seconds after which other hosts take over the shard of a silent host.
    """

    dataset: str
    split: str
    output: str
    decodings: tuple[Decoding, ...] = (Decoding(),)
    batch_size: Positive = 64
    shard_rows: Positive = 1024
    seed: Seed = 0
    plugin_image_size: NonNegative = 512
    command: str = ""
    lease_seconds: float = LEASE_SECONDS

    def __post_init__(self):
        check_fields(self)


@dataclasses.dataclass(frozen=True)
class CapFiltConfig:
    """What is captioned and scored, and by which models.

    Raises:
      UserError: a value is out of range.
    """

    # The dataset to clean: its folder, with features.json, or the mixture file of an earlier round.
    dataset: str = required("FOLDER")
    split: str = "train"  # split of the dataset
    # Models that write captions, comma-separated: workdirs, checkpoints or hub ids, or plug-ins
    # PACKAGE.MODULE:FUNCTION?OPTION=VALUE&…, each optionally named as NAME=MODEL; "" writes no
    # captions and scores the existing texts.
    captioners: str = ""
    filters: str = required("MODEL")  # models and plug-ins that score texts, given as captioners
    # Plug-ins that give each image a further score (aesthetics, NSFW, watermarks), comma-separated.
    extra_scores: str = ""
    # Shorter side, in pixels, of the pictures that plug-ins get, at most; 0: as they are stored.
    plugin_image_size: NonNegative = 512
    # How each captioner writes, comma-separated: METHOD or METHOD*NUMBER, as nucleus*2,top_k,beam;
    # replaces decoding.method and decoding.num_captions.
    decoding_methods: str = "nucleus"
    decoding: Decoding = Decoding()
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"  # compute dtype
    image_size: NonNegative = 0  # in pixels, for all models; 0: the size that each was trained with
    batch_size: Positive = 64  # images per device
    shard_rows: Positive = 1024  # rows of the dataset per shard, the unit of work
    seed: Seed = 0  # seed of sampled texts
    threshold: float = 0.5  # least P(match) of a text in the mixture; all scores are stored
    human_dataset: str = ""  # folder of the human pairs of the mixture; "" writes no mixture
    human_fraction: float = 0.25  # share of human pairs in training batches
    beam: BeamConfig = BeamConfig()  # Apache Beam, which then hands out the shards

    def __post_init__(self):
        check_fields(self)
        self.decodings()
        check_number("threshold", self.threshold)
        check_share("human_fraction", self.human_fraction)

    def decodings(self) -> tuple[Decoding, ...]:
        """Returns how each captioner writes: "nucleus*2,beam" is two samples and one beam search.

        Raises:
          UserError: decoding_methods is malformed, or an option is out of range.
        """
        found = []
        for part in filter(None, (part.strip() for part in self.decoding_methods.split(","))):
            method, _, count = part.partition("*")
            if count and not count.isdecimal():
                raise UserError(
                    f"decoding_methods has {part!r}; expected METHOD*NUMBER, as in nucleus*2"
                )
            if method not in METHODS:
                raise UserError(f"decoding_methods has {method!r}; {hint(method, METHODS)}")
            changes = {"method": method, "num_captions": int(count or 1)}
            if method == "nucleus":
                changes["method"] = "sample"
            if method == "top_k":
                top_k = self.decoding.top_k or DEFAULT_TOP_K
                changes |= {"method": "sample", "top_p": 1.0, "top_k": top_k}
            found.append(dataclasses.replace(self.decoding, **changes))
        return tuple(found)

    def scoring(self, output: str, command: str = "") -> ScoringConfig:
        """Returns what `capfilt.run` does with this config; see ScoringConfig."""
        return ScoringConfig(
            dataset=self.dataset,
            split=self.split,
            output=output,
            decodings=self.decodings(),
            batch_size=self.batch_size,
            shard_rows=self.shard_rows,
            seed=self.seed,
            plugin_image_size=self.plugin_image_size,
            command=command,
        )


@dataclasses.dataclass(frozen=True)
class ThresholdConfig:
    """Least P(match) of a text that is kept, by origin."""

    web: float = 0.5  # least P(match) of texts that came with the images
    synthetic: float = 0.5  # least P(match) of texts that a captioner wrote

    def __post_init__(self):
        check_fields(self, "thresholds.")
        for name in ("web", "synthetic"):
            check_number(f"thresholds.{name}", getattr(self, name))


@dataclasses.dataclass(frozen=True)
class ShareConfig:
    """Share of the texts of each number of words that is kept, by origin; 0: by the threshold.

    A filter scores short texts higher, as less in them can be wrong, so that a threshold keeps
    mostly short texts; a share keeps the best of each length.
    """

    web: float = 0.0  # share of the texts that came with the images
    synthetic: float = 0.0  # share of the texts that a captioner wrote

    def __post_init__(self):
        check_fields(self, "shares.")
        for name in ("web", "synthetic"):
            check_share(f"shares.{name}", getattr(self, name))


@dataclasses.dataclass(frozen=True)
class SelectionConfig:
    """Which texts are kept."""

    thresholds: ThresholdConfig = ThresholdConfig()
    shares: ShareConfig = ShareConfig()
    max_texts_per_image: NonNegative = 0  # keeps those with the highest P(match); 0: all
    min_cosine: float = -1.0  # least cosine of the image's and text's ITC features; -1: any
    filter_reduction: str = "mean"  # over several filters: "mean", "min", or one's name
    # Least value by name: of a filter its P(match) or score, of an extra score, of the text's
    # number of words, of its repetition, the share of repeated pairs of words, and of its
    # perplexity under the captioner that wrote it: "clip=0.28,aesthetic=5,words=3".
    minimums: str = ""
    # Highest value, given as minimums are: "nsfw=0.2,words=60,repetition=0.3,perplexity=2".
    maximums: str = ""
    languages: tuple[str, ...] = ()  # ISO 639 codes that are kept, as in en,de; (): all
    # Which images to keep: all ("keep"), the first of those with the same bytes ("exact"), or the
    # first of those with the same bytes or nearly the same look ("near").
    duplicates: Literal["keep", "exact", "near"] = "keep"
    # Sampling weight of the texts of a source; others have 1: "laion=0.5,cc12m=2".
    source_weights: str = ""
    # Calibration of P(match): "" uses the filter's value; "fit" fits it to the texts whose truth is
    # known; a statistics.json reuses the fit that it contains.
    calibration: str = ""

    def __post_init__(self):
        check_fields(self)
        check_number("min_cosine", self.min_cosine)
        for name in ("source_weights", "minimums", "maximums"):
            self.numbers(name)

    def numbers(self, field: str) -> dict[str, float]:
        """Returns the numbers of `source_weights`, `minimums` or `maximums` by name.

        Raises:
          UserError: they are malformed.
        """
        what = "SOURCE=NUMBER, as in laion=0.5"
        if field != "source_weights":
            what = "NAME=NUMBER, as in clip=0.28"
        numbers = {}
        for entry in filter(None, getattr(self, field).split(",")):
            name, _, number = entry.rpartition("=")
            try:
                numbers[name.strip()] = float(number)
                check_number(field, float(number))
            except ValueError:
                raise UserError(f"{field} has {entry!r}; expected {what}") from None
        return numbers


@dataclasses.dataclass(frozen=True)
class AssembleConfig:
    """What is assembled from stored scores."""

    scores: str = required("FOLDER")  # folder that `capfilt` wrote, with features.json
    dataset: str = ""  # folder of the scored images; "": as the scores' provenance.json says
    split: str = ""  # split of the dataset; "": as its provenance.json says
    human_dataset: str = ""  # folder of human pairs to mix in; "": none
    human_fraction: float = 0.25  # share of human pairs in training batches
    origins: tuple[str, ...] = ("web", "synthetic")  # texts to select from
    selection: SelectionConfig = SelectionConfig()
    # Count texts by language, by py3langid (extra "language"); implied by selection.languages.
    identify_languages: bool = False
    threshold_sweep: tuple[float, ...] = ()  # other thresholds to report counts for, as in 0.3,0.7
    gallery_images: NonNegative = 2000  # images in report/index.html; 0: no report
    seed: Seed = 0  # seed of the choice of these images
    workers: NonNegative = 0  # processes, for more than 100,000 images; 0: one per core
    beam: BeamConfig = BeamConfig()  # Apache Beam in place of these processes
    title: str = "Image-text pairs by CapFilt"  # title of the dataset card and the report
    license: str = ""  # Hugging Face's name of it; "": as the images' index says
    url: str = ""  # address where the dataset is published, for croissant.json
    creator: str = ""  # person or organization that publishes it, for croissant.json
    version: str = "1.0.0"  # of the dataset as it is published, for croissant.json
    citation: str = ""  # how to cite it, as in BibTeX, for croissant.json

    def __post_init__(self):
        check_fields(self)
        check_share("human_fraction", self.human_fraction)
        for threshold in self.threshold_sweep:
            check_number("threshold_sweep", threshold)
