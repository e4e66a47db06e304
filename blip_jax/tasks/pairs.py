"""Tasks on image-text pairs: the fields of their losses, their data, and the state they keep."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import jax
import numpy as np

from blip_jax import losses, nn
from blip_jax.data.images import ImageError
from blip_jax.data.mixture import Component, RecordSource
from blip_jax.data.perturbed_texts import WordClasses
from blip_jax.data.pipeline import InvalidRecord, crc32_hash
from blip_jax.nn import flops
from blip_jax.runtime.arguments import NonNegative, Positive, Share
from blip_jax.runtime.errors import UserError
from blip_jax.runtime.progress import track
from blip_jax.tasks.base import Extra, Params
from blip_jax.tasks.pair_losses import PairLosses

IMAGES_OF_WORD_CLASSES = 20_000  # read of each dataset, about 2 GB of JPEGs


@dataclasses.dataclass(frozen=True)
class ItcConfig:
    """Image-text contrast with a momentum encoder and a queue (paper, sections 3.2 and 4.1)."""

    momentum: Share = 0.995  # share of the old weights that the momentum encoder keeps per step
    queue_size: NonNegative = 57_600  # number of pairs of past batches that are kept; 0: none
    queue_random_init: bool = False  # start with random unit vectors as negatives, as the original
    alpha: Share = 0.4  # weight of the soft targets
    alpha_warmup_steps: NonNegative = 9800  # alpha rises linearly from 0 over these steps
    # Which pairs are positives of each other in ITC, and not negatives in ITM: only the pair itself
    # (pair), pairs with the same image (image), or with the same caption (text).
    positives: Literal["pair", "image", "text"] = "pair"
    teacher_dropout: bool = True  # run the momentum encoder with dropout, as in the original


@dataclasses.dataclass(frozen=True)
class ItmConfig:
    """Image-text matching with hard negatives (paper, section 3.2)."""

    # Hard negatives are drawn among this many neighbouring pairs of the batch (the original: among
    # the pairs of one GPU); it divides the batch and every micro-batch.
    group_size: Positive = 90
    floor: float = 1e-4  # added to each weight; the retrieval recipe has 0
    # Share of the images whose negative text is their own with a word exchanged for another of its
    # class (data/perturbed_texts.py), and not that of another image. Not in the paper, which has 0.
    perturbed_share: Share = 0.0


@dataclasses.dataclass(frozen=True)
class LmConfig:
    """Language modelling of the image-grounded decoder (paper, section 3.2)."""

    label_smoothing: Share = 0.1  # share of the target that is spread over the vocabulary
    prompt: str = ""  # put before every text; its tokens do not count in the loss


class PairTask(PairLosses):
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
        self.perturbed_share = self.itm.perturbed_share if self.itm else 0.0
        self.word_classes = WordClasses({})
        prompt = self.lm.prompt if self.lm else ""
        self.prompt_length = len(tokenizer.prompt(prompt)) if prompt else 0
        least = max(self.prompt_length, 1) + 2  # a token of text, and [SEP]
        if self.lm and config.max_length < least:
            raise UserError(
                f"task.max_length is {config.max_length}; with task.lm.prompt {prompt!r} it must "
                f"be {least} or more"
            )

    @property
    def program_key(self) -> tuple:
        return *super().program_key, self.prompt_length

    # Data

    def read_training_data(self, components: Sequence[Component]) -> None:
        """Learns the word classes of the texts, if negative texts are to be made by them.

        Raises:
          UserError: no image has several texts, by which synonyms are told from other words.
        """
        if not self.perturbed_share:
            return
        found = [texts for texts in self._texts_by_image(components) if len(texts) > 1]
        if not found:
            raise UserError(
                "task.itm.perturbed_share needs images with several texts, to learn which words "
                "say the same; the mixture has none; set it to 0 or train on other data"
            )
        self.word_classes = WordClasses.learn(found)

    def _texts_by_image(self, components: Sequence[Component]) -> Iterator[list[str]]:
        """Yields the cleaned texts of about IMAGES_OF_WORD_CLASSES images of each component."""
        for component in components:
            if component.weight:
                source = RecordSource(component, self.record_fields)
                rows = range(0, len(source), max(1, len(source) // IMAGES_OF_WORD_CLASSES))
                title = f"word classes of {component.name}"
                for row in track(rows, title, len(rows), "image"):
                    texts = source[row].get("texts") or ()
                    yield [self.tokenizer.cleanup.caption(text) for text in texts]

    def example(self, record: Mapping[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        texts = record.get("texts")
        if texts is None:
            raise InvalidRecord("missing field")
        text = self.tokenizer.cleanup.caption(texts[int(rng.integers(len(texts)))]) if texts else ""
        try:
            image, text = self.transform.pair_of_bytes(
                record["image"], text, rng, self.model.exif_orientation
            )
        except ImageError as error:
            raise InvalidRecord("undecodable image") from error
        if not text:
            raise InvalidRecord("empty text")
        example = {"image": image, "text": text, "group": crc32_hash(record["key"])}
        if self.perturbed_share:
            chosen = rng.random() < self.perturbed_share
            example["perturbed"] = self.word_classes.perturb(text, rng) if chosen else ""
        return example

    def empty_example(self) -> dict[str, Any]:
        size = self.model.vit.image_size
        return {"image": np.zeros((size, size, 3), np.uint8), "text": "", "group": 0}

    def collate(self, examples: Sequence[dict[str, Any]]) -> dict[str, np.ndarray]:
        prompt = self.lm.prompt if self.lm else ""
        texts = [prompt + e["text"] if e["text"] else "" for e in examples]
        ids, mask = self.tokenizer.encode(texts, self.config.max_length)
        batch = {
            "image": np.stack([e["image"] for e in examples]),
            "ids": ids,
            "mask": mask,
            "group": np.array([e["group"] for e in examples], np.int32),
            "text_group": np.array([crc32_hash(e["text"]) for e in examples], np.int32),
        }
        if self.perturbed_share:
            perturbed = [e.get("perturbed", "") for e in examples]
            ids, mask = self.tokenizer.encode(
                [prompt + text if text else "" for text in perturbed], self.config.max_length
            )
            given = np.array([bool(text) for text in perturbed])
            batch |= {"perturbed_ids": ids, "perturbed_mask": mask & given[:, None]}
        return batch

    def batch_spec(self, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        size, length = self.model.vit.image_size, self.config.max_length
        ids = jax.ShapeDtypeStruct((batch_size, length), np.int32)
        mask = jax.ShapeDtypeStruct((batch_size, length), bool)
        perturbed = {"perturbed_ids": ids, "perturbed_mask": mask} if self.perturbed_share else {}
        return {
            "image": jax.ShapeDtypeStruct((batch_size, size, size, 3), np.uint8),
            "ids": ids,
            "mask": mask,
            **perturbed,
            "group": jax.ShapeDtypeStruct((batch_size,), np.int32),
            "text_group": jax.ShapeDtypeStruct((batch_size,), np.int32),
            "valid": jax.ShapeDtypeStruct((batch_size,), bool),
        }

    # State

    def init_extra(self, params: Params, key: jax.Array) -> Extra:
        """Returns {"momentum": slow copy of the encoders, "queue": losses.Queue}, where used."""
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

    def flops(self, batch_size: int) -> int:
        """Returns the FLOPs of one training step, all chips together."""
        config, length = self.model, self.config.max_length
        image, unimodal = flops.vit(config.vit), flops.text(config.med, length)
        image_grounded = flops.text(config.med, length, config.vit.tokens)
        parts, pair = [image], 0
        if self.itc:
            heads = flops.heads(config)
            parts += [unimodal, heads]
            pair += image.forward + unimodal.forward + heads.forward  # the momentum encoder
            # Each pair with all keys, in both directions: targets, logits, and the logits' backward
            # pass, which gives gradients to the features only.
            pair += 2 * 3 * 2 * config.embed_dim * (batch_size + self.itc.queue_size)
        if self.itm:
            parts += [
                image_grounded
            ] * 3  # the pair, its image with another text, its text with another image
        if self.lm:
            parts += [image_grounded, flops.lm_head(config.med, length)]
        pair += sum(part.trained(config.remat) for part in parts)
        pair += 3 * flops.image_context(config).forward * len(set(self.context_names.values()))
        return batch_size * (
            pair - image.outside_layers
        )  # there is no gradient with respect to pixels
