"""GradCAM on cross-attention: where in an image a score comes from, for each word of a text.

Source: `compute_gradcam` of LAVIS (models/blip_models/blip_image_text_matching.py), which the
original's demo of matching uses: attention probabilities times their positive gradients, mean over
heads. D local devices, b images a device, S pixels a side, T tokens, N image tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from blip_jax.data.images import normalize
from blip_jax.data.text import clean_caption, clean_question
from blip_jax.decoding import log_likelihood
from blip_jax.models import functions
from blip_jax.models.base import Base
from blip_jax.models.inputs import ImageLike, as_images, as_list, broadcast, encode_bucketed
from blip_jax.models.pmapped import PmappedFunction
from blip_jax.models.results import GradCam
from blip_jax.nn import set_first_token
from blip_jax.runtime.errors import UserError

TARGETS = ("match", "caption", "answer")  # capabilities whose scores can be looked into
BATCH = 16  # default of the largest number of images per batch
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
        if layer is None:
            # After the last layer ITM reads [ENC] alone: what other words attend to there has no
            # effect on it.
            layer = max(0, min(int(depth * LAYER), depth - 2))
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
        images, texts = broadcast(images, texts, names=("images", "texts"))
        cleaner = (clean_question if target == "answer" else clean_caption) if clean else str
        given = [cleaner(text) for text in texts]
        start = 1  # position of the first word
        if target == "caption":
            given = [self.prompt + text for text in given]
            start = len(functions.prompt_tokens(self))
        arrays = encode_bucketed(self.tokenizer, given, self.max_length)
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

    def _gradcam(self, ids, mask, maps, image, score, start, answer, text) -> GradCam:
        """Returns one result of a function's row; `start` is the position of the first word."""
        count = int(mask.sum())
        pieces = self.tokenizer.pieces(ids[:count])
        # [SEP] stands last, and is no word.
        words, rows = merged_words(pieces[start:-1])
        if not words:
            raise UserError(f"the text {text!r:.80} has no word; give one with words")
        side = self.config.vit.image_size // self.config.vit.patch_size
        maps = maps[:count].reshape(count, side, side)
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


def merged_words(pieces: Sequence[str]) -> tuple[list[str], list[slice]]:
    """Returns the words that pieces make, and which pieces each has: ["sky", "##line"] is one."""
    if not pieces:
        return [], []
    starts = [row for row, piece in enumerate(pieces) if row == 0 or not piece.startswith("##")]
    rows = [slice(*ends) for ends in zip(starts, [*starts[1:], len(pieces)], strict=True)]
    words = [pieces[r.start] + "".join(p.removeprefix("##") for p in pieces[r][1:]) for r in rows]
    return words, rows


def gradcam_function(model: Any, target: str, layer: int) -> PmappedFunction:
    """Returns a function of images and texts to heat maps and scores.

    It takes images uint8 [D * b, S, S, 3], ids int32 and mask bool [D * b, T], and of "answer" also
    ids and mask of the answers; it gives maps float32 [D * b, T, N - 1], zeros for pads, the images
    themselves, and the scores float32 [D * b]: P(match), or a log-probability.
    """
    compute = {"match": match_maps, "caption": caption_maps, "answer": answer_maps}[target]

    def explain(apply, images, ids, mask, *answer):
        tokens = apply("encode_image", normalize(images))
        maps, score = compute(apply, model, tokens, layer, ids, mask, *answer)
        return jnp.where(mask[..., None], maps, 0), images, score

    return PmappedFunction(explain, model)


def match_maps(apply: Callable, model: Any, tokens, layer: int, ids, mask):
    """Returns maps [B, T, N - 1] of the ITM logit of a match, and P(match) [B]."""
    context = apply("image_context", tokens, "encoder")

    def logit(gate):
        logits = apply("itm_logits", ids, mask, context._replace(gate=gates(model, gate, layer)))
        return logits[:, 1].sum(), jax.nn.softmax(logits)[:, 1]

    gradient, score = jax.grad(logit, has_aux=True)(ones(model, tokens, ids))
    return heat(gradient), score


def caption_maps(apply: Callable, model: Any, tokens, layer: int, ids, mask):
    """Returns maps [B, T, N - 1] of each token's log-probability, and the sum of these [B].

    A token's map is that of the position before it, which predicts it. The first token has zeros.
    """
    context = apply("image_context", tokens, "decoder")
    chosen, weight = ids[:, 1:], mask[:, 1:]

    def log_probabilities(gate):
        logits = apply("lm_logits", ids, mask, context._replace(gate=gates(model, gate, layer)))
        found = jax.nn.log_softmax(logits[:, :-1])
        return jnp.take_along_axis(found, chosen[..., None], axis=-1)[..., 0] * weight

    found, pull = jax.vjp(log_probabilities, ones(model, tokens, ids))

    def of_token(place):  # one after the other: each takes a backward pass's memory
        (gradient,) = pull(jnp.zeros_like(found).at[:, place].set(1))
        return heat(gradient)[:, place]

    maps = jax.lax.map(of_token, jnp.arange(found.shape[1]))
    return jnp.pad(maps.swapaxes(0, 1), ((0, 0), (1, 0), (0, 0))), found.sum(-1)


def answer_maps(apply: Callable, model: Any, tokens, layer: int, ids, mask, answer, answer_mask):
    """Returns maps [B, Q, N - 1] of an answer's log-probability by word of the question, and it.

    They are of the question encoder's cross-attention, which alone reads the image.
    """
    answer = set_first_token(answer, model.config.med.dec_token)

    def log_probability(gate):
        gate = gates(model, gate, layer)
        states = apply("question_hidden_states", tokens, ids, mask, False, gate)
        logits = apply("lm_logits", answer, answer_mask, apply("question_context", states, mask))
        score = log_likelihood(logits, answer, answer_mask)
        return score.sum(), score

    gradient, score = jax.grad(log_probability, has_aux=True)(ones(model, tokens, ids))
    return heat(gradient), score


def ones(model: Any, tokens: jax.Array, ids: jax.Array) -> jax.Array:
    """Returns the gate of one layer that changes nothing, float32 [B, H, T, N]."""
    return jnp.ones((len(ids), model.config.med.heads, ids.shape[1], tokens.shape[1]))


def gates(model: Any, gate: jax.Array, layer: int) -> jax.Array:
    """Returns the gates of all layers, float32 [L, B, H, T, N]; all but one are 1."""
    return jnp.ones((model.config.med.depth, *gate.shape)).at[layer].set(gate)


def heat(gradient: jax.Array) -> jax.Array:
    """Maps the gradient by a gate, float32 [B, H, T, N], to heat maps [B, T, N - 1].

    At 1 it is probability * d/d probability, so that its positive part is the probability times the
    positive part of its own gradient. The first image token, [CLS], has no place in the image.
    """
    return jnp.maximum(gradient, 0).mean(1)[..., 1:]
