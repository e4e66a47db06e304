"""What the page asks of models: each method takes what a visitor gave, and returns plain results.

Several visitors share the models; one call at a time computes. G texts.
"""

import dataclasses
import threading
from collections.abc import Iterator, Sequence
from pathlib import PurePath

import numpy as np

from blip_jax.data.images import resize
from blip_jax.decoding import Decoding
from blip_jax.demo.uploads import Picture, pixels_of
from blip_jax.models import Caption, GradCam, Model
from blip_jax.runtime.errors import UserError
from blip_jax.runtime.files import float32_number

MAX_CAPTIONS = 8  # of an image, and beams of beam search
MAX_TEXTS = 32  # that are scored for an image
MAX_CHARACTERS = 500  # of a text
BATCH = 8  # images of a batch that are computed at a time; other visitors wait for these
ABILITIES = ("caption", "match", "answer")  # of models that the page shows


@dataclasses.dataclass(frozen=True)
class ScoredText:
    """A text of an image, and how well it matches: P(match) of ITM and cosine of ITC."""

    text: str
    origin: str  # "given" or "synthetic"
    probability: float
    cosine: float


class Demo:
    """The models of the page.

    Attributes:
      models: for each of `ABILITIES` that one has, the first such model.
    """

    def __init__(self, models: Sequence[Model]):
        """Raises a UserError if no model can do anything that the page shows."""
        self.models = {
            ability: next(model for model in models if model.can(ability))
            for ability in ABILITIES
            if any(model.can(ability) for model in models)
        }
        if not self.models:
            kinds = ", ".join(model.model_type for model in models)
            raise UserError(f"{kinds}: cannot {' or '.join(ABILITIES)}; give another --model")
        self._lock = threading.Lock()

    def described(self) -> list[str]:
        """Returns a line for each ability: the model that has it."""
        # Of a path the last part alone: visitors need not know this machine's folders.
        return [f"{ability}: {PurePath(model.name).name}" for ability, model in self.models.items()]

    def captions(
        self,
        picture: Picture,
        method: str,
        num_captions: int = 3,
        num_beams: int = 3,
        top_p: float = 0.9,
        prompt: str = "",
        seed: int = 0,
    ) -> list[Caption]:
        """Returns captions of a picture, the best of beam search or the likeliest sample first.

        Args:
          method: "beam" or "sample".
          prompt: what captions begin with; blank: the model's own.

        Raises:
          UserError: the picture cannot be read, or options are out of range.
        """
        _check_range("captions", num_captions, 1, MAX_CAPTIONS)
        options: dict = {"method": method, "num_captions": num_captions}
        if method == "beam":
            _check_range("beams", num_beams, 1, MAX_CAPTIONS)
            options["num_beams"] = max(num_beams, num_captions)  # each caption is another beam
        else:
            options["top_p"] = top_p
        decoding = Decoding.from_options(**options)
        _check_length(prompt)
        model, image = self._model("caption", picture)
        with self._lock:
            (found,) = model.captions([image], decoding, prompt=prompt.strip() or None, seed=seed)
        return sorted(found, key=lambda caption: -caption.score)

    def match(self, picture: Picture, texts: str, origin: str = "given") -> list[ScoredText]:
        """Returns the scores of texts, one a line, in their order.

        Raises:
          UserError: the picture cannot be read, or there is no text, or too many.
        """
        return self._match(picture, lines_of(texts), origin)

    def _match(self, picture: Picture, texts: Sequence[str], origin: str) -> list[ScoredText]:
        model, image = self._model("match", picture)
        width = 1 << (len(texts) - 1).bit_length()  # few shapes, so that few programs are compiled
        padded = [*texts, *texts[-1:] * (width - len(texts))]
        with self._lock:
            found = model.match([image], [padded])
        columns = zip(texts, found.probability[0].tolist(), found.cosine[0].tolist())
        return [ScoredText(text, origin, p, cosine) for text, p, cosine in columns]

    def answer(self, picture: Picture, question: str, candidates: str = "") -> tuple[str, float]:
        """Returns the answer to a question, and its log-probability.

        Args:
          candidates: answers to choose from, one a line; blank: the answer is generated.

        Raises:
          UserError: the picture cannot be read, or there is no question.
        """
        model, image = self._model("answer", picture)
        question = _one_line(question, "question")
        options = lines_of(candidates) if candidates.strip() else None
        with self._lock:
            (found,) = model.answer([image], question, options)
        return found.text, found.score

    def attention(self, picture: Picture, of: str, text: str) -> GradCam:
        """Returns where the model looks for each word of a text.

        Args:
          of: "match" of the text, "caption" (the text, or where it is blank the model's own), or
            "answer" to the text.

        Raises:
          UserError: the picture cannot be read, or the text is blank or has no word.
        """
        model, image = self._model(of, picture)
        given = None if of == "caption" and not text.strip() else _one_line(text, "text")
        with self._lock:
            (found,) = model.gradcam([image], given, of=of)
        return found

    def capfilt(self, picture: Picture, texts: str, num_captions: int) -> list[ScoredText]:
        """Returns the scores of texts that are given and of sampled captions, as CapFilt does.

        Args:
          texts: one a line; blank: none.
          num_captions: how many to sample; 0: none, which needs no captioner.

        Raises:
          UserError: the picture cannot be read, or there is no text at all.
        """
        rows = self.match(picture, texts) if texts.strip() else []
        if num_captions:
            captions = self.captions(picture, "sample", num_captions)
            synthetic = list(dict.fromkeys(caption.text for caption in captions))
            rows += self._match(picture, synthetic, "synthetic")
        if not rows:
            raise UserError("no texts; give at least one, or have captions generated")
        return rows

    def batch(self, pictures: Sequence[Picture], task: str, text: str) -> Iterator[list[dict]]:
        """Yields a row of each picture as the verbs on image files write them, some at a time.

        Of pictures that cannot be read a row has "error" in place of results.

        Args:
          task: "caption", "match" (`text` with each picture) or "answer" (`text` is a question).

        Raises:
          UserError: there is no text where one is needed.
        """
        if task != "caption":
            text = _one_line(text, "text")
        for start in range(0, len(pictures), BATCH):
            some = pictures[start : start + BATCH]
            images, rows = [], []
            for picture in some:
                try:
                    images.append(self._model(task, picture)[1])
                    rows.append({"image": picture.name})
                except UserError as error:
                    rows.append({"image": picture.name, "error": str(error)})
            good = [row for row in rows if "error" not in row]
            # All but the last part have one shape, and so one program.
            for row, result in zip(good, self._results(task, text, images)):
                row |= result
            yield rows

    def _results(self, task: str, text: str, images: list[np.ndarray]) -> list[dict]:
        if not images:
            return []
        model = self.models[task]
        padded = images + images[-1:] * (BATCH - len(images))
        with self._lock:
            if task == "match":
                found = model.match(padded, text, batch_size=BATCH)
                rows = zip(found.probability.tolist(), found.cosine.tolist())
                results = [{"text": text, "probability": p, "cosine": c} for p, c in rows]
            elif task == "answer":
                answers = model.answer(padded, text, batch_size=BATCH)
                results = [{"question": text, "answer": a.text, "score": a.score} for a in answers]
            else:
                captions = model.caption(padded, batch_size=BATCH)
                results = [{"caption": c.text, "score": c.score} for c in captions]
        return [
            {k: v if isinstance(v, str) else float32_number(v) for k, v in row.items()}
            for row in results[: len(images)]
        ]

    def _model(self, ability: str, picture: Picture) -> tuple[Model, np.ndarray]:
        """Returns the model for an ability, and the picture as it reads it, uint8 [S, S, 3]."""
        if ability not in self.models:
            raise UserError(f"no model can {ability}; start the page with one that can")
        model = self.models[ability]
        pixels = pixels_of(picture, model.config.exif_orientation)
        return model, resize(pixels, model.image_size)


def lines_of(texts: str) -> list[str]:
    """Returns the lines of a text that are not blank, each once.

    Raises:
      UserError: there is none, there are too many, or one is too long.
    """
    lines = list(dict.fromkeys(line.strip() for line in texts.splitlines() if line.strip()))
    if not lines:
        raise UserError("no text; write at least one")
    if len(lines) > MAX_TEXTS:
        raise UserError(f"{len(lines)} texts; give at most {MAX_TEXTS}")
    for line in lines:
        _check_length(line)
    return lines


def _one_line(text: str, what: str) -> str:
    text = " ".join(text.split())
    if not text:
        raise UserError(f"no {what}; write one")
    _check_length(text)
    return text


def _check_length(text: str) -> None:
    if len(text) > MAX_CHARACTERS:
        raise UserError(f"a text of {len(text)} characters; give at most {MAX_CHARACTERS}")


def _check_range(name: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise UserError(f"{value} {name}; choose {low} to {high}")
