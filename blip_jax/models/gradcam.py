"""GradCAM on cross-attention: where in an image a score comes from, for each word of a text.

Source: `compute_gradcam` of LAVIS (models/blip_models/blip_image_text_matching.py), which the
original's demo of matching uses: attention probabilities times their positive gradients, mean over
heads (gradcam_maps.py). B texts, P pictures that each reads, S pixels a side, T tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from blip_jax.data.dialog import DialogRound, encode_rounds
from blip_jax.models import functions
from blip_jax.models.base import Base
from blip_jax.models.batching import padded_batch_size, run_in_batches
from blip_jax.models.gradcam_maps import gradcam_function
from blip_jax.models.inputs import ImageLike, as_images, as_list, broadcast, encode_bucketed
from blip_jax.models.results import GradCam
from blip_jax.runtime.errors import UserError

TARGETS = ("match", "caption", "answer")  # capabilities whose scores can be looked into
BATCH = 16  # default of the largest number of images per batch
TILES = 4  # pictures in a row, of pairs of images and of clips
LAYER = 7 / 12  # layer by default, as a share of the depth: 7 of 12 in the original's demo


class GradCamMethods(Base):
    """The method `gradcam` of a `Model`."""

    def gradcam(
        self,
        images: ImageLike | Sequence[ImageLike],
        texts: str | Sequence[str] | None = None,
        *,
        of: Literal["match", "caption", "answer"] | None = None,
        answers: str | Sequence[str] | None = None,
        layer: int | None = None,
        clean: bool = True,
        batch_size: int = BATCH,
        on_error: str = "raise",
    ) -> list[GradCam]:
        """Returns for each word of a text where in its image a score comes from.

        Args:
          texts: one an image; one for all images, or several for one image. Of an answer they are
            questions; None: the model's own captions.
          of: the score that is explained. "match": the ITM logit of a match. "caption": for each
            word of a caption the log-probability of that word, given those before it. "answer":
            the log-probability of the answer, traced to the words of the question. None: the first
            of these that the model can.
          answers: of "answer", one for all or one a question; None: the model's own.
          layer: of the text transformer whose cross-attention is read, from 0; None: 7 of 12 layers
            as in the original's demo, or the layer at this share of the depth, but not the last.
          clean: clean texts up as training did.

        Raises:
          UserError: the model has no such score, or no such layer; an image cannot be read; a text
            has no word.
        """
        self.require("gradcam")
        target = of or next(name for name in TARGETS if self.can(name))
        self.require(target)
        depth = self.config.med.depth
        layer = default_layer(depth) if layer is None else layer
        if not 0 <= layer < depth:
            raise UserError(f"layer is {layer}; the model's are 0 to {depth - 1}")
        if answers is not None and target != "answer":
            raise UserError(f'answers are given, but of is {target!r}; give of="answer"')
        images = as_images(images)
        if texts is None:
            if target != "caption":
                raise UserError(f"texts is None; give the texts whose {target} is explained")
            texts = self.caption(images, batch_size=batch_size, on_error=on_error)
            texts = [caption.text if caption else "" for caption in texts]
        texts = as_list(texts)
        if answers is not None:
            texts, answers = broadcast(texts, as_list(answers), names=("questions", "answers"))
        images, texts = broadcast(images, texts, names=("images", "texts"))
        ids, mask, start = self._gradcam_texts(target, texts, clean)
        arrays = ids, mask
        if target == "answer":
            if answers is None:
                found = self.answer(
                    images, texts, clean=clean, batch_size=batch_size, on_error=on_error
                )
                answers = [answer.text if answer else "" for answer in found]
            answers = as_list(answers)
            texts, answers = broadcast(texts, answers, names=("questions", "answers"))
            arrays += encode_bucketed(self.tokenizer, answers, self.config.med.max_length)
        function = self._function(gradcam_function, target, layer)
        title = f"gradcam ({target})"
        found = self._run(function, images, arrays, batch_size, on_error, title)
        return [
            None if np.isnan(score) else self._gradcam(*row, score, start, answer, texts[number])
            for number, (*row, score, answer) in enumerate(
                zip(*arrays[:2], *found, answers or [""] * len(images), strict=True)
            )
        ]

    def gradcam_pictures(
        self,
        pictures: np.ndarray,
        texts: Sequence[str] | Sequence[DialogRound],
        of: Literal["match", "answer", "verify", "rank_dialog"],
        answers: Sequence[str] = (),
    ) -> list[GradCam]:
        """Returns as `gradcam`, of texts that read two images or a clip, or end a dialog.

        Args:
          pictures: uint8 [B, P, S, S, 3], the pictures that each text reads; of one image also
            [B, S, S, 3]. Maps and image of a result are tiles, a picture each, `TILES` in a row.
          texts: of "rank_dialog" rounds with one candidate each; its words are those of the
            question and the candidate, as earlier rounds are long.
          of: also "verify": the logit of the answer, true or false, that the model gives; or
            "rank_dialog": that of the candidate being right.
          answers: of "answer", one a question.

        Raises:
          UserError: the model has no such score; a text has no word.
        """
        self.require(of)
        if of == "rank_dialog":
            ids, mask = encode_rounds(self.tokenizer, texts, 1, self.max_length)
            ids, mask = ids[:, 0], mask[:, 0]
            is_sep = (ids == self.tokenizer.ids.sep) & mask
            starts = [1 + max([0, *np.flatnonzero(row)[:-1]]) for row in is_sep]
        else:
            ids, mask, start = self._gradcam_texts(of, texts, clean=True)
            starts = [start] * len(texts)
        arrays = [ids, mask]
        if answers:
            arrays += encode_bucketed(self.tokenizer, answers, self.config.med.max_length)
        function = self._function(gradcam_function, of, default_layer(self.config.med.depth))
        most = max(1, BATCH // (pictures.shape[1] if pictures.ndim > 4 else 1))
        rows = padded_batch_size(len(pictures), most)
        found = run_in_batches(function, rows, pictures, *arrays)
        self._check_results(found)
        columns = zip(*arrays[:2], *found, starts, answers or [""] * len(texts), texts, strict=True)
        return [self._gradcam(*row) for row in columns]

    def _gradcam_texts(
        self, target: str, texts: Sequence[str], clean: bool
    ) -> tuple[np.ndarray, np.ndarray, int]:
        """Returns ids and mask [B, T] of texts, and the position of the first word."""
        kind = "question" if target == "answer" else "caption"
        cleaner = self._cleaner(kind if clean else "")
        given, start = [cleaner(text) for text in texts], 1
        if target == "caption":
            given = [self.prompt + text for text in given]
            start = len(functions.prompt_tokens(self))
        return *encode_bucketed(self.tokenizer, given, self.max_length), start

    def _gradcam(self, ids, mask, maps, image, score, start, answer, text) -> GradCam:
        """Returns one result of a function's row; `start` is the position of the first word."""
        count = int(mask.sum())
        pieces = self.tokenizer.pieces(ids[:count])
        # [SEP] stands last, and is no word.
        words, rows = merged_words(pieces[start:-1])
        if not words:
            raise UserError(f"the text {text!r:.80} has no word; give one with words")
        side = self.config.vit.image_size // self.config.vit.patch_size
        maps = np.stack([tiled(x.reshape(-1, side, side)) for x in maps[:count]])
        image = tiled(image.reshape(-1, *image.shape[-3:]))
        inner = maps[start : count - 1]
        return GradCam(
            words=words,
            maps=np.stack([inner[row].mean(0) for row in rows]),
            mean=inner.mean(0),
            score=float(score),
            answer=answer,
            tokens=pieces,
            token_maps=maps,
            image=image,
            exif_orientation=self.config.exif_orientation,
        )


def default_layer(depth: int) -> int:
    """Returns the layer whose cross-attention is read: 7 of 12, and not the last.

    After the last one ITM reads [ENC] alone: what other words attend to there has no effect on it.
    """
    return max(0, min(int(depth * LAYER), depth - 2))


def tiled(pictures: np.ndarray) -> np.ndarray:
    """Returns pictures or maps [P, H, W, ...] as one, `TILES` in a row.

    What stays empty has the least value, so that it does not change how a map is scaled.
    """
    columns = min(len(pictures), TILES)
    rows = -(-len(pictures) // columns)
    empty = np.full_like(pictures[:1], pictures.min()).repeat(rows * columns - len(pictures), 0)
    tiles = np.concatenate([pictures, empty]).reshape(rows, columns, *pictures.shape[1:])
    return np.concatenate(np.concatenate(tiles, axis=1), axis=1)


def merged_words(pieces: Sequence[str]) -> tuple[list[str], list[slice]]:
    """Returns the words that pieces make, and which pieces each has: ["sky", "##line"] is one."""
    if not pieces:
        return [], []
    starts = [row for row, piece in enumerate(pieces) if row == 0 or not piece.startswith("##")]
    rows = [slice(*ends) for ends in zip(starts, [*starts[1:], len(pieces)], strict=True)]
    words = [pieces[r.start] + "".join(p.removeprefix("##") for p in pieces[r][1:]) for r in rows]
    return words, rows
