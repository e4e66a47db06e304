"""Answers to several questions about each image, which is encoded once, on its device.

D local devices, b images a device, r rows of a step, each of one image with G questions, T tokens,
N image tokens, W their width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from blip_jax.decoding import Decoding
from blip_jax.models.functions import (
    generate_answers,
    hidden_states_function,
    rank_answers,
    without_params,
)
from blip_jax.models.pmapped import PmappedFunction

if TYPE_CHECKING:
    from blip_jax.models.model import Model


def image_tokens_function(model: Model) -> Callable[[np.ndarray], Any]:
    """Returns a function of images uint8 [D * b, S, S, 3], or of clips, to their tokens.

    These stay on the devices, [D, b, N, W], for the functions below.
    """
    return hidden_states_function(model, ("image",)).dispatch


def answer_by_image(model: Model, decoding: Decoding) -> Callable[..., Any]:
    """Returns a function of image tokens and questions to generated answers.

    It takes the tokens of `image_tokens_function`, the place of each row's image among the b of its
    device, int32 [D, r], and ids int32 and mask bool [D, r, G, T] of the questions; it gives
    `Generated` of arrays [D, r * G, ...] on the devices. Nothing waits for it.
    """
    known = without_params(model)
    shape = decoding.shape(1, model.config.med.max_length)

    def write(apply, tokens, places, ids, mask, params):
        states, mask = _question_states(apply, tokens, places, ids, mask)
        return generate_answers(apply, known, states, mask, shape, params)

    program = ("answer_by_image", shape, known.special)
    function = PmappedFunction(write, model, program, takes_shared=True, shared_axis=0)

    def answer(tokens: Any, places: np.ndarray, ids: np.ndarray, mask: np.ndarray) -> Any:
        params = decoding.params(ids[..., 0].size)
        return function.dispatch(*_of_devices(places, ids, mask), params, shared=tokens)

    return answer


def rank_by_image(model: Model, k: int) -> Callable[..., Any]:
    """Returns a function of candidates, image tokens and questions to the likeliest candidates.

    It takes the candidates of `rank_answers`, then what the function of `answer_by_image` takes,
    and gives the candidates' index and log-probability, [D, r * G], on the devices.
    """
    known = without_params(model)

    def rank(apply, shared, places, ids, mask):
        tokens, candidates = shared
        states, mask = _question_states(apply, tokens, places, ids, mask)
        return rank_answers(apply, known, states, mask, candidates, k)

    program = ("rank_by_image", k)
    function = PmappedFunction(rank, model, program, takes_shared=True, shared_axis=(0, None))

    def best(candidates: Any, tokens: Any, places: np.ndarray, *questions: np.ndarray) -> Any:
        return function.dispatch(*_of_devices(places, *questions), shared=(tokens, candidates))

    return best


def _of_devices(*arrays: np.ndarray) -> list[np.ndarray]:
    """Returns arrays [D, r, ...] as [D * r, ...]."""
    return [x.reshape(-1, *x.shape[2:]) for x in arrays]


def _question_states(
    apply: Callable, tokens: jax.Array, places: jax.Array, ids: jax.Array, mask: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Returns hidden states [r * G, T, D] of questions [r, G, T], and their mask [r * G, T].

    Texts read context rows in order, G each; see `nn.attention.CrossAttention`.
    """
    ids, mask = (x.reshape(-1, x.shape[-1]) for x in (ids, mask))
    return apply("question_hidden_states", tokens[places], ids, mask), mask
