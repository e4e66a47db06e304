"""What the methods of a model return."""

import base64
import dataclasses
import html
import io
import math

import cv2
import numpy as np
from PIL import Image

from blip_jax.data.images import ImageError
from blip_jax.data.tokenizer import Tokenizer
from blip_jax.decoding import Generated
from blip_jax.models.inputs import ImageLike, load_image
from blip_jax.models.notebook import Table
from blip_jax.runtime.arguments import check_arguments
from blip_jax.runtime.errors import UserError

NOTEBOOK_HEIGHT = 160  # pixels of a picture in a notebook
BLUR = 0.02  # of pictures of heat maps, standard deviation in sides of the image


@dataclasses.dataclass(frozen=True, slots=True, eq=False, repr=False)
class Caption:
    """A generated caption; `str` gives its text.

    Attributes:
      text: without the prompt.
      score: of beam search the log-probability over length, else the log-probability.
      tokens: int32 [T], after the prompt, the end token included.
      log_probs: float32 [T], of each of them.
    """

    text: str
    score: float
    tokens: np.ndarray
    log_probs: np.ndarray

    @property
    def probability(self) -> float:
        """Returns the probability of the text given the image: of all tokens, multiplied."""
        return math.exp(float(self.log_probs.sum()))

    def columns(self) -> dict[str, str | float]:
        """Returns what a notebook's table shows of it, by heading."""
        return {"caption": self.text, "probability": self.probability}

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return f"Caption({self.text!r}, score={self.score:.4g})"


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Match:
    """How well texts describe images; arrays [B], or [B, G] for several texts an image.

    Notebooks show it as a table.

    Attributes:
      probability: float32, P(match) of the image-grounded encoder (ITM).
      cosine: float32, of the aligned features (ITC).
      logits: float32 [..., 2], of ITM: no match, match.
      table: the first images and texts with their scores.
    """

    probability: np.ndarray
    cosine: np.ndarray
    logits: np.ndarray
    table: Table = dataclasses.field(default=Table({}), repr=False)

    def _repr_html_(self) -> str:
        return self.table._repr_html_()


@dataclasses.dataclass(frozen=True, slots=True, repr=False)
class Answer:
    """An answer to a question; `str` gives its text.

    Attributes:
      text: the answer.
      score: its log-probability; of a generated one over its length.
    """

    text: str
    score: float

    def columns(self) -> dict[str, str | float]:
        """Returns what a notebook's table shows of it, by heading."""
        return {"answer": self.text, "log-probability": self.score}

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return f"Answer({self.text!r}, score={self.score:.4g})"


@dataclasses.dataclass(frozen=True, slots=True, eq=False, repr=False)
class RankedOptions:
    """Candidate answers to a question in a dialog; `str` gives the best.

    Attributes:
      options: as they were given.
      scores: float32 [C] of each of them: log P(right) - log P(wrong).
    """

    options: tuple[str, ...]
    scores: np.ndarray

    @property
    def order(self) -> np.ndarray:
        """Returns the indices of the options, int [C], the best first."""
        return np.argsort(-self.scores, kind="stable")

    def __str__(self) -> str:
        return self.options[self.order[0]]

    def __repr__(self) -> str:
        return f"RankedOptions({str(self)!r} of {len(self.options)})"


@dataclasses.dataclass(frozen=True, slots=True, eq=False, repr=False)
class GradCam:
    """Where in an image a score comes from, for each word of a text.

    A heat map has a value of 0 or more for each patch of the image, h rows of w: the attention of a
    word to it, times the positive part of the score's gradient by that attention, mean over heads.

    Attributes:
      words: of the text, W; word pieces are merged.
      maps: float32 [W, h, w]; of a word of several pieces their mean.
      mean: float32 [h, w], the mean over all word pieces.
      score: P(match), or the log-probability of the caption or of the answer.
      answer: of a question, the answer that is explained; else "".
      tokens: the word pieces, T, special tokens included.
      token_maps: float32 [T, h, w], of each of them.
      image: uint8 [S, S, 3], as the model reads it; of pairs and clips tiles, as the maps are.
      exif_orientation: whether the model reads photos upright, as their EXIF says.
    """

    words: list[str]
    maps: np.ndarray
    mean: np.ndarray
    score: float
    answer: str
    tokens: list[str]
    token_maps: np.ndarray
    image: np.ndarray
    exif_orientation: bool = True

    def __repr__(self) -> str:
        answer = f", answer={self.answer!r}" if self.answer else ""
        return f"GradCam({' '.join(self.words)!r}{answer}, score={self.score:.4g})"

    def _repr_html_(self) -> str:
        """Returns the heat maps of all words over the image: what notebooks show."""
        captioned = [("mean of all words", None), *((x, n) for n, x in enumerate(self.words))]
        figures = [_figure(self.picture(number), text) for text, number in captioned]
        return f"<div>{html.escape(repr(self))}</div><div>{''.join(figures)}</div>"

    @check_arguments
    def picture(self, word: int | str | None = None, image: ImageLike | None = None) -> Image.Image:
        """Returns the image with a heat map over it, scaled to its own highest value.

        Args:
          word: number or text of the word whose map is drawn; None: the mean of all.
          image: the picture to draw on, in any size, as `gradcam` takes images; it is turned as
            the model reads it. None: what the model reads, a square.

        Raises:
          UserError: the text has no such word, or the picture cannot be read.
        """
        try:
            canvas = self.image if image is None else load_image(image, self.exif_orientation)
        except ImageError as error:
            raise UserError(f"the picture to draw on: {error}") from error
        return heat_picture(self._map(word), canvas)

    def _map(self, word: int | str | None) -> np.ndarray:
        if word is None:
            return self.mean
        if isinstance(word, str) and word in self.words:
            word = self.words.index(word)
        if isinstance(word, str) or not -len(self.words) <= word < len(self.words):
            raise UserError(f"no word {word!r}; the text has {', '.join(self.words)}")
        return self.maps[word]


def _figure(picture: Image.Image, caption: str) -> str:
    """Returns a picture with a caption below it, as HTML that needs no other file."""
    buffer, width = io.BytesIO(), round(NOTEBOOK_HEIGHT * picture.width / picture.height)
    picture.resize((width, NOTEBOOK_HEIGHT)).save(buffer, "PNG")
    data = base64.b64encode(buffer.getvalue()).decode()
    text = html.escape(caption, quote=True)
    return (
        '<figure style="display:inline-block;margin:4px;text-align:center">'
        f'<img src="data:image/png;base64,{data}" alt="{text}">'
        f"<figcaption>{text}</figcaption></figure>"
    )


def heat_picture(heat: np.ndarray, image: np.ndarray) -> Image.Image:
    """Returns an image with a heat map over it, the stronger the hotter; blue to red.

    Args:
      heat: float [h, w], of 0 or more.
      image: uint8 [H, W, 3].
    """
    heat = heat - heat.min()
    height, width = image.shape[:2]
    heat = cv2.resize(np.float32(heat), (width, height), interpolation=cv2.INTER_CUBIC)
    heat = np.maximum(cv2.GaussianBlur(heat, (0, 0), BLUR * max(height, width)), 0)
    heat = heat / max(heat.max(), np.finfo(np.float32).tiny)
    colours = cv2.applyColorMap(np.uint8(255 * heat), cv2.COLORMAP_TURBO)[..., ::-1]
    strength = heat[..., None] ** 0.7  # as in LAVIS's pictures: what is cool shows the image
    return Image.fromarray(np.uint8((1 - strength) * image + strength * colours))


def captions_of(
    generated: Generated, prompts: np.ndarray, tokenizer: Tokenizer
) -> list[list[Caption]]:
    """Returns captions of generated texts [B, N, T] that follow prompts of this many tokens."""
    captions = []
    for row, start in enumerate(prompts):
        texts = tokenizer.decode(generated.tokens[row, :, start:])
        parts = [slice(start, end) for end in generated.length[row]]
        captions.append([
            Caption(text, float(score), tokens[part], logs[part])
            for text, score, tokens, logs, part in zip(
                texts, generated.score[row], generated.tokens[row],
                generated.log_probabilities[row], parts, strict=True,
            )
        ])  # fmt: skip
    return captions
