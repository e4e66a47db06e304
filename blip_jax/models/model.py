"""A model in use: images and texts in; captions, scores, answers and features out.

B images or texts, N captions an image, G texts an image, E embedding, T tokens, D width.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from blip_jax.decoding import Decoding, Generated
from blip_jax.decoding.config import TRANSFORMERS_OPTIONS
from blip_jax.models import functions
from blip_jax.models.dialogs import DialogMethods
from blip_jax.models.gradcam import GradCamMethods
from blip_jax.models.inputs import (
    ImageLike,
    as_images,
    as_list,
    broadcast,
    check_not_empty,
    encode_candidates,
    encode_prompts,
    is_sequence,
)
from blip_jax.models.notebook import MAX_ROWS, Results, Table
from blip_jax.models.results import Answer, Caption, Match, captions_of
from blip_jax.runtime.arguments import RowIndex, Seed
from blip_jax.runtime.errors import UserError
from blip_jax.runtime.options import accepts

BATCH = 32  # default of batch_size
ANSWER = Decoding(method="beam", repetition_penalty=1.0, min_length=1, max_length=10)


class Model(DialogMethods, GradCamMethods):
    """What `models.load` returns; its `repr` says what it is and what it can do.

    Images are paths (local or gs://), bytes, open files, PIL images or arrays (NumPy, JAX, PyTorch;
    uint8 or float 0..1); with `on_error="skip"`, where a method has it, unreadable ones give a
    warning and None, or NaN.
    With `num_frames` above 0 they are clips (paths, bytes, open files), read as this many frames.
    """

    @accepts(Decoding, TRANSFORMERS_OPTIONS)
    def caption(
        self,
        images: ImageLike | Sequence[ImageLike],
        decoding: Decoding | None = None,
        *,
        prompt: str | Sequence[str] | None = None,
        seed: Seed = 0,
        batch_size: int = BATCH,
        start_index: RowIndex | Sequence[RowIndex] = 0,
        on_error: str = "raise",
        **options: Any,
    ) -> list[Caption]:
        """Returns a caption of each image, the best where `num_captions` asks for more.

        Args:
          decoding: how captions are generated; in its place single options can be given, the
            fields of `Decoding`. Without any, beam search with 3 beams; with top_p, top_k or
            temperature, sampling with a repetition penalty of 1.1, as in the original.
          prompt: what captions begin with, one for all or one an image; None: the model's own.
          seed: of sampling; each caption follows from it, its image's index in the list and its
            own number, whatever the batches.
          start_index: index of the first image, where `images` are a part of a longer list; or
            the index of each.

        Raises:
          UserError: an image cannot be read, options do not go together, or the model cannot
            caption.
        """
        images = as_images(images)
        rows = self._captions(
            images, _decoding(decoding, options), prompt, seed, batch_size, start_index, on_error
        )
        best = [row and max(row, key=lambda caption: caption.score) for row in rows]
        return Results(best, images)

    @accepts(Decoding, TRANSFORMERS_OPTIONS)
    def captions(
        self,
        images: ImageLike | Sequence[ImageLike],
        decoding: Decoding | None = None,
        *,
        prompt: str | Sequence[str] | None = None,
        seed: Seed = 0,
        batch_size: int = BATCH,
        start_index: RowIndex | Sequence[RowIndex] = 0,
        on_error: str = "raise",
        **options: Any,
    ) -> list[list[Caption]]:
        """Returns `num_captions` captions of each image, of beam search best first.

        Arguments are those of `caption`.
        """
        images = as_images(images)
        rows = self._captions(
            images, _decoding(decoding, options), prompt, seed, batch_size, start_index, on_error
        )
        return Results(rows, images)

    def _captions(self, images, decoding, prompt, seed, batch_size, start_index, on_error):
        self.require("caption")
        check_not_empty(images, "images")
        if prompt is None:  # the model's own prompt has one length, so it is prefilled in one call
            row = functions.prompt_tokens(self)
            prompts, lengths = np.tile(row, (len(images), 1)), np.full(len(images), len(row))
        else:
            prompts, lengths = encode_prompts(self.tokenizer, prompt, len(images))
        functions.check_length(self, decoding, int(lengths.max(initial=1)))
        shape = decoding.shape(prompts.shape[1], self.config.med.max_length)
        function = self._function(functions.caption_function, shape)
        if is_sequence(start_index) and len(start_index) != len(images):
            raise UserError(
                f"start_index has {len(start_index)} numbers, but there are {len(images)} images; "
                "give one for each image"
            )
        first = 0 if is_sequence(start_index) else np.arange(len(images))
        numbers = [np.asarray(start_index) + first] * decoding.num_captions
        keys = [functions.example_keys(seed, index, n) for n, index in enumerate(numbers)]
        arrays = jnp.stack(keys, axis=1), decoding.params(len(images)), prompts
        if prompt is not None:
            arrays += (lengths,)
        method = f"beam {shape.num_beams}" if shape.method == "beam" else shape.method
        title = f"caption ({method}, {shape.total_length} tokens, {self.image_size} px)"
        results = self._run(function, images, arrays, batch_size, on_error, title)
        found = captions_of(Generated(*results), lengths, self.tokenizer)
        skipped = np.asarray(results[1])[:, 0] == 0  # a text has at least one token
        return [None if bad else row for bad, row in zip(skipped, found, strict=True)]

    def match(
        self,
        images: ImageLike | Sequence[ImageLike],
        texts: str | Sequence[str] | Sequence[Sequence[str]],
        *,
        clean: bool = True,
        num_frames: int = 0,
        batch_size: int = BATCH,
        on_error: str = "raise",
    ) -> Match:
        """Scores texts against images.

        Args:
          texts: one an image; one for all images; several for one image; or for each image a
            sequence of G texts (then results are [B, G]).
          clean: clean texts up as in training (BLIP: lower case, some punctuation removed).
        """
        self.require("match")
        images = given = as_images(images)
        texts = as_list(texts)
        is_nested = any(is_sequence(row) for row in texts)
        if is_nested:
            nested = [as_list(row) for row in texts]
            if len(nested) != len(images) or len({len(row) for row in nested}) > 1 or not nested[0]:
                raise UserError(
                    f"{len(images)} images and lists of {', '.join(str(len(r)) for r in nested)} "
                    "texts; give the same number for each image"
                )
        else:
            images, flat = broadcast(images, as_list(texts), names=("images", "texts"))
            nested = [[text] for text in flat]
        ids, mask = self._encode(
            [text for row in nested for text in row], "caption" if clean else ""
        )
        shape = len(images), -1, ids.shape[-1]
        arrays = ids.reshape(shape), mask.reshape(shape)
        function = self._function(functions.match_function)
        settings = batch_size, on_error, "match", num_frames
        logits, cosine = self._run(function, images, arrays, *settings)
        probability = np.asarray(jax.nn.softmax(logits, axis=-1))[..., 1]
        if not is_nested:
            probability, cosine, logits = probability[:, 0], cosine[:, 0], logits[:, 0]
            nested = [text for (text,) in nested]
        columns = {"text": nested, "P(match)": probability, "cosine": cosine}
        shown = {name: values[:MAX_ROWS] for name, values in columns.items()}
        if len(given) < len(images):  # several texts about one image: in one row
            shown = {name: [values] for name, values in shown.items()}
        return Match(probability, cosine, logits, Table(shown, given[:MAX_ROWS]))

    def answer(
        self,
        images: ImageLike | Sequence[ImageLike],
        questions: str | Sequence[str],
        candidates: Sequence[str] | None = None,
        *,
        k: int = 128,
        num_beams: int = 3,
        clean: bool = True,
        num_frames: int = 0,
        batch_size: int = BATCH,
        on_error: str = "raise",
    ) -> list[Answer]:
        """Answers questions about images; one question for all images, or several about one image.

        Args:
          candidates: the answers to choose from; None: one is generated by beam search.
          k: candidates that are scored in full; the others are excluded by their first token.
          num_beams: of beam search.
        """
        self.require("answer")
        questions = as_list(questions)
        images, questions = broadcast(as_images(images), questions, names=("images", "questions"))
        arrays = self._encode(questions, "question" if clean else "")
        settings = batch_size, on_error, "answer", num_frames
        if candidates is None:
            decoding = dataclasses.replace(ANSWER, num_beams=num_beams)
            shape = decoding.shape(1, self.config.med.max_length)
            function = self._function(functions.answer_function, shape)
            arrays += (decoding.params(len(images)),)
            results = self._run(function, images, arrays, *settings)
            written = captions_of(Generated(*results), np.ones(len(images), int), self.tokenizer)
            answers = [
                Answer(row[0].text, row[0].score) if length[0] else None
                for row, length in zip(written, results[1], strict=True)
            ]
            return Results(answers, images, question=questions)
        candidates = as_list(candidates)
        shared = encode_candidates(self.tokenizer, candidates, self.config.med.max_length)
        if k < 1:
            raise UserError(f"k is {k}; it must be 1 or more")
        k = min(k, len(shared[0]))
        function = self._function(functions.rank_function, k)
        index, score = self._run(function, images, arrays, *settings, shared=shared)
        chosen = zip(index, score, strict=True)
        answers = [None if np.isnan(s) else Answer(candidates[i], float(s)) for i, s in chosen]
        return Results(answers, images, question=questions)

    def verify(
        self,
        first: ImageLike | Sequence[ImageLike],
        second: ImageLike | Sequence[ImageLike],
        statements: str | Sequence[str],
        *,
        clean: bool = True,
        batch_size: int = BATCH,
    ) -> np.ndarray:
        """Returns P(true) float32 [B] of a statement about each pair of images (NLVR2)."""
        self.require("verify")
        first, second, statements = broadcast(
            as_images(first),
            as_images(second),
            as_list(statements),
            names=("first images", "second images", "statements"),
        )
        ids, mask = self._encode(statements, "caption" if clean else "")
        function, logits = self._function(functions.verify_function), []
        pairs = (
            self._image_batches(images, batch_size, "raise", "verify") for images in (first, second)
        )
        for (rows, one, _), (_, other, _) in zip(*pairs, strict=True):
            at = np.minimum(np.arange(rows.start, rows.start + len(one)), len(ids) - 1)
            logits.append(function(one, other, ids[at], mask[at])[: rows.stop - rows.start])
        self._check_results(logits)
        return np.asarray(jax.nn.softmax(np.concatenate(logits), axis=-1))[:, 1]

    def encode_image(
        self,
        images: ImageLike | Sequence[ImageLike],
        *,
        num_frames: int = 0,
        batch_size: int = BATCH,
        on_error: str = "raise",
    ) -> np.ndarray:
        """Returns float32 [B, E] of unit length, aligned with `encode_text`."""
        self.require("encode")
        function = self._function(functions.encode_image_function)
        settings = batch_size, on_error, "encode images", num_frames
        return self._run(function, as_images(images), (), *settings)[1]

    def encode_text(
        self, texts: str | Sequence[str], *, clean: bool = True, batch_size: int = BATCH
    ) -> np.ndarray:
        """Returns float32 [B, E] of unit length, aligned with `encode_image`."""
        self.require("encode")
        texts = as_list(texts)
        arrays = self._encode(texts, "caption" if clean else "")
        function = self._function(functions.encode_text_function)
        return self._run_on_texts(function, arrays, batch_size)

    def hidden_states(
        self,
        images: ImageLike | Sequence[ImageLike] | None = None,
        texts: str | Sequence[str] | None = None,
        *,
        batch_size: int = BATCH,
    ) -> np.ndarray:
        """Returns [B, T, D]: image tokens, text tokens, or those of texts read with images.

        [CLS], or [ENC], comes first; those of pads mean nothing. The modes "image", "text" and
        "multimodal" of the original's feature extractor (models/blip.py).
        """
        self.require("hidden_states")
        if images is None and texts is None:
            raise UserError("give images, texts, or both")
        if images is not None and texts is not None:
            texts = as_list(texts)
            images, texts = broadcast(as_images(images), texts, names=("images", "texts"))
        given = {"image": images, "text": texts}
        of = tuple(name for name, values in given.items() if values is not None)
        function = self._function(functions.hidden_states_function, of)
        arrays = () if texts is None else self._encode(as_list(texts), "")
        if images is None:
            return self._run_on_texts(function, arrays, batch_size)
        title = "hidden states"
        return self._run(function, as_images(images), arrays, batch_size, "raise", title)[0]


def _decoding(decoding: Decoding | None, options: dict[str, Any]) -> Decoding:
    if decoding is None:
        return Decoding.from_options(**options)
    if options:
        raise UserError(f"decoding and {next(iter(options))} are both given; give one of them")
    return decoding
