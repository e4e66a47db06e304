"""A model in use: images and texts in; captions, scores, answers and features out.

B images or texts, N captions an image, G texts an image, E embedding, T tokens, D width.
"""

from collections.abc import Callable, Sequence

import jax
import numpy as np

from blip_jax.data.text import clean_caption, clean_question
from blip_jax.decoding import Decoding, Generated
from blip_jax.models import batching, functions
from blip_jax.models.base import Base
from blip_jax.models.batching import ImageLike
from blip_jax.models.inputs import (
    Caption,
    Match,
    captions_of,
    check_same_length,
    encode,
    encode_prompts,
)
from blip_jax.runtime.errors import UserError

BATCH = 32  # images a batch at most, unless the caller says otherwise
ANSWER = Decoding(method="beam", repetition_penalty=1.0, min_length=1, max_length=10)


class Model(Base):
    """What `models.load` gives: a `Base` with what its model type can do."""

    def caption(
        self,
        images: ImageLike | Sequence[ImageLike],
        *,
        num_beams: int = 3,
        top_p: float | None = None,
        top_k: int | None = None,
        temperature: float = 1.0,
        num_captions: int = 1,
        min_length: int = 5,
        max_length: int = 20,
        max_new_tokens: int = 0,
        repetition_penalty: float | None = None,
        length_penalty: float = 1.0,
        early_stopping: bool = False,
        prompt: str | Sequence[str] | None = None,
        seed: int = 0,
        first: int = 0,
        batch_size: int = BATCH,
        return_scores: bool = False,
    ) -> list:
        """Writes captions.

        Args:
          images: paths, files' bytes, PIL images or uint8 arrays; one, or a sequence.
          num_beams: of beam search; 1 is greedy. Not used with `top_p` or `top_k`.
          top_p, top_k: draw captions (nucleus and top-k sampling) instead of searching.
          num_captions: texts an image; drawn, or the best of the beams.
          min_length, max_length: tokens, [DEC] and prompt counted, as in the original.
          max_new_tokens: tokens behind the prompt; takes the place of `max_length`.
          repetition_penalty: None: 1.1 when drawing and 1 when searching, as in the original.
          prompt: what captions begin with, one for all or one an image; None: the model's own.
          seed: of drawing; each caption follows from it, its image's place in the list and its
            own number, whatever the batches.
          first: place of the first image, where `images` are a part of a longer list.

        Returns: a string an image, without the prompt; with several captions a list of strings;
          with `return_scores` `Caption`s in their place.

        Raises:
          UserError: an image does not decode, an option makes no sense, or the model writes none.
        """
        drawn = top_p is not None or top_k is not None
        penalty = (1.1 if drawn else 1.0) if repetition_penalty is None else repetition_penalty
        options = Decoding(
            method="nucleus" if drawn else "beam",
            top_p=1.0 if top_p is None else top_p,
            top_k=top_k or 0,
            temperature=temperature,
            repetition_penalty=penalty,
            min_length=min_length,
            max_length=max_length,
            max_new_tokens=max_new_tokens,
            num_beams=num_beams,
            length_penalty=length_penalty,
            early_stopping=early_stopping,
            num_captions=num_captions,
        )
        images = batching.as_list(images)
        found = self.write(images, options, prompt, seed, batch_size, first)
        if not return_scores:
            found = [[caption.text for caption in captions] for captions in found]
        return found if num_captions > 1 else [captions[0] for captions in found]

    def write(
        self,
        images: Sequence[ImageLike],
        options: Decoding,
        prompt: str | Sequence[str] | None = None,
        seed: int = 0,
        batch_size: int = BATCH,
        first: int = 0,
    ) -> list[list[Caption]]:
        """`caption` with the options in one object; N captions for each image."""
        self.require("caption")
        given = self.prompt if prompt is None else prompt
        prompts, lengths = encode_prompts(self.tokenizer, given, len(images))
        functions.check_length(self, options, prompts.shape[1])
        program = self._program(functions.writer, options)
        ragged = np.any(lengths != prompts.shape[1])
        captions = []
        for rows, pixels in batching.image_batches(images, self.image_size, batch_size):
            at = np.minimum(np.arange(rows.start, rows.start + len(pixels)), len(images) - 1)
            numbers = range(options.num_captions)
            keys = [functions.example_keys(seed, first + at, number) for number in numbers]
            given = (prompts[at], lengths[at]) if ragged else (prompts[at],)
            found = program(pixels, jax.numpy.stack(keys, axis=1), *given)
            captions += captions_of(found, lengths[at], self.tokenizer)[: rows.stop - rows.start]
        return captions

    def match(
        self,
        images: ImageLike | Sequence[ImageLike],
        texts: str | Sequence[str] | Sequence[Sequence[str]],
        *,
        clean: bool = True,
        batch_size: int = BATCH,
    ) -> Match:
        """Scores texts against images.

        Args:
          texts: one an image, or a sequence of G an image; they go with the image in their place.
          clean: clean them up as training did (lower case, some punctuation removed).
        """
        self.require("match")
        images, nested = (
            batching.as_list(images),
            [texts] if isinstance(texts, str) else list(texts),
        )
        single = all(isinstance(text, str) for text in nested)
        nested = [[text] for text in nested] if single else [list(row) for row in nested]
        check_same_length(images, nested, "texts")
        if len({len(row) for row in nested}) > 1 or not all(nested):
            raise UserError("texts are lists of different lengths: give each image as many")
        flat = [text for row in nested for text in row]
        ids, mask = self._encode(flat, clean_caption if clean else None)
        shape = len(images), -1, ids.shape[-1]
        arrays = ids.reshape(shape), mask.reshape(shape)
        program = self._program(functions.match_function)
        logits, cosine = self._run(program, images, arrays, batch_size)
        probability = np.asarray(jax.nn.softmax(logits, axis=-1))[..., 1]
        found = Match(probability, cosine, logits)
        return Match(*(x[:, 0] for x in found)) if single else found

    def answer(
        self,
        images: ImageLike | Sequence[ImageLike],
        questions: str | Sequence[str],
        candidates: Sequence[str] | None = None,
        *,
        k: int = 128,
        num_beams: int = 3,
        clean: bool = True,
        batch_size: int = BATCH,
        return_scores: bool = False,
    ) -> list:
        """Answers a question an image.

        Args:
          candidates: the answers to choose from; None: write one by beam search.
          k: candidates that are judged in full; the others are out by their first token.
          num_beams: of beam search.

        Returns: a string a question; with `return_scores` pairs of it and its score, the
          log-probability (of a written one over its length).
        """
        self.require("answer")
        if isinstance(candidates, str):
            raise UserError("candidates is one string; give a list of answers")
        images = batching.as_list(images)
        questions = [questions] if isinstance(questions, str) else list(questions)
        check_same_length(images, questions, "questions")
        arrays = self._encode(questions, clean_question if clean else None)
        if candidates is None:
            options = Decoding(**{**ANSWER.__dict__, "num_beams": num_beams})
            program = self._program(functions.answer_function, options)
            found = Generated(*self._run(program, images, arrays, batch_size))
            written = captions_of(found, np.ones(len(images), int), self.tokenizer)
            answers = [(best.text, best.score) for best, *_ in written]
        else:
            ranker = self._ranker(tuple(candidates), min(k, len(candidates)))
            index, score = self._run(ranker, images, arrays, batch_size)
            chosen = zip(index, score, strict=True)
            answers = [(candidates[i], float(value)) for i, value in chosen]
        return answers if return_scores else [text for text, _ in answers]

    def verify(
        self,
        first: ImageLike | Sequence[ImageLike],
        second: ImageLike | Sequence[ImageLike],
        statements: str | Sequence[str],
        *,
        clean: bool = True,
        batch_size: int = BATCH,
    ) -> np.ndarray:
        """P(true) float32 [B] of a statement about each pair of images."""
        self.require("verify")
        pair = [batching.as_list(images) for images in (first, second)]
        statements = [statements] if isinstance(statements, str) else list(statements)
        for images in pair:
            check_same_length(images, statements, "statements")
        ids, mask = self._encode(statements, clean_caption if clean else None)
        program, logits = self._program(functions.verify_function), []
        both = (batching.image_batches(images, self.image_size, batch_size) for images in pair)
        for (rows, one), (_, other) in zip(*both, strict=True):
            at = np.minimum(np.arange(rows.start, rows.start + len(one)), len(ids) - 1)
            logits.append(program(one, other, ids[at], mask[at])[: rows.stop - rows.start])
        return np.asarray(jax.nn.softmax(np.concatenate(logits), axis=-1))[:, 1]

    def encode_image(
        self, images: ImageLike | Sequence[ImageLike], *, batch_size: int = BATCH
    ) -> np.ndarray:
        """float32 [B, E] of unit length, aligned with `encode_text`."""
        self.require("encode")
        program = self._program(functions.encode_image_function)
        return self._run(program, batching.as_list(images), (), batch_size)[1]

    def encode_text(
        self, texts: str | Sequence[str], *, clean: bool = True, batch_size: int = BATCH
    ) -> np.ndarray:
        """float32 [B, E] of unit length, aligned with `encode_image`."""
        self.require("encode")
        texts = [texts] if isinstance(texts, str) else list(texts)
        arrays = self._encode(texts, clean_caption if clean else None)
        rows = batching.padded_batch_size(len(texts), batch_size)
        return batching.run_in_batches(
            self._program(functions.encode_text_function), rows, *arrays
        )[0]

    def hidden_states(
        self,
        images: ImageLike | Sequence[ImageLike] | None = None,
        texts: str | Sequence[str] | None = None,
        *,
        batch_size: int = BATCH,
    ) -> np.ndarray:
        """Hidden states [B, T, D]: image tokens, text tokens, or those of texts read with images.

        [CLS], or [ENC], comes first; those of pads mean nothing. The modes "image", "text" and
        "multimodal" of the original's feature extractor (models/blip.py).
        """
        self.require("hidden_states")
        texts = [texts] if isinstance(texts, str) else texts
        given = {"image": images, "text": texts}
        of = tuple(name for name, values in given.items() if values is not None)
        if not of:
            raise UserError("states of what? give images, texts or both")
        program = self._program(functions.hidden_states_function, of)
        arrays = () if texts is None else self._encode(texts, None)
        if images is None:
            rows = batching.padded_batch_size(len(texts), batch_size)
            return batching.run_in_batches(program, rows, *arrays)[0]
        images = batching.as_list(images)
        if texts is not None:
            check_same_length(images, texts, "texts")
        return self._run(program, images, arrays, batch_size)[0]

    def _ranker(self, candidates: tuple[str, ...], k: int) -> Callable:
        key = "ranker", candidates, k
        if key not in self._programs:
            if not candidates:
                raise UserError("candidates is empty; give the answers to choose from, or None")
            ids, mask = encode(self.tokenizer, list(candidates), self.config.med.max_length)
            self._programs[key] = functions.rank_function(self, ids, mask, k)
        return self._programs[key]
