"""ITC, ITM and LM of image-text pairs on the devices: what pairs.py's tasks compute in a step.

B pairs, T tokens, E embedding, G groups of b pairs for hard negatives.

As ITC contrasts online features with *momentum* features only, and these are prepared for the whole
batch, accumulated gradients equal those of the full batch in one piece; for ITM too, since a
micro-batch holds whole groups; for LM, since tokens are counted in advance.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from blip_jax import losses, nn
from blip_jax.data.images import normalize
from blip_jax.losses import lm_weight
from blip_jax.nn.attention import CrossAttentionContext
from blip_jax.tasks.base import Batch, Extra, Params, Task
from blip_jax.tasks.starting_params import select


class BatchConstants(NamedTuple):
    """What `prepare` computed for the whole batch; `loss` reads it as constants.

    Attributes:
      image, text: float32 [K, E], momentum features of the batch, then of the queue.
      group: int32 [K]; valid: bool [K]: see `losses.Queue`.
      alpha: weight of the soft targets at this step.
      num_pairs, num_tokens: how many pairs and next tokens count: what micro-batches divide by.
      num_itm_decisions: how many ITM decisions count.
      batch_size: float32, B.
    """

    image: jax.Array
    text: jax.Array
    group: jax.Array
    valid: jax.Array
    alpha: jax.Array
    num_pairs: jax.Array
    num_tokens: jax.Array
    num_itm_decisions: jax.Array
    batch_size: jax.Array


class PairLosses(Task):
    """The losses of a `PairTask` (pairs.py), which says what a batch holds.

    Attributes:
      itc, itm, lm: configs of the losses; None: left out.
      prompt_length: tokens of each text, [DEC] counted, that are given and not learned.
    """

    itc: Any
    itm: Any
    lm: Any
    prompt_length: int

    def constrain(self, params: Params) -> Params:
        """Clips the temperature to 0.001 … 0.5, as in the original's `BLIP_Pretrain.forward`."""
        if "temperature" not in params:
            return params
        return {**params, "temperature": jnp.clip(params["temperature"], 0.001, 0.5)}

    def move_momentum(self, params: Params, extra: Extra) -> Extra:
        """Moves the momentum weights towards this step's weights, before they are used."""
        if not self.itc:
            return extra
        online = select(params, extra["momentum"])
        momentum = optax.incremental_update(online, extra["momentum"], 1 - self.itc.momentum)
        return {**extra, "momentum": momentum}

    def prepare(
        self,
        params: Params,
        extra: Extra,
        batch: Batch,
        step: jax.Array,
        key: jax.Array | None,
    ) -> tuple[BatchConstants, Extra]:
        """Computes features of the momentum encoder, and enqueues them.

        The order is the original's: the momentum weights have moved towards this step's weights
        before they are used, and the queue is read before it is written.

        Args:
          key: for dropout in the momentum encoder; None: evaluation mode.
        """
        group, valid = self.groups(batch), self.valid(batch)
        num_itm_decisions = valid.sum()
        if self.itm:
            negatives = self.valid_negatives(group, valid)
            num_itm_decisions += self.has_negative_text(batch, negatives).sum()
            num_itm_decisions += negatives.any(-2).sum()
        tokens = lm_weight(batch["mask"], self.prompt_length) * valid[:, None]
        counts = valid.sum(), tokens.sum(), num_itm_decisions, jnp.float32(len(valid))
        if not self.itc:
            nothing = jnp.zeros((0, self.model.embed_dim))
            zero = jnp.float32(0)
            return BatchConstants(nothing, nothing, group[:0], valid[:0], zero, *counts), extra

        itc = self.itc
        ramp = jnp.minimum(1.0, step / max(itc.alpha_warmup_steps, 1))
        alpha = itc.alpha * (ramp if itc.alpha_warmup_steps else 1.0)
        image, text = self.features(extra["momentum"], batch, key if itc.teacher_dropout else None)
        keys = self.replicate((image, text, group, valid))
        if "queue" not in extra:
            return BatchConstants(*keys, alpha, *counts), extra
        # Replicated again, because otherwise the partitioner splits the long arrays and gathers
        # them at each use.
        both = self.replicate(
            [jnp.concatenate(pair) for pair in zip(keys, extra["queue"], strict=False)]
        )
        extra = {**extra, "queue": losses.enqueue(extra["queue"], *keys)}
        return BatchConstants(*both, alpha, *counts), extra

    def features(
        self, params: Params, batch: Batch, key: jax.Array | None
    ) -> tuple[jax.Array, jax.Array]:
        """Returns aligned features of a batch: image and text, float32 [B, E] each."""
        keys = (None, None) if key is None else jax.random.split(key)
        tokens = self.apply(params, "encode_image", pixels(batch["image"]), key=keys[0])
        image = self.apply(params, "image_features", tokens)
        return image, self.apply(params, "text_features", batch["ids"], batch["mask"], key=keys[1])

    # Loss

    def loss(
        self,
        params: Params,
        batch: Batch,
        constants: BatchConstants,
        rows: jax.Array,
        key: jax.Array | None,
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Returns this micro-batch's part of the summed losses, and of the metrics.

        Args:
          key: for dropout and for drawing negatives; None: no dropout, and the batch brings
            negative_image and negative_text (int32 [B], within the group).
        """
        keys = [None] * 5 if key is None else list(jax.random.split(key, 5))
        tokens = self.apply(params, "encode_image", pixels(batch["image"]), key=keys[0])
        metrics, terms = {}, []
        contexts = self.contexts(params, tokens)
        if self.itc:
            image = self.apply(params, "image_features", tokens)
            text = self.apply(params, "text_features", batch["ids"], batch["mask"], key=keys[1])
            metrics |= self.itc_metrics(params, image, text, batch, constants, rows)
            terms.append("itc")
        if self.itm:
            negatives = self.negatives(params, image, text, batch, constants, rows, keys[3])
            metrics |= self.itm_metrics(
                params, contexts["encoder"], negatives, batch, constants, keys[2]
            )
            terms.append("itm")
        if self.lm:
            metrics["lm"] = self.lm_loss(params, contexts["decoder"], batch, constants, keys[4])
            terms.append("lm")
        total = sum(metrics[name] for name in terms)
        if "temperature" in params:
            share = len(rows) / constants.batch_size
            metrics["temperature"] = jax.lax.stop_gradient(params["temperature"]) * share
        return total, {"loss": total, **metrics}

    def contexts(self, params: Params, tokens: jax.Array) -> dict[str, CrossAttentionContext]:
        """Returns what the passes of ITM ("encoder") and LM ("decoder") read of image tokens.

        Where both roles share the cross-attention, they read one projection. Two equal ones XLA
        would merge in the forward pass, but not in the backward pass, which has other gradients.
        """
        projected = {}
        for role, name in self.context_names.items():
            if name not in projected:
                projected[name] = self.apply(params, "image_context", tokens, role)
        return {role: projected[name] for role, name in self.context_names.items()}

    @property
    def context_names(self) -> dict[str, str]:
        """Returns the name of the cross-attention's parameters, for each role that reads images."""
        roles = [role for role, loss in (("encoder", self.itm), ("decoder", self.lm)) if loss]
        name = functools.partial(nn.param_group_name, self.model.med, "cross_attention")
        return {role: name(role) for role in roles}

    def itc_metrics(self, params, image, text, batch, constants, rows) -> dict[str, jax.Array]:
        """Returns ITC in both directions, and the similarities of positives and negatives."""
        own = jnp.arange(constants.valid.shape[0]) == rows[:, None]
        same_group = self.groups(batch)[:, None] == constants.group
        positive = own | same_group & self.has_group_positives
        weight = self.valid(batch) / jnp.maximum(constants.num_pairs, 1)
        options = positive, constants.valid, params["temperature"], constants.alpha
        momentum_image = jnp.take(constants.image, rows, axis=0)
        momentum_text = jnp.take(constants.text, rows, axis=0)
        i2t = losses.itc_loss(image, momentum_image, constants.text, *options)
        t2i = losses.itc_loss(text, momentum_text, constants.image, *options)
        similarity = jax.lax.stop_gradient(image @ constants.text.T)
        negative = constants.valid & ~positive
        negative_mean = (similarity * negative).sum(-1) / jnp.maximum(negative.sum(-1), 1)
        return {
            "itc": (weight * (i2t + t2i) / 2).sum(),
            "positive_similarity": (weight * (similarity * own).sum(-1)).sum(),
            "negative_similarity": (weight * negative_mean).sum(),
        }

    def negatives(self, params, image, text, batch, constants, rows, key):
        """Draws hard negatives, outside the losses so that these are deterministic.

        Returns: (image for each text, text for each image), int32 [G, b] each, and which text can
          be the negative of which image, bool [G, b, b].
        """
        valid_negatives = self.valid_negatives(self.groups(batch), self.valid(batch))
        count = valid_negatives.shape[0]
        if "negative_image" in batch:
            given = batch["negative_image"], batch["negative_text"]
            return *(index.reshape(count, -1) for index in given), valid_negatives
        split = lambda x: jax.lax.stop_gradient(x).reshape(count, -1, x.shape[-1])  # noqa: E731
        momentum_image = split(jnp.take(constants.image, rows, axis=0))
        momentum_text = split(jnp.take(constants.text, rows, axis=0))
        scale = 1 / jax.lax.stop_gradient(params["temperature"])
        t2i = jnp.einsum("gie,gje->gij", split(text), momentum_image) * scale
        i2t = jnp.einsum("gie,gje->gij", split(image), momentum_text) * scale
        image_key, text_key = jax.random.split(key)
        floor = self.itm.floor
        return (
            losses.draw_hard_negatives(image_key, t2i, valid_negatives.swapaxes(1, 2), floor),
            losses.draw_hard_negatives(text_key, i2t, valid_negatives, floor),
            valid_negatives,
        )

    def itm_metrics(self, params, context, negatives, batch, constants, key):
        """Returns ITM of each pair, of image and other text, and of text and other image."""
        negative_image, negative_text, valid_negatives = negatives
        groups, size = negative_text.shape
        regroup = lambda x: x.reshape(groups, size, *x.shape[1:])  # noqa: E731
        pick = jax.vmap(lambda x, index: x[index])
        ids, mask = regroup(batch["ids"]), regroup(batch["mask"])
        # The three rows of a pair are neighbours, so that no row is sent to another device. The
        # last one reads the negative image; for the others, no keys and values are copied.
        three = lambda x: jnp.stack(x, axis=2)  # noqa: E731
        other_ids, other_mask = pick(ids, negative_text), pick(mask, negative_text)
        if "perturbed_ids" in batch:
            own_ids, own_mask = regroup(batch["perturbed_ids"]), regroup(batch["perturbed_mask"])
            given = own_mask.any(-1, keepdims=True)
            other_ids = jnp.where(given, own_ids, other_ids)
            other_mask = jnp.where(given, own_mask, other_mask)
        ids, mask = three([ids, other_ids, ids]), three([mask, other_mask, mask])
        valid = regroup(self.valid(batch))
        has_negative_text = self.has_negative_text(batch, valid_negatives)
        weight = three([valid, has_negative_text, valid_negatives.any(-2)]).reshape(-1)
        label = jnp.tile(jnp.array([1, 0, 0]), groups * size)
        length = ids.shape[-1]
        flat = ids.reshape(-1, length), mask.reshape(-1, length)
        logits = self.apply(params, "itm_logits", *flat, context, negative_image, key=key)
        weight = weight / jnp.maximum(constants.num_itm_decisions, 1)
        return {
            "itm": (weight * losses.itm_loss(logits, label)).sum(),
            "itm_accuracy": (weight * (logits.argmax(-1) == label)).sum(),
        }

    def has_negative_text(self, batch: Batch, valid_negatives: jax.Array) -> jax.Array:
        """Returns bool [G, b]: which images have a negative text, drawn or perturbed."""
        drawn = valid_negatives.any(-1)
        if "perturbed_mask" not in batch:
            return drawn
        return drawn | batch["perturbed_mask"].any(-1).reshape(drawn.shape)

    def lm_loss(self, params, context, batch, constants, key) -> jax.Array:
        """Returns the LM loss of the texts given the images."""
        ids, mask = nn.set_first_token(batch["ids"], self.model.med.dec_token), batch["mask"]
        logits = self.apply(params, "lm_logits", ids, mask, context, key=key)
        loss, weight = losses.lm_loss(
            logits, ids, mask, self.prompt_length, self.lm.label_smoothing
        )
        weight = weight * self.valid(batch)[:, None]
        return (weight * loss).sum() / jnp.maximum(constants.num_tokens, 1)

    @property
    def has_group_positives(self) -> bool:
        """Returns whether pairs of one group are positives of each other."""
        return bool(self.itc) and self.itc.positives != "pair"

    def groups(self, batch: Batch) -> jax.Array:
        """Returns int32 [B]: pairs with the same number are positives of each other."""
        positives = self.itc.positives if self.itc else "pair"
        name = {"image": "group", "text": "text_group"}.get(positives)
        return batch[name] if name else jnp.arange(batch["ids"].shape[0], dtype=jnp.int32)

    def valid(self, batch: Batch) -> jax.Array:
        """Returns bool [B]: the rows that count."""
        return batch.get("valid", jnp.ones(batch["ids"].shape[:1], bool))

    def valid_negatives(self, group: jax.Array, valid: jax.Array) -> jax.Array:
        """Returns bool [G, b, b]: which text (last axis) can be the negative of which image."""
        size = self.group_size
        group, valid = group.reshape(-1, size), valid.reshape(-1, size)
        is_other_pair = ~jnp.eye(size, dtype=bool)
        if self.has_group_positives:
            is_other_pair = is_other_pair & (group[:, :, None] != group[:, None, :])
        return is_other_pair & valid[:, :, None] & valid[:, None, :]


def pixels(image: jax.Array) -> jax.Array:
    """Returns uint8 images normalised on the device; others are taken as normalised already."""
    return normalize(image) if image.dtype == jnp.uint8 else image
