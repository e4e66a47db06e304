"""What a model does, as programs mapped over this host's devices: write, score, embed, answer.

PmappedFunction by `jax.pmap` and not sharded: nothing here ever waits for another host.

D local devices, b images a device, S pixels a side, G texts an image, T tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from blip_jax import nn
from blip_jax.data.images import normalize
from blip_jax.decoding import Decoding, Generated, generate, log_likelihood, shortlist
from blip_jax.runtime.errors import UserError

if TYPE_CHECKING:
    from blip_jax.models.model import Model

SMOOTHING = 0.1  # of the labels, with which the original ranks answers


def captioner(model: Model, ways: Sequence[Decoding]) -> PmappedFunction:
    """A function of images uint8 [D * b, S, S, 3] and lists of PRNG keys to lists of captions.

    For each way of writing there are keys [D * b, N] and `Generated`, N = `captions` of it. Each
    text begins with the `prompt_tokens(model)`; an image is encoded once for all ways.

    Raises:
      UserError: a way leaves no room behind the prompt, or the model has no positions for it.
    """
    prompt = prompt_tokens(model)
    for way in ways:
        check_length(model, way, len(prompt))

    def write(apply, images, keys):
        context = apply("image_context", apply("encode_image", normalize(images)), "decoder")
        prompts = jnp.broadcast_to(prompt, (len(images), len(prompt)))
        return [
            generate_from_context(apply, model, context, prompts, own, way)
            for own, way in zip(keys, ways, strict=True)
        ]

    return PmappedFunction(write, model)


def writer(model: Model, options: Decoding) -> PmappedFunction:
    """A function of images, PRNG keys [D * b, N] and prompts int32 [D * b, P] to captions.

    Given also lengths int32 [D * b], prompts are padded and of so many tokens each.
    """

    def write(apply, images, keys, prompts, lengths=None):
        context = apply("image_context", apply("encode_image", normalize(images)), "decoder")
        return generate_from_context(apply, model, context, prompts, keys, options, lengths)

    return PmappedFunction(write, model)


def generate_from_context(
    apply, model: Model, context, prompts, keys, options, lengths=None
) -> Generated:
    """`decoding.generate` with a network's `decode_step` over `context`."""

    def step(ids, cache, index):
        return apply("decode_step", ids, context, cache, index)

    cache = nn.init_cache(model.config, len(prompts), options.room(prompts.shape[1]))
    special = model.tokenizer.sep, model.tokenizer.pad
    return generate(step, cache, prompts, keys, options, special, lengths)


def check_length(model: Model, options: Decoding, prompt: int) -> None:
    """Raises a UserError unless there is room behind a prompt of so many tokens."""
    length, positions = options.max_length, model.config.med.max_length
    if options.max_new_tokens:
        length = prompt + options.max_new_tokens
    if not prompt < length <= positions:
        raise UserError(
            f"max_length of captions is {length}; it must be above the prompt's "
            f"{prompt} tokens and at most the model's {positions}"
        )


def prompt_tokens(model: Model) -> np.ndarray:
    """int32 [P]: [DEC], then the tokens of the model's prompt."""
    return model.tokenizer.prompt(model.prompt)


def example_keys(seed: int, hashes: np.ndarray, number: int = 0) -> jax.Array:
    """PRNG keys [B], each following from the example's own hash alone, for its caption `number`."""
    base = jax.random.fold_in(jax.random.key(seed), number)
    return jax.vmap(lambda h: jax.random.fold_in(base, h))(hashes)


def match_function(model: Model) -> PmappedFunction:
    """A function that scores G texts an image.

    It takes images uint8 [D * b, S, S, 3], ids int32 [D * b, G, T] and mask bool [D * b, G, T],
    and gives ITM logits float32 [D * b, G, 2] (no match, match) and the cosine of the aligned
    features, float32 [D * b, G].
    """

    def score(apply, images, ids, mask):
        tokens = apply("encode_image", normalize(images))
        batch, count, length = ids.shape
        flat = ids.reshape(-1, length), mask.reshape(-1, length)
        logits = apply("itm_logits", *flat, apply("image_context", tokens, "encoder"))
        text = apply("text_features", *flat).reshape(batch, count, -1)
        image = apply("image_features", tokens)
        return logits.reshape(batch, count, 2), jnp.einsum("be,bge->bg", image, text)

    return PmappedFunction(score, model)


def encode_image_function(model: Model) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """A function of images uint8 [D * b, S, S, 3] to (image tokens, aligned features)."""

    def encode(apply, images):
        tokens = apply("encode_image", normalize(images))
        return tokens, apply("image_features", tokens)

    return PmappedFunction(encode, model)


def encode_text_function(model: Model) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """A function of ids int32 [D * b, T] and mask bool [D * b, T] to aligned features."""
    return PmappedFunction(lambda apply, ids, mask: apply("text_features", ids, mask), model)


def rerank_function(model: Model) -> Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]:
    """A function of image tokens [D * b, N, W], ids and mask [D * b, T] to ITM logits [D * b, 2].

    For many texts an image whose tokens are there already, as in re-ranking.
    """

    def score(apply, tokens, ids, mask):
        return apply("itm_logits", ids, mask, apply("image_context", tokens, "encoder"))

    return PmappedFunction(score, model)


def answer_function(model: Model, options: Decoding) -> Callable[..., Generated]:
    """A function of images, and questions as ids and mask [D * b, T], to answers written."""

    def write(apply, images, ids, mask):
        states = apply(
            "question_hidden_states", apply("encode_image", normalize(images)), ids, mask
        )
        return generate_answers(apply, model, states, mask, options)

    return PmappedFunction(write, model)


def generate_answers(apply, model: Model, states, mask, options: Decoding) -> Generated:
    """Answers written to questions, of which the states [B, T, D] and mask [B, T] are given."""
    read = None if "unmasked_question" in model.config.quirks else mask
    prompts = jnp.full((len(states), 1), model.config.med.dec_token)
    return generate_from_context(
        apply, model, apply("question_context", states, read), prompts, None, options
    )


def rank_function(model: Model, ids: np.ndarray, mask: np.ndarray, k: int) -> Callable:
    """A function of images and questions to the likeliest of given answers; see `rank_answers`."""
    candidates = jnp.asarray(ids), jnp.asarray(mask)

    def rank(apply, images, question, question_mask):
        tokens = apply("encode_image", normalize(images))
        states = apply("question_hidden_states", tokens, question, question_mask)
        return rank_answers(apply, model, states, question_mask, candidates, k)

    return PmappedFunction(rank, model)


def rank_answers(
    apply, model: Model, states, mask, candidates, k: int
) -> tuple[jax.Array, jax.Array]:
    """The likeliest of given answers to each question.

    Source: `BLIP_VQA.rank_answer` of the original's models/blip_vqa.py. Answers are judged a
    question at a time, as k of them have logits over the whole vocabulary.

    Args:
      states, mask: of the questions, [B, T, D] and bool [B, T].
      candidates: ids and mask of the answers, [C, A].
      k: candidates that are judged in full, by the likelihood of their first token.

    Returns: index int32 [B] of the candidate and its log-probability float32 [B].
    """
    ids, answer_mask = candidates
    smoothing = SMOOTHING if "smoothed_ranking" in model.config.quirks else 0.0

    def best(row):
        state, read = row
        context = apply("question_context", state[None], read[None])
        start = jnp.full((1, 1), model.config.med.dec_token)
        first = apply("lm_logits", start, jnp.ones((1, 1), bool), context)[:, 0]
        picked = shortlist(first, ids[:, 1], k)[0]
        logits = apply("lm_logits", ids[picked], answer_mask[picked], context)
        scores = log_likelihood(logits, ids[picked], answer_mask[picked], smoothing)
        return picked[scores.argmax()], scores.max()

    return jax.lax.map(best, (states, mask))


def verify_function(model: Model) -> Callable[..., np.ndarray]:
    """A function of first and second images, ids and mask [D * b, T] to logits (false, true)."""

    def decide(apply, first, second, ids, mask):
        tokens = [apply("encode_image", normalize(images)) for images in (first, second)]
        return apply("logits", ids, mask, apply("image_contexts", *tokens))

    return PmappedFunction(decide, model)


def hidden_states_function(model: Model, of: Sequence[str]) -> Callable[..., np.ndarray]:
    """The hidden states of images, of texts, or of texts grounded in images.

    Args:
      of: ("image",), ("text",), or both; the function takes images, or ids and mask, or all three.
    """

    def image(apply, images):
        return apply("encode_image", normalize(images))

    def text(apply, ids, mask):
        return apply("encode_text", ids, mask)

    def both(apply, images, ids, mask):
        context = apply("image_context", image(apply, images), "encoder")
        return apply("encode_text_with_image", ids, mask, context)

    chosen = {("image",): image, ("text",): text}.get(tuple(of), both)
    return PmappedFunction(chosen, model)


class PmappedFunction:
    """A function of (method caller, arrays) by `jax.pmap`: trees of arrays [D * b, ...] in and out.

    Attributes:
      per_device: what one device does, of (parameters, tuple of trees of arrays [b, ...]).
    """

    def __init__(self, function: Callable, model: Model):
        network = nn.network(model.config, model.model_type)

        def per_device(params: Any, arrays: tuple) -> Any:
            def apply(method: str, *args: Any) -> Any:
                return network.apply({"params": params}, *args, method=method)

            return function(apply, *arrays)

        self.per_device = per_device
        self._model = model
        self._mapped = jax.pmap(per_device, in_axes=(None, 0), devices=jax.local_devices())

    def __call__(self, *arrays: Any) -> Any:
        return self.collect(self.dispatch(*arrays))

    def dispatch(self, *arrays: Any) -> Any:
        """Sends the arrays to the devices and does not wait: what `collect` takes."""
        devices = jax.local_device_count()
        parts = jax.tree.map(lambda x: x.reshape(devices, -1, *x.shape[1:]), arrays)
        return self._mapped(self._model.device_params, parts)

    def collect(self, started: Any) -> Any:
        """The results, as numpy arrays."""
        return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), jax.device_get(started))
