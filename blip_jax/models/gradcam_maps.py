"""GradCAM on the devices: heat maps of the tokens of texts, and the scores that they explain.

B images, D local devices, b images a device, S pixels a side, H heads, T tokens, N image tokens, W
their width, P pictures that a text reads, L layers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from blip_jax.data.images import normalize
from blip_jax.decoding import log_likelihood
from blip_jax.models.image_tokens import image_tokens
from blip_jax.models.pmapped import PmappedFunction
from blip_jax.nn import set_first_token


def gradcam_function(model: Any, target: str, layer: int) -> PmappedFunction:
    """Returns a function of images and texts to heat maps and scores.

    It takes images uint8 [D * b, S, S, 3], or [D * b, P, S, S, 3] of pairs and clips, ids int32 and
    mask bool [D * b, T], and of "answer" also ids and mask of the answers; it gives maps float32
    [D * b, T, P (N - 1)], zeros for pads, the images themselves, and the scores float32 [D * b]:
    P(match), P(the answer, true or false), or a log-probability.
    """
    compute = {
        "match": match_maps,
        "rank_dialog": match_maps,
        "caption": caption_maps,
        "answer": answer_maps,
        "verify": verify_maps,
    }[target]

    def explain(apply, images, ids, mask, *answer):
        tokens = image_tokens(apply, normalize(images))
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
    return heat(gradient, num_pictures(model, tokens)), score


def verify_maps(apply: Callable, model: Any, tokens, layer: int, ids, mask):
    """Returns maps [B, T, 2 (N - 1)] of the logit of the likelier truth value, and its P [B].

    Args:
      tokens: of both images in a row, [B, 2 N, W].
    """
    first, second = jnp.split(tokens, 2, axis=1)
    contexts = apply("image_contexts", first, second)

    def logit(gate):
        gated = [
            context._replace(gate=gates(model, own, layer))
            for context, own in zip(contexts, jnp.split(gate, 2, axis=-1), strict=True)
        ]
        logits = apply("logits", ids, mask, tuple(gated))
        return logits.max(-1).sum(), jax.nn.softmax(logits).max(-1)

    gradient, score = jax.grad(logit, has_aux=True)(ones(model, tokens, ids))
    return heat(gradient, 2), score


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
    return heat(gradient, num_pictures(model, tokens)), score


def ones(model: Any, tokens: jax.Array, ids: jax.Array) -> jax.Array:
    """Returns the gate of one layer that changes nothing, float32 [B, H, T, N]."""
    return jnp.ones((len(ids), model.config.med.heads, ids.shape[1], tokens.shape[1]))


def gates(model: Any, gate: jax.Array, layer: int) -> jax.Array:
    """Returns the gates of all layers, float32 [L, B, H, T, N]; all but one are 1."""
    return jnp.ones((model.config.med.depth, *gate.shape)).at[layer].set(gate)


def num_pictures(model: Any, tokens: jax.Array) -> int:
    """Returns P: how many pictures have their tokens in a row, [B, P N, W]."""
    return tokens.shape[1] // model.config.vit.tokens


def heat(gradient: jax.Array, pictures: int = 1) -> jax.Array:
    """Maps the gradient by a gate, float32 [B, H, T, P N], to heat maps [B, T, P (N - 1)].

    At 1 it is probability * d/d probability, so that its positive part is the probability times the
    positive part of its own gradient. The first token of a picture, [CLS], has no place in it.
    """
    maps = jnp.maximum(gradient, 0).mean(1)
    maps = maps.reshape(*maps.shape[:2], pictures, -1)[..., 1:]
    return maps.reshape(*maps.shape[:2], -1)
