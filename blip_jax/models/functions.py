"""What a model does, as functions mapped over this host's devices: generate, score, embed, answer.

Mapped by `jax.pmap` and not sharded: nothing here ever waits for another host.

D local devices, b images a device, S pixels a side, G texts an image, P prompt tokens, T tokens.
Wherever images uint8 [D * b, S, S, 3] go in, so do clips of F frames, [D * b, F, S, S, 3], whose
tokens are [D * b, F N, W].
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from blip_jax import nn
from blip_jax.data.images import normalize
from blip_jax.decoding import (
    Decoding,
    DecodingParams,
    DecodingShape,
    Generated,
    generate,
    log_likelihood,
    top_candidates,
)
from blip_jax.models.image_tokens import image_tokens, image_tokens_and_features
from blip_jax.models.pmapped import PmappedFunction
from blip_jax.runtime.errors import UserError

if TYPE_CHECKING:
    from blip_jax.data.tokenizer import Tokenizer
    from blip_jax.models.model import Model

QUIRK_LABEL_SMOOTHING = 0.1  # label smoothing with which the original ranks answers


def captioner(model: Model, decodings: Sequence[Decoding]) -> PmappedFunction:
    """Returns a function of images uint8 [D * b, S, S, 3] and lists of PRNG keys to captions.

    For each decoding there are keys [D * b, N] and `Generated`, N its `num_captions`. Each text
    begins with `prompt_tokens(model)`; an image is encoded once for all decodings. The options are
    constants of the program: CapFilt and evaluation run one set of them over many images.

    Raises:
      UserError: a decoding leaves no room after the prompt, or exceeds the model's positions.
    """
    prompt, known = prompt_tokens(model), without_params(model)
    for decoding in decodings:
        check_length(model, decoding, len(prompt))

    def write(apply, images, keys):
        contexts = apply("decoding_contexts", image_tokens(apply, normalize(images)))
        prompts = jnp.broadcast_to(prompt, (len(images), len(prompt)))
        return [
            generate_from_contexts(
                apply, known, contexts, prompts, own, decoding.shape(len(prompt)),
                decoding.params(len(images)),
            )
            for own, decoding in zip(keys, decodings, strict=True)
        ]  # fmt: skip

    return PmappedFunction(write, model, ("captioner", *decodings, *prompt.tolist(), known.special))


def caption_function(model: Model, shape: DecodingShape) -> PmappedFunction:
    """Returns a function of images, PRNG keys [D * b, N], prompts and options to captions.

    Prompts are int32 [D * b, P], options `DecodingParams` [D * b]. Given also lengths int32
    [D * b], prompts are padded and have this many tokens each.
    """

    known = without_params(model)

    def write(apply, images, keys, params, prompts, lengths=None):
        contexts = apply("decoding_contexts", image_tokens(apply, normalize(images)))
        return generate_from_contexts(apply, known, contexts, prompts, keys, shape, params, lengths)

    return PmappedFunction(write, model, ("caption", shape, known.special))


def generate_from_contexts(
    apply, model: ModelInfo, contexts, prompts, keys, shape, params, lengths=None
) -> Generated:
    """Returns `decoding.generate` with `decode_step`, whose layers read `contexts`."""

    def step(ids, cache, index):
        return apply("decode_step", ids, contexts, cache, index)

    cache = nn.init_cache(model.config, len(prompts), shape.total_length)
    special = model.tokenizer.ids.sep, model.tokenizer.ids.pad
    return generate(step, cache, prompts, keys, shape, params, special, lengths)


class ModelInfo(NamedTuple):
    """What programs need of a model but its parameters, which a compiled program must not hold."""

    config: nn.BlipConfig
    tokenizer: Tokenizer

    @property
    def special(self) -> tuple[int, int]:
        """Returns the ids of [SEP] and [PAD], with which generated texts end."""
        return self.tokenizer.ids.sep, self.tokenizer.ids.pad


def without_params(model: Model) -> ModelInfo:
    """Returns what programs need of a model but its parameters."""
    return ModelInfo(model.config, model.tokenizer)


def check_length(model: Model, decoding: Decoding, prompt: int) -> None:
    """Raises a UserError unless there is room after a prompt of this many tokens."""
    length, positions = decoding.max_length, model.config.med.max_length
    if decoding.max_new_tokens:
        length = prompt + decoding.max_new_tokens
    if not prompt < length <= positions:
        raise UserError(
            f"max_length is {length}; it must exceed the prompt's {prompt} tokens and be at most "
            f"the model's {positions}"
        )


def prompt_tokens(model: Model) -> np.ndarray:
    """Returns int32 [P]: [DEC], then the tokens of the model's prompt."""
    return model.tokenizer.prompt(model.prompt)


def example_keys(seed: int, hashes: np.ndarray, number: int = 0) -> jax.Array:
    """Returns PRNG keys [B] for caption `number`, each derived from its example's hash alone."""
    base = jax.random.fold_in(jax.random.key(seed), number)
    return jax.vmap(lambda h: jax.random.fold_in(base, h))(hashes)


def match_function(model: Model) -> PmappedFunction:
    """Returns a function that scores G texts per image.

    It takes images uint8 [D * b, S, S, 3], ids int32 [D * b, G, T] and mask bool [D * b, G, T],
    and gives ITM logits float32 [D * b, G, 2] (no match, match) and the cosine of the aligned
    features, float32 [D * b, G].
    """

    def score(apply, images, ids, mask):
        tokens, image = image_tokens_and_features(apply, normalize(images))
        batch, count, length = ids.shape
        flat = ids.reshape(-1, length), mask.reshape(-1, length)
        logits = apply("itm_logits", *flat, apply("image_context", tokens, "encoder"))
        text = apply("text_features", *flat).reshape(batch, count, -1)
        return logits.reshape(batch, count, 2), jnp.einsum("be,bge->bg", image, text)

    return PmappedFunction(score, model, "match")


def encode_image_function(model: Model) -> PmappedFunction:
    """Returns a function of images uint8 [D * b, S, S, 3] to (image tokens, aligned features)."""

    def encode(apply, images):
        return image_tokens_and_features(apply, normalize(images))

    return PmappedFunction(encode, model, "encode_image")


def encode_text_function(model: Model) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Returns a function of ids int32 [D * b, T] and mask bool [D * b, T] to aligned features."""

    def encode(apply, ids, mask):
        return apply("text_features", ids, mask)

    return PmappedFunction(encode, model, "encode_text")


def answer_function(model: Model, shape: DecodingShape) -> PmappedFunction:
    """Returns a function of images, questions and options to generated answers.

    Questions are ids and mask [D * b, T], options `DecodingParams` [D * b].
    """

    known = without_params(model)

    def write(apply, images, ids, mask, params):
        states = apply("question_hidden_states", image_tokens(apply, normalize(images)), ids, mask)
        return generate_answers(apply, known, states, mask, shape, params)

    return PmappedFunction(write, model, ("answer", shape, known.special))


def generate_answers(
    apply, model: ModelInfo, states, mask, shape: DecodingShape, params: DecodingParams
) -> Generated:
    """Returns answers to questions, given their hidden states [B, T, D] and mask [B, T]."""
    read = None if "unmasked_question" in model.config.quirks else mask
    prompts = jnp.full((len(states), 1), model.config.med.dec_token)
    contexts = apply("decoding_contexts", states, read)
    return generate_from_contexts(apply, model, contexts, prompts, None, shape, params)


def rank_function(model: Model, k: int) -> PmappedFunction:
    """Returns a function of images and questions to the likeliest of given answers.

    The answers are its `shared` argument: the `candidates` of `rank_answers`.
    """

    known = without_params(model)

    def rank(apply, candidates, images, question, question_mask):
        tokens = image_tokens(apply, normalize(images))
        states = apply("question_hidden_states", tokens, question, question_mask)
        return rank_answers(apply, known, states, question_mask, candidates, k)

    return PmappedFunction(rank, model, ("rank", k), takes_shared=True)


def rank_answers(
    apply, model: ModelInfo, states, mask, candidates, k: int
) -> tuple[jax.Array, jax.Array]:
    """Returns the likeliest of given answers to each question.

    Source: `BLIP_VQA.rank_answer` of the original's models/blip_vqa.py. Answers are scored a
    question at a time, as k of them have logits over the whole vocabulary.

    Args:
      states, mask: of the questions, [B, T, D] and bool [B, T].
      candidates: ids and mask of the answers, [C, A], and which of them are no padding, bool [C].
      k: candidates that are scored in full, by the likelihood of their first token; at most C.

    Returns: index int32 [B] of the candidate and its log-probability float32 [B].
    """
    ids, answer_mask, valid = candidates
    smoothing = QUIRK_LABEL_SMOOTHING if "smoothed_ranking" in model.config.quirks else 0.0

    def best_answer(row):
        state, read = row
        context = apply("question_context", state[None], read[None])
        start = jnp.full((1, 1), model.config.med.dec_token)
        first = apply("lm_logits", start, jnp.ones((1, 1), bool), context)[:, 0]
        picked = top_candidates(first, ids[:, 1], k, valid)[0]
        logits = apply("lm_logits", ids[picked], answer_mask[picked], context)
        scores = log_likelihood(logits, ids[picked], answer_mask[picked], smoothing)
        scores = jnp.where(valid[picked], scores, -jnp.inf)
        # NaN may come last in the order of top_k, behind the padding.
        best = jnp.where(jnp.isnan(first).any(), jnp.nan, scores.max())
        return picked[scores.argmax()], best

    return jax.lax.map(best_answer, (states, mask))


def verify_function(model: Model) -> Callable[..., np.ndarray]:
    """Returns a function of two image batches, ids and mask [D * b, T] to logits (false, true)."""

    def decide(apply, first, second, ids, mask):
        tokens = [image_tokens(apply, normalize(images)) for images in (first, second)]
        return apply("logits", ids, mask, apply("image_contexts", *tokens))

    return PmappedFunction(decide, model, "verify")


def hidden_states_function(model: Model, of: Sequence[str]) -> PmappedFunction:
    """Returns a function for hidden states of images, of texts, or of image-grounded texts.

    Args:
      of: ("image",), ("text",), or both; the function takes images, or ids and mask, or all three.
    """

    def image(apply, images):
        return image_tokens(apply, normalize(images))

    def text(apply, ids, mask):
        return apply("encode_text", ids, mask)

    def both(apply, images, ids, mask):
        context = apply("image_context", image(apply, images), "encoder")
        return apply("encode_text_with_image", ids, mask, context)

    chosen = {("image",): image, ("text",): text}.get(tuple(of), both)
    return PmappedFunction(chosen, model, ("hidden_states", *of))
