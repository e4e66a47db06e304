"""Records of the Shapes dataset, each a function of the settings, the split and its number."""

from __future__ import annotations

import io
import json
from collections.abc import Callable

import numpy as np
from PIL import Image

from blip_jax.data.synthetic import clips
from blip_jax.data.synthetic.config import KINDS, SPLITS, ShapesConfig
from blip_jax.data.synthetic.dialogs import sample_dialog
from blip_jax.data.synthetic.languages import ENGLISH, LANGUAGES
from blip_jax.data.synthetic.noise import make_noise
from blip_jax.data.synthetic.questions import sample_questions
from blip_jax.data.synthetic.scenes import Scene, describe, render, sample_scene
from blip_jax.data.synthetic.statements import sample_statement_about_pair

NOISE_MIX = {"mismatch": 0.5, "boilerplate": 0.15, "filename": 0.05, "one_attribute_wrong": 0.3}
BLANK = 128  # value of all pixels of a blank image


def make_record(index: int, split: str, config: ShapesConfig) -> dict:
    """Returns record `index` of a split: 'key', 'image' PNG bytes, 'texts', 'truth' JSON.

    The other kinds than `human` and `web` also have 'fields', a JSON object that holds `questions`,
    `statements`, or `caption` and `rounds`. `pairs` have 'second_image', the right one. `clips`
    have 'video', the bytes of a file, in place of 'image', and `questions`.

    The generator is seeded by (seed, kind, split, index): no two datasets or splits share a scene.
    What twins share is seeded by index // 2 in place of index.
    """
    seeds = [config.seed, KINDS.index(config.kind), SPLITS.index(split)]
    rng = np.random.default_rng([*seeds, index])
    key = f"{config.kind}-{split}-{index:07d}"
    if config.kind in ("human", "web"):
        return {"key": key, **_caption_record(config, rng)}
    pair_rng = np.random.default_rng([*seeds, index // 2, 1])
    make: Callable[..., dict] = {"vqa": _vqa, "pairs": _pairs, "dialog": _dialog, "clips": _clips}[
        config.kind
    ]
    return {"key": key, "texts": [], **make(key, index, config, pair_rng, rng)}


def _caption_record(config: ShapesConfig, rng: np.random.Generator) -> dict:
    scene = sample_scene(rng, config.world)
    language = LANGUAGES[config.language]
    image = _png(scene, config, rng)
    noise, short = "", False
    if config.kind == "human":
        texts = [describe(scene, rng, language=language) for _ in range(config.captions_per_image)]
    else:
        short = bool(rng.random() < config.short_share)
        if rng.random() < config.noise_share:
            noise = str(rng.choice(list(NOISE_MIX), p=list(NOISE_MIX.values())))
            texts = [make_noise(noise, scene, config.world, rng, short, language)]
            short = short and noise in ("mismatch", "one_attribute_wrong")
        else:
            texts = [describe(scene, rng, short, language)]
    truth = {"scene": scene.to_dict(), "noise": noise, "short": short}
    if language is not ENGLISH:
        truth["language"] = language.name
    return {"image": image, "texts": texts, "truth": json.dumps(truth)}


def _vqa(key: str, index: int, config: ShapesConfig, pair_rng, rng) -> dict:
    scene, found = sample_questions(
        config.templates, config.questions_per_image, index % 2, config.world, pair_rng, rng
    )
    return {
        "image": _png(scene, config, rng),
        "truth": json.dumps({"scene": scene.to_dict()}),
        "fields": json.dumps({"questions": _with_ids(key, found)}),
    }


def _pairs(key: str, index: int, config: ShapesConfig, pair_rng, rng) -> dict:
    (left, right), statement = sample_statement_about_pair(
        config.templates, index % 2, config.world, pair_rng, rng
    )
    group = f"{key.rpartition('-')[0]}-{index // 2:07d}"
    statement = {"id": f"{group}-{index % 2}", **statement, "group": group}
    return {
        "image": _png(left, config, rng),
        "second_image": _png(right, config, rng),
        "truth": json.dumps({"scene": left.to_dict(), "second_scene": right.to_dict()}),
        "fields": json.dumps({"statements": [statement]}),
    }


def _dialog(key: str, index: int, config: ShapesConfig, pair_rng, rng) -> dict:
    scene, dialog = sample_dialog(
        config.templates, config.rounds, config.options, config.option_synonyms, config.world, rng
    )
    return {
        "image": _png(scene, config, rng),
        "texts": [dialog["caption"]],
        "truth": json.dumps({"scene": scene.to_dict()}),
        "fields": json.dumps(dialog),
    }


def _clips(key: str, index: int, config: ShapesConfig, pair_rng, rng) -> dict:
    world = clips.clip_world(config.world)
    scene, found = sample_questions(
        config.templates, config.questions_per_image, index % 2, world, pair_rng, rng
    )
    frames = clips.sample_frames(scene, config.motion, config.frames, world, rng)
    truth = {"scene": scene.to_dict(), "frames": [frame.to_dict() for frame in frames]}
    return {
        "video": clips.encode_video([_pixels(frame, config, rng) for frame in frames]),
        "texts": [clips.clip_caption(scene, config.motion, rng)],
        "truth": json.dumps(truth),
        "fields": json.dumps({"questions": _with_ids(key, found)}),
    }


def _with_ids(key: str, questions: list[dict]) -> list[dict]:
    return [{"id": f"{key}-{number}", **question} for number, question in enumerate(questions)]


def _pixels(scene: Scene, config: ShapesConfig, rng: np.random.Generator) -> np.ndarray:
    """Returns the picture of a scene, or a blank one that takes the same random numbers."""
    pixels = render(scene, config.world, rng)
    return np.full_like(pixels, BLANK) if config.blank_images else pixels


def _png(scene: Scene, config: ShapesConfig, rng: np.random.Generator) -> bytes:
    file = io.BytesIO()
    Image.fromarray(_pixels(scene, config, rng)).save(file, "PNG", compress_level=1)
    return file.getvalue()
