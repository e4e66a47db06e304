"""BLIP's three objectives as pure functions of arrays."""

from blip_jax.losses.itc import Queue, enqueue, init_queue, itc_loss
from blip_jax.losses.itm import draw_hard_negatives, itm_loss
from blip_jax.losses.lm import lm_loss

__all__ = [
    "Queue",
    "draw_hard_negatives",
    "enqueue",
    "init_queue",
    "itc_loss",
    "itm_loss",
    "lm_loss",
]
