"""The three objectives on a batch of pairs: what pre-training, captioner and filter have in common.

B pairs, T tokens, E embedding, G groups of b pairs for hard negatives.

A step goes through `prepare` once, on the whole batch and without gradient, and through `loss` for
each micro-batch. As ITC contrasts online features with *momentum* features only, and these are
prepared for the whole batch, accumulated gradients equal those of the full batch in one piece;
for ITM too, since a micro-batch holds whole groups; for LM, since tokens are counted beforehand.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from blip_jax import losses
from blip_jax.data.images import normalize
from blip_jax.losses import lm_weight
from blip_jax.nn import Blip, BlipConfig, set_first_token
from blip_jax.tasks.objectives import Objectives
from blip_jax.train.state import TrainState

Batch = dict[str, jax.Array]


class Shared(NamedTuple):
    """What `prepare` found for the whole batch; `loss` reads it as constants.

    Attributes:
      image, text: float32 [K, E], momentum features of the batch, then the queue's.
      group: int32 [K]; valid: bool [K]: see `losses.Queue`.
      alpha: weight of the soft targets at this step.
      pairs, tokens: how many pairs and next tokens count, so that micro-batches weigh right.
      matches: how many ITM decisions count.
    """

    image: jax.Array
    text: jax.Array
    group: jax.Array
    valid: jax.Array
    alpha: jax.Array
    pairs: jax.Array
    tokens: jax.Array
    matches: jax.Array


class ImageText:
    """Losses of a `Blip` on batches of pairs.

    A batch holds image uint8 or normalised float32 [B, S, S, 3], ids int32 [B, T], mask bool
    [B, T], and optionally valid bool [B] (False: set aside), group and text_group int32 [B]
    (equal for the same image and the same caption).

    On a mesh this is what the three objectives send between devices, each step: the momentum
    features of the batch, 2 x 4 x E bytes a pair (and a group and a flag), once to every device,
    where the queue has its copy. Similarities, hard negatives and losses stay with their pairs.

    Args:
      everywhere: copies a tree of arrays to all devices of the mesh.
    """

    def __init__(
        self,
        config: BlipConfig,
        objectives: Objectives,
        everywhere: Callable[[Any], Any] = lambda tree: tree,
    ):
        self.config = config
        self.objectives = objectives
        self.everywhere = everywhere
        self.model = Blip(config)

    def apply(self, params: dict, method: str, *args: Any, key: jax.Array | None = None, **kw: Any):
        """`method` of the model; with a key it runs in train mode (dropout, stochastic depth)."""
        if key is not None:
            kw.update(train=True, rngs={"dropout": key})
        return self.model.apply({"params": params}, *args, method=method, **kw)

    def prepare(
        self, state: TrainState, batch: Batch, key: jax.Array | None
    ) -> tuple[Shared, TrainState]:
        """Moves the momentum encoder, computes its features, and enqueues them.

        The order is the original's: the momentum weights move towards this step's weights before
        they are used, and the queue is read before it is written.

        Args:
          key: for dropout in the momentum encoder; None: evaluation mode.
        """
        objectives = self.objectives
        group, valid = self.groups(batch), self.valid(batch)
        ramp = jnp.minimum(1.0, state.step / max(objectives.alpha_steps, 1))
        alpha = objectives.alpha * (ramp if objectives.alpha_steps else 1.0)
        matches = valid.sum()
        if "itm" in objectives.names:
            possible = self.possible(group, valid)
            matches += possible.any(-1).sum() + possible.any(-2).sum()
        counted = lm_weight(batch["mask"], objectives.prompt_length) * valid[:, None]
        counts = valid.sum(), counted.sum(), matches
        if not objectives.contrast:
            nothing = jnp.zeros((0, self.config.embed_dim))
            return Shared(nothing, nothing, group[:0], valid[:0], alpha, *counts), state

        m = objectives.momentum
        online = select(state.params, state.momentum)
        momentum = jax.tree.map(lambda slow, w: m * slow + (1 - m) * w, state.momentum, online)
        key = key if objectives.teacher_dropout else None
        image, text = self.features(momentum, batch, key)
        state = dataclasses.replace(state, momentum=momentum)
        keys = self.everywhere((image, text, group, valid))
        if state.queue is None:
            return Shared(*keys, alpha, *counts), state
        # Said again, or the partitioner cuts the long arrays up and gathers them for each use.
        both = self.everywhere(
            [jnp.concatenate(pair) for pair in zip(keys, state.queue, strict=False)]
        )
        state = dataclasses.replace(state, queue=losses.enqueue(state.queue, *keys))
        return Shared(*both, alpha, *counts), state

    def features(
        self, params: dict, batch: Batch, key: jax.Array | None
    ) -> tuple[jax.Array, jax.Array]:
        """Aligned features of a batch: image and text, float32 [B, E] each."""
        keys = (None, None) if key is None else jax.random.split(key)
        tokens = self.apply(params, "encode_image", pixels(batch["image"]), key=keys[0])
        image = self.apply(params, "image_features", tokens)
        return image, self.apply(params, "text_features", batch["ids"], batch["mask"], key=keys[1])

    def loss(
        self, params: dict, batch: Batch, shared: Shared, offset: jax.Array, key: jax.Array | None
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """This micro-batch's part of the summed loss, and the metrics, each likewise a part.

        Args:
          offset: int32 [B], where the pairs of the micro-batch stand in the whole batch.
          key: for dropout and for drawing negatives; None: no dropout, and the batch brings
            negative_image and negative_text (int32 [B], within the group).
        """
        names = self.objectives.names
        keys = [None] * 5 if key is None else list(jax.random.split(key, 5))
        tokens = self.apply(params, "encode_image", pixels(batch["image"]), key=keys[0])
        metrics = {}
        if self.objectives.contrast:
            image = self.apply(params, "image_features", tokens)
            text = self.apply(params, "text_features", batch["ids"], batch["mask"], key=keys[1])
            metrics |= self.itc(params, image, text, batch, shared, offset)
        if "itm" in names:
            negatives = self.negatives(params, image, text, batch, shared, offset, keys[3])
            metrics |= self.itm(params, tokens, negatives, batch, shared, keys[2])
        if "lm" in names:
            metrics["lm"] = self.lm(params, tokens, batch, shared, keys[4])
        total = sum(metrics[name] for name in names)
        return total, {"loss": total, **metrics}

    def itc(self, params, image, text, batch, shared, offset) -> dict[str, jax.Array]:
        """ITC both ways, and the similarities to watch."""
        own = jnp.arange(shared.valid.shape[0]) == offset[:, None]
        positive = own | (self.groups(batch)[:, None] == shared.group) & self.grouped
        weight = self.valid(batch) / jnp.maximum(shared.pairs, 1)
        options = positive, shared.valid, params["temperature"], shared.alpha
        teacher_image = jnp.take(shared.image, offset, axis=0)
        teacher_text = jnp.take(shared.text, offset, axis=0)
        i2t = losses.itc_loss(image, teacher_image, shared.text, *options)
        t2i = losses.itc_loss(text, teacher_text, shared.image, *options)
        similarity = jax.lax.stop_gradient(image @ shared.text.T)
        negative = shared.valid & ~positive
        apart = (similarity * negative).sum(-1) / jnp.maximum(negative.sum(-1), 1)
        return {
            "itc": (weight * (i2t + t2i) / 2).sum(),
            "positive_similarity": (weight * (similarity * own).sum(-1)).sum(),
            "negative_similarity": (weight * apart).sum(),
        }

    def negatives(self, params, image, text, batch, shared, offset, key):
        """Hard negatives, drawn here so that the losses are deterministic.

        Returns: (image for each text, text for each image, possible [G, b, b]); int32 [G, b].
        """
        possible = self.possible(self.groups(batch), self.valid(batch))
        count = possible.shape[0]
        if "negative_image" in batch:
            given = batch["negative_image"], batch["negative_text"]
            return *(index.reshape(count, -1) for index in given), possible
        split = lambda x: jax.lax.stop_gradient(x).reshape(count, -1, x.shape[-1])  # noqa: E731
        teacher_image = split(jnp.take(shared.image, offset, axis=0))
        teacher_text = split(jnp.take(shared.text, offset, axis=0))
        scale = 1 / jax.lax.stop_gradient(params["temperature"])
        t2i = jnp.einsum("gie,gje->gij", split(text), teacher_image) * scale
        i2t = jnp.einsum("gie,gje->gij", split(image), teacher_text) * scale
        image_key, text_key = jax.random.split(key)
        floor = self.objectives.negative_floor
        return (
            losses.draw_hard_negatives(image_key, t2i, possible.swapaxes(1, 2), floor),
            losses.draw_hard_negatives(text_key, i2t, possible, floor),
            possible,
        )

    def itm(self, params, tokens, negatives, batch, shared, key) -> dict[str, jax.Array]:
        """Three decisions a pair: itself, its image with another text, its text with another."""
        negative_image, negative_text, possible = negatives
        groups, size = negative_text.shape
        regroup = lambda x: x.reshape(groups, size, *x.shape[1:])  # noqa: E731
        pick = jax.vmap(lambda x, index: x[index])
        ids, mask = regroup(batch["ids"]), regroup(batch["mask"])
        own = jnp.broadcast_to(jnp.arange(size), (groups, size))
        # The three stand side by side behind each pair, so that no row leaves its device.
        three = lambda x: jnp.stack(x, axis=2)  # noqa: E731
        ids = three([ids, pick(ids, negative_text), ids])
        mask = three([mask, pick(mask, negative_text), mask])
        rows = three([own, own, negative_image]).reshape(groups, -1)
        valid = regroup(self.valid(batch))
        weight = three([valid, possible.any(-1), possible.any(-2)]).reshape(-1)
        label = jnp.tile(jnp.array([1, 0, 0]), groups * size)
        context = self.apply(params, "image_context", tokens, "encoder")
        length = ids.shape[-1]
        flat = ids.reshape(-1, length), mask.reshape(-1, length)
        logits = self.apply(params, "itm_logits", *flat, context, rows, key=key)
        weight = weight / jnp.maximum(shared.matches, 1)
        return {
            "itm": (weight * losses.itm_loss(logits, label)).sum(),
            "itm_accuracy": (weight * (logits.argmax(-1) == label)).sum(),
        }

    def lm(self, params, tokens, batch, shared, key) -> jax.Array:
        ids, mask = set_first_token(batch["ids"], self.config.med.dec_token), batch["mask"]
        context = self.apply(params, "image_context", tokens, "decoder")
        logits = self.apply(params, "lm_logits", ids, mask, context, key=key)
        objectives = self.objectives
        loss, weight = losses.lm_loss(
            logits, ids, mask, objectives.prompt_length, objectives.smoothing
        )
        weight = weight * self.valid(batch)[:, None]
        return (weight * loss).sum() / jnp.maximum(shared.tokens, 1)

    @property
    def grouped(self) -> bool:
        return self.objectives.positives != "pair"

    def groups(self, batch: Batch) -> jax.Array:
        """int32 [B]: pairs with the same number are positives of each other."""
        name = {"image": "group", "text": "text_group"}.get(self.objectives.positives)
        return batch[name] if name else jnp.arange(batch["ids"].shape[0], dtype=jnp.int32)

    def valid(self, batch: Batch) -> jax.Array:
        return batch.get("valid", jnp.ones(batch["ids"].shape[:1], bool))

    def possible(self, group: jax.Array, valid: jax.Array) -> jax.Array:
        """bool [G, b, b]: which text (last axis) can be the negative of which image."""
        size = self.objectives.group
        group, valid = group.reshape(-1, size), valid.reshape(-1, size)
        apart = ~jnp.eye(size, dtype=bool)
        if self.grouped:
            apart = apart & (group[:, :, None] != group[:, None, :])
        return apart & valid[:, :, None] & valid[:, None, :]


def select(params: dict, like: dict) -> dict:
    """The part of `params` that has the structure of `like`."""
    return {
        name: select(params[name], value) if isinstance(value, dict) else params[name]
        for name, value in like.items()
    }


def pixels(image: jax.Array) -> jax.Array:
    """uint8 images normalised on the device; others are taken as normalised already."""
    return normalize(image) if image.dtype == jnp.uint8 else image
