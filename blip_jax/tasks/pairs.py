"""Image-text pairs: the three objectives that pre-training, retrieval and captioning share.

B pairs, T tokens, E embedding, G groups of b pairs for hard negatives.

As ITC contrasts online features with *momentum* features only, and these are prepared for the whole
batch, accumulated gradients equal those of the full batch in one piece; for ITM too, since a
micro-batch holds whole groups; for LM, since tokens are counted in advance.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from blip_jax import losses, nn
from blip_jax.data.images import ImageError, decode, normalize
from blip_jax.data.pipeline import InvalidRecord, crc32_hash
from blip_jax.data.text import clean_caption
from blip_jax.losses import lm_weight
from blip_jax.nn import flops
from blip_jax.runtime.errors import UserError
from blip_jax.tasks.base import Batch, Extra, Params, Task


@dataclasses.dataclass(frozen=True)
class ItcConfig:
    """Image-text contrast with a momentum encoder and a queue (paper, sections 3.2 and 4.1)."""

    momentum: float = 0.995  # of the momentum encoder, per step
    queue_size: int = 57_600  # pairs of past batches that are kept; 0: none
    queue_random_init: bool = False  # start with random unit vectors as negatives, as the original
    alpha: float = 0.4  # weight of the soft targets
    alpha_warmup_steps: int = 9800  # alpha rises linearly from 0 over these steps
    # Which pairs are positives of each other in ITC and no negatives in ITM: only itself (pair),
    # those of the same image (image), or of the same caption (text).
    positives: Literal["pair", "image", "text"] = "pair"
    teacher_dropout: bool = True  # run the momentum encoder with dropout, as the original does


@dataclasses.dataclass(frozen=True)
class ItmConfig:
    """Image-text matching with hard negatives (paper, section 3.2)."""

    # Hard negatives are drawn among this many neighbouring pairs of the batch (the original: among
    # the pairs of one GPU); it divides the batch and every micro-batch.
    group_size: int = 90
    floor: float = 1e-4  # added to each weight; the retrieval recipe has 0


@dataclasses.dataclass(frozen=True)
class LmConfig:
    """Language modelling of the image-grounded decoder (paper, section 3.2)."""

    label_smoothing: float = 0.1  # share of the target that is spread evenly over the vocabulary
    prompt: str = ""  # put before every text, and not learned


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


class PairTask(Task):
    """Losses of a `Blip` on batches of image-text pairs; a config that lacks a loss has None.

    A batch holds image uint8 or normalised float32 [B, S, S, 3], ids int32 [B, T], mask bool
    [B, T], and optionally valid bool [B] (False: not counted), group and text_group int32 [B]
    (equal for the same image and the same caption).

    On a mesh this is what the objectives exchange between devices, each step: the momentum
    features of the batch, 2 x 4 x E bytes a pair (and a group and a flag), once to every device,
    where the queue has its copy. Similarities, hard negatives and losses stay with their pairs.
    """

    def __init__(self, config, model, tokenizer, mesh=None, augment=None):
        super().__init__(config, model, tokenizer, mesh, augment)
        self.itc: ItcConfig | None = config.itc
        self.itm: ItmConfig | None = config.itm
        self.lm: LmConfig | None = config.lm
        if self.itm and not self.itc:
            raise UserError("task.itm needs task.itc: its negatives come from ITC's features")
        self.group_size = self.itm.group_size if self.itm else 1
        prompt = self.lm.prompt if self.lm else ""
        self.prompt_length = len(tokenizer.prompt(prompt)) if prompt else 0

    @property
    def program_key(self) -> tuple:
        return *super().program_key, self.prompt_length

    # Data

    def example(self, record: Mapping[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        texts = record["texts"]
        text = clean_caption(texts[int(rng.integers(len(texts)))]) if texts else ""
        try:
            image = decode(record["image"])
        except ImageError as error:
            raise InvalidRecord("undecodable image") from error
        image, text = self.transform.pair(image, text, rng)
        if not text:
            raise InvalidRecord("empty text")
        return {"image": image, "text": text, "group": crc32_hash(record["key"])}

    def empty_example(self) -> dict[str, Any]:
        size = self.model.vit.image_size
        return {"image": np.zeros((size, size, 3), np.uint8), "text": "", "group": 0}

    def collate(self, examples: Sequence[dict[str, Any]]) -> dict[str, np.ndarray]:
        prompt = self.lm.prompt if self.lm else ""
        texts = [prompt + e["text"] if e["text"] else "" for e in examples]
        ids, mask = self.tokenizer.encode(texts, self.config.max_length)
        return {
            "image": np.stack([e["image"] for e in examples]),
            "ids": ids,
            "mask": mask,
            "group": np.array([e["group"] for e in examples], np.int32),
            "text_group": np.array([crc32_hash(e["text"]) for e in examples], np.int32),
        }

    def batch_spec(self, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        size, length = self.model.vit.image_size, self.config.max_length
        return {
            "image": jax.ShapeDtypeStruct((batch_size, size, size, 3), np.uint8),
            "ids": jax.ShapeDtypeStruct((batch_size, length), np.int32),
            "mask": jax.ShapeDtypeStruct((batch_size, length), bool),
            "group": jax.ShapeDtypeStruct((batch_size,), np.int32),
            "text_group": jax.ShapeDtypeStruct((batch_size,), np.int32),
            "valid": jax.ShapeDtypeStruct((batch_size,), bool),
        }

    # State

    def init_extra(self, params: Params, key: jax.Array) -> Extra:
        """{"momentum": slow copy of the encoders, "queue": losses.Queue}, as far as used."""
        if not self.itc:
            return {}
        extra: Extra = {"momentum": nn.momentum_params(params)}
        if self.itc.queue_size:
            extra["queue"] = losses.init_queue(
                self.itc.queue_size,
                self.model.embed_dim,
                jax.random.fold_in(key, 1),
                self.itc.queue_random_init,
            )
        return extra

    def constrain(self, params: Params) -> Params:
        """The temperature within 0.001 … 0.5, as in the original's `BLIP_Pretrain.forward`."""
        if "temperature" not in params:
            return params
        return {**params, "temperature": jnp.clip(params["temperature"], 0.001, 0.5)}

    def prepare(
        self,
        params: Params,
        extra: Extra,
        batch: Batch,
        step: jax.Array,
        key: jax.Array | None,
    ) -> tuple[BatchConstants, Extra]:
        """Moves the momentum encoder, computes its features, and enqueues them.

        The order is the original's: the momentum weights move towards this step's weights before
        they are used, and the queue is read before it is written.

        Args:
          key: for dropout in the momentum encoder; None: evaluation mode.
        """
        group, valid = self.groups(batch), self.valid(batch)
        num_itm_decisions = valid.sum()
        if self.itm:
            negatives = self.valid_negatives(group, valid)
            num_itm_decisions += negatives.any(-1).sum() + negatives.any(-2).sum()
        tokens = lm_weight(batch["mask"], self.prompt_length) * valid[:, None]
        counts = valid.sum(), tokens.sum(), num_itm_decisions, jnp.float32(len(valid))
        if not self.itc:
            nothing = jnp.zeros((0, self.model.embed_dim))
            zero = jnp.float32(0)
            return BatchConstants(nothing, nothing, group[:0], valid[:0], zero, *counts), extra

        itc = self.itc
        ramp = jnp.minimum(1.0, step / max(itc.alpha_warmup_steps, 1))
        alpha = itc.alpha * (ramp if itc.alpha_warmup_steps else 1.0)
        momentum = extra["momentum"]
        online = select(params, momentum)
        momentum = optax.incremental_update(online, momentum, 1 - itc.momentum)
        image, text = self.features(momentum, batch, key if itc.teacher_dropout else None)
        extra = {**extra, "momentum": momentum}
        keys = self.replicate((image, text, group, valid))
        if "queue" not in extra:
            return BatchConstants(*keys, alpha, *counts), extra
        # Replicated again, or the partitioner splits the long arrays and gathers them per use.
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
        """This micro-batch's part of the summed losses, and of the metrics.

        Args:
          key: for dropout and for drawing negatives; None: no dropout, and the batch brings
            negative_image and negative_text (int32 [B], within the group).
        """
        keys = [None] * 5 if key is None else list(jax.random.split(key, 5))
        tokens = self.apply(params, "encode_image", pixels(batch["image"]), key=keys[0])
        metrics, terms = {}, []
        if self.itc:
            image = self.apply(params, "image_features", tokens)
            text = self.apply(params, "text_features", batch["ids"], batch["mask"], key=keys[1])
            metrics |= self.itc_metrics(params, image, text, batch, constants, rows)
            terms.append("itc")
        if self.itm:
            negatives = self.negatives(params, image, text, batch, constants, rows, keys[3])
            metrics |= self.itm_metrics(params, tokens, negatives, batch, constants, keys[2])
            terms.append("itm")
        if self.lm:
            metrics["lm"] = self.lm_loss(params, tokens, batch, constants, keys[4])
            terms.append("lm")
        total = sum(metrics[name] for name in terms)
        if "temperature" in params:
            share = len(rows) / constants.batch_size
            metrics["temperature"] = jax.lax.stop_gradient(params["temperature"]) * share
        return total, {"loss": total, **metrics}

    def itc_metrics(self, params, image, text, batch, constants, rows) -> dict[str, jax.Array]:
        """ITC in both directions, and the similarities of positives and negatives."""
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

    def itm_metrics(self, params, tokens, negatives, batch, constants, key):
        """ITM of each pair, of its image with another text, and of its text with another image."""
        negative_image, negative_text, valid_negatives = negatives
        groups, size = negative_text.shape
        regroup = lambda x: x.reshape(groups, size, *x.shape[1:])  # noqa: E731
        pick = jax.vmap(lambda x, index: x[index])
        ids, mask = regroup(batch["ids"]), regroup(batch["mask"])
        own = jnp.broadcast_to(jnp.arange(size), (groups, size))
        # The three of a pair are neighbours, so that no row leaves its device.
        three = lambda x: jnp.stack(x, axis=2)  # noqa: E731
        ids = three([ids, pick(ids, negative_text), ids])
        mask = three([mask, pick(mask, negative_text), mask])
        image_rows = three([own, own, negative_image]).reshape(groups, -1)
        valid = regroup(self.valid(batch))
        weight = three([valid, valid_negatives.any(-1), valid_negatives.any(-2)]).reshape(-1)
        label = jnp.tile(jnp.array([1, 0, 0]), groups * size)
        context = self.apply(params, "image_context", tokens, "encoder")
        length = ids.shape[-1]
        flat = ids.reshape(-1, length), mask.reshape(-1, length)
        logits = self.apply(params, "itm_logits", *flat, context, image_rows, key=key)
        weight = weight / jnp.maximum(constants.num_itm_decisions, 1)
        return {
            "itm": (weight * losses.itm_loss(logits, label)).sum(),
            "itm_accuracy": (weight * (logits.argmax(-1) == label)).sum(),
        }

    def lm_loss(self, params, tokens, batch, constants, key) -> jax.Array:
        """LM of the texts given the images."""
        ids, mask = nn.set_first_token(batch["ids"], self.model.med.dec_token), batch["mask"]
        context = self.apply(params, "image_context", tokens, "decoder")
        logits = self.apply(params, "lm_logits", ids, mask, context, key=key)
        loss, weight = losses.lm_loss(
            logits, ids, mask, self.prompt_length, self.lm.label_smoothing
        )
        weight = weight * self.valid(batch)[:, None]
        return (weight * loss).sum() / jnp.maximum(constants.num_tokens, 1)

    @property
    def has_group_positives(self) -> bool:
        """Whether pairs of one group are positives of each other."""
        return bool(self.itc) and self.itc.positives != "pair"

    def groups(self, batch: Batch) -> jax.Array:
        """int32 [B]: pairs with the same number are positives of each other."""
        positives = self.itc.positives if self.itc else "pair"
        name = {"image": "group", "text": "text_group"}.get(positives)
        return batch[name] if name else jnp.arange(batch["ids"].shape[0], dtype=jnp.int32)

    def valid(self, batch: Batch) -> jax.Array:
        """bool [B]: the rows that count."""
        return batch.get("valid", jnp.ones(batch["ids"].shape[:1], bool))

    def valid_negatives(self, group: jax.Array, valid: jax.Array) -> jax.Array:
        """bool [G, b, b]: which text (last axis) can be the negative of which image."""
        size = self.group_size
        group, valid = group.reshape(-1, size), valid.reshape(-1, size)
        is_other_pair = ~jnp.eye(size, dtype=bool)
        if self.has_group_positives:
            is_other_pair = is_other_pair & (group[:, :, None] != group[:, None, :])
        return is_other_pair & valid[:, :, None] & valid[:, None, :]

    def flops(self, batch_size: int) -> int:
        """FLOPs of one training step, of all chips together."""
        config, length = self.model, self.config.max_length
        image, alone = flops.vit(config.vit), flops.text(config.med, length)
        image_grounded = flops.text(config.med, length, config.vit.tokens)
        parts, pair = [image], 0
        if self.itc:
            heads = flops.heads(config)
            parts += [alone, heads]
            pair += image.forward + alone.forward + heads.forward  # the momentum encoder
            # Each pair with all keys, both ways: targets, logits, and the logits' backward pass,
            # which goes to the features alone.
            pair += 2 * 3 * 2 * config.embed_dim * (batch_size + self.itc.queue_size)
        if self.itm:
            parts += [image_grounded] * 3  # the pair, and each half with a negative
        if self.lm:
            parts += [image_grounded, flops.lm_head(config.med, length)]
        pair += sum(part.trained(config.remat) for part in parts)
        # One projection serves both passes if they share it; each has a backward pass of its own.
        passes = bool(self.itm) + bool(self.lm)
        shared = "cross_attention" in nn.configs.SHARING[config.med.sharing]
        forward = min(passes, 1) if shared else passes
        pair += flops.context(config).forward * (2 * passes + forward)
        return batch_size * (pair - image.rest)  # nothing is differentiated by the pixels


def select(params: Params, like: Params) -> Params:
    """Returns the part of `params` that has the structure of `like`."""
    return {
        name: select(params[name], value) if isinstance(value, dict) else params[name]
        for name, value in like.items()
    }


def pixels(image: jax.Array) -> jax.Array:
    """Returns uint8 images normalised on the device; others are taken as normalised already."""
    return normalize(image) if image.dtype == jnp.uint8 else image
