"""The page of examples: which predictions are shown, their images, and where the model looks."""

import contextlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from blip_jax.data.datasets import open_dataset, to_text
from blip_jax.data.dialog import DialogRound
from blip_jax.data.images import ImageError, decode, resize
from blip_jax.data.video import VideoError, frames
from blip_jax.models import Model
from blip_jax.models.gradcam import TILES, tiled
from blip_jax.models.results import GradCam
from blip_jax.runtime.errors import UserError
from blip_jax.tasks.base import Prediction
from blip_jax.tasks.details import AttentionQuery, Details

EXAMPLES = "examples.html"
SEED = 0  # of the random ones
MAP_SIDE = 128  # pixels, the longer side of pictures of attention
TILE_SIDE = 64  # pixels: the same of each of several pictures
FRAME_SIDE = 512  # pixels, the longer side of frames that are kept
LINE = 1  # pixels, half the width of the line between pictures


def choose(details: Sequence[Details | None], count: int) -> dict[str, dict[str, list[int]]]:
    """Returns the predictions that are shown, by group and then by "best", "worst" and "random".

    Groups have equal parts of `count`, and so have the three. Of equal metric those come first of
    which the model is surest, but where the worst are as good as the best the least sure. No
    prediction is shown twice; without a metric all are random.
    """
    groups: dict[str, list[int]] = {}
    for row, found in enumerate(details):
        if found is not None:
            groups.setdefault(found.group, []).append(row)
    chosen, rng = {}, np.random.default_rng(SEED)
    for group, rows in groups.items():
        share = count // len(groups)
        known = [row for row in rows if details[row].metric is not None]
        part = share // 3 if known else 0
        top = max((details[row].metric for row in known), default=0.0)
        best = sorted(known, key=lambda row: (-details[row].metric, -_score(details[row])))[:part]
        rest = [row for row in known if row not in best]
        worst = sorted(rest, key=lambda row: _badness(details[row], top))[:part]
        shown = {*best, *worst}
        rest = [row for row in rows if row not in shown]
        drawn = rng.permutation(len(rest))[: share - len(shown)]
        chosen[group] = {"best": best, "worst": worst, "random": [rest[i] for i in drawn]}
    return chosen


def _badness(details: Details, top: float) -> tuple[float, float]:
    """Returns what orders the worst predictions; `top` is the metric of the best."""
    score = _score(details)
    return details.metric, score if details.metric == top else -score


def _score(details: Details) -> float:
    return -np.inf if details.score is None else details.score


def example_page(
    predictions: Sequence[Prediction],
    details: Sequence[Details | None],
    place: tuple[str, str],
    count: int,
    model: Model | None = None,
    num_frames: int = 0,
) -> list[dict[str, Any]]:
    """Returns what `reports.examples.write_examples` lays out: sections of cards; [] for none.

    Args:
      details: of each prediction.
      place: dataset and split, for the images.
      count: the most cards.
      model: draws attention maps where it has them; None: there are none.
      num_frames: of a clip; 0: the task is not one of clips.
    """
    chosen = choose(details, count)
    rows = [row for parts in chosen.values() for part in parts.values() for row in part]
    shown = [details[row] for row in rows]
    keys = {key for found in shown for key, _ in found.images}
    keys |= {found.attention.image for found in shown if found.attention}
    upright = True if model is None else model.config.exif_orientation
    images = read_images(*place, keys, upright, num_frames)
    maps = attention_maps(model, {row: details[row].attention for row in rows}, images)
    return [
        {
            "title": f"{name} {group}".strip().capitalize(),
            "cards": [
                _card(predictions[row], details[row], images, maps.get(row, [])) for row in part
            ],
        }
        for group, parts in chosen.items()
        for name, part in parts.items()
        if part
    ]


def _card(
    prediction: Prediction, details: Details, images: Mapping[str, list], maps: list
) -> dict[str, Any]:
    return {
        "key": prediction["key"],
        "input": "" if details.input == details.images[0][0] else details.input,
        "history": details.history,
        "prediction": "" if isinstance(details.prediction, list) else f"{details.prediction}",
        "reference": _texts(details.reference) if details.group != "images of a text" else [],
        "score": details.score,
        "metric": details.metric,
        "metric_name": details.metric_name,
        "pictures": [
            {"key": key, "is_right": is_right, "pixels": pixels}
            for key, is_right in details.images
            for pixels in _shown(images.get(key, []))
        ],
        "options": details.options,
        "maps": maps,
    }


def _shown(pictures: list[np.ndarray]) -> list[np.ndarray | None]:
    """Returns what is shown of a record: its images, one picture of all frames, or None."""
    is_clip = len(pictures) > 2
    return [_parted(tiled(np.stack(pictures)), len(pictures))] if is_clip else pictures or [None]


def _parted(pixels: np.ndarray, count: int) -> np.ndarray:
    """Returns the pixels of `tiled` pictures with white lines between them."""
    columns = min(count, TILES)
    rows, width = -(-count // columns), LINE
    pixels = pixels.copy()
    height, length = (side // parts for side, parts in zip(pixels.shape, (rows, columns)))
    for number in range(1, rows):
        pixels[number * height - width : number * height + width] = 255
    for number in range(1, columns):
        pixels[:, number * length - width : number * length + width] = 255
    return pixels


def _small(pixels: np.ndarray, side: int) -> np.ndarray:
    """Returns pixels whose longer side is at most `side`."""
    image = Image.fromarray(pixels)
    image.thumbnail((side, side))
    return np.asarray(image)


def _texts(reference: Any) -> list[str]:
    """Returns the different texts of a reference, with how often each is given."""
    if reference is None:
        return []
    texts = [str(x) for x in (reference if isinstance(reference, list) else [reference])]
    counts = {text: texts.count(text) for text in texts}
    return [f"{text} ({count})" if count > 1 else text for text, count in counts.items()]


def read_images(
    dataset: str,
    split: str,
    keys: Iterable[str],
    exif_orientation: bool = True,
    num_frames: int = 0,
) -> dict[str, list[np.ndarray]]:
    """Returns the images, uint8 [H, W, 3], of records by their keys; of a pair both, of a clip
    its frames.

    A record whose pictures cannot be decoded, or which has none, has an empty list.
    """
    waiting, found = set(keys), {}
    for record in open_dataset(dataset, split):
        key = to_text(record["key"])
        if key in waiting:
            waiting.remove(key)
            found[key] = []
            for name in ("image", "second_image"):
                with contextlib.suppress(KeyError, ImageError):
                    found[key] += [decode(record[name], exif_orientation)]
            if num_frames:
                with contextlib.suppress(KeyError, VideoError):
                    found[key] = [
                        _small(x, FRAME_SIDE) for x in frames(record["video"], num_frames)
                    ]
        if not waiting:
            break
    return found


def attention_maps(
    model: Model | None,
    queries: Mapping[int, AttentionQuery | None],
    images: Mapping[str, list[np.ndarray]],
) -> dict[int, list[dict[str, Any]]]:
    """Returns [{"word", "pixels": uint8 [h, w, 3], "columns"}] of each query, a word each.

    Of two images or a clip the pixels are those of all pictures, `columns` in a row. What the model
    has no map for is left out, such as an empty text.
    """
    if model is None:
        return {}
    groups: dict[tuple[str, int], list[int]] = {}
    for row, query in queries.items():
        if query and model.can(query.of) and images.get(query.image) and _has_word(query.text):
            groups.setdefault((query.of, len(images[query.image])), []).append(row)
    maps = {}
    for (target, count), rows in sorted(groups.items()):
        part = [queries[row] for row in rows]
        pictures = [images[query.image] for query in part]
        try:
            found = _gradcam(model, target, part, pictures)
        except UserError:  # a page without maps is better than none after a long evaluation
            continue
        columns = min(count, TILES)
        for row, own, result in zip(rows, pictures, found, strict=True):
            side = MAP_SIDE if count == 1 else TILE_SIDE * columns
            small = _small(own[0] if count == 1 else result.image, side)
            drawn = (np.asarray(result.picture(n, small)) for n in range(len(result.words)))
            maps[row] = [
                {"word": word, "pixels": _parted(pixels, count), "columns": columns}
                for word, pixels in zip(result.words, drawn, strict=True)
            ]
    return maps


def _gradcam(
    model: Model,
    target: str,
    queries: Sequence[AttentionQuery],
    pictures: Sequence[list[np.ndarray]],
) -> list[GradCam]:
    """Returns the maps of queries of one target; all have as many pictures."""
    texts = [query.text for query in queries]
    answers = [query.answer for query in queries] if target == "answer" else None
    if len(pictures[0]) == 1 and target != "rank_dialog":
        return model.gradcam([own[0] for own in pictures], texts, of=target, answers=answers)
    read = np.stack([[resize(image, model.image_size) for image in own] for own in pictures])
    return model.gradcam_pictures(read, texts, target, answers or ())


def _has_word(text: str | DialogRound) -> bool:
    return isinstance(text, DialogRound) or re.search(r"\w", text) is not None
