"""Clips of the Shapes dataset: no frame shows both objects that a clip's texts are about."""

import io
import json
from collections import Counter
from unittest import mock

import numpy as np
import pytest
from synthetic_records import DEMO, LARGE, assert_even, records

from blip_jax.cli.main import main
from blip_jax.data.datasets import open_dataset
from blip_jax.data.synthetic import clips
from blip_jax.data.synthetic.config import ShapesConfig
from blip_jax.data.synthetic.oracle import check
from blip_jax.data.synthetic.question_oracle import is_right_answer
from blip_jax.data.synthetic.records import make_record
from blip_jax.data.synthetic.scenes import Scene, World, render
from blip_jax.runtime.errors import UserError


def drawn(**settings):
    """(record, scenes of its frames), without pictures and video files."""
    with (
        mock.patch("blip_jax.data.synthetic.clips.encode_video", return_value=b""),
        mock.patch("blip_jax.data.synthetic.records.render"),
    ):
        found = records("clips", **settings)
    frames = [json.loads(record.raw["truth"])["frames"] for record in found]
    return [(record, [Scene.from_dict(x) for x in f]) for record, f in zip(found, frames)]


@pytest.mark.parametrize("motion", clips.MOTIONS)
@pytest.mark.parametrize("world", [DEMO, LARGE], ids=["demo", "large"])
def test_each_object_is_there_for_half_of_the_frames(motion, world):
    places = []
    for record, frames in drawn(motion=motion, world=world, count=300, frames=9):
        assert len(frames) == 9 and len(record.scene.objects) == 2
        assert all(len(frame.objects) == 1 for frame in frames)
        assert {frame.background for frame in frames} == {record.scene.background}
        looks = [(x.shape, x.colour, x.size) for x in (frame.objects[0] for frame in frames)]
        assert len(set(looks[:4])) == len(set(looks[4:])) == 1
        assert sorted({(x.shape, x.colour, x.size) for x in record.scene.objects}) == sorted(
            {looks[0], looks[-1]}
        )
        places.append(len({(f.objects[0].row, f.objects[0].column) for f in frames[:4]}))
    assert (max(places) == 1) == (motion == "partial")


@pytest.mark.parametrize("motion", clips.MOTIONS)
def test_texts_and_answers_are_right(motion):
    counts = Counter()
    for record, _ in drawn(motion=motion):
        (caption,) = record.raw["texts"]
        found = check(caption, record.scene)
        assert found.true and found.complete == (motion == "partial"), caption
        (question,) = record.fields["questions"]
        counts[question["template"]] += 1
        for answer in set(question["answers"]):
            assert is_right_answer(question["question"], answer, record.scene)
    assert_even(counts, len(clips.TEMPLATES))


def test_video_files_decode_to_their_frames(tmp_path):
    av = pytest.importorskip("av")
    pictures = []
    for _, frames in drawn(count=1, frames=6):
        pictures = [render(x, World(noise=0), np.random.default_rng(0)) for x in frames]
    with av.open(io.BytesIO(clips.encode_video(pictures))) as file:
        decoded = [frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)]
    assert len(decoded) == 6
    assert np.abs(np.stack(decoded).astype(int) - pictures).mean() < 5
    arguments = ["--config.train=2", "--config.val=0", "--config.test=0", "--config.frames=4"]
    folder = str(tmp_path / "clips")
    assert main(["prepare", "--config", "shapes:clips", "--workdir", folder, *arguments]) == 0
    world = World(shapes=4, colours=5, jitter=0)
    config = ShapesConfig(kind="clips", frames=4, world=world)
    for index, record in enumerate(open_dataset(folder, "train")):
        assert set(record) == {"key", "video", "texts", "truth", "fields"}
        assert record["video"] == make_record(index, "train", config)["video"]


def test_without_pyav_the_extra_is_named():
    with (
        mock.patch.dict("sys.modules", av=None),
        pytest.raises(UserError, match=r'clips need PyAV: pip install "blip-jax\[video\]"'),
    ):
        make_record(0, "train", ShapesConfig(kind="clips"))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"motion": "slide"}, "motion is 'slide'; it must be partial or hop"),
        ({"frames": 1}, "frames is 1; it must be 2 or more"),
        ({"templates": ("count",)}, "clips has no template 'count'"),
        ({"world": World(max_objects=1)}, "clips needs two objects"),
        ({"world": World(image_size=33)}, "image_size is 33; a clip's must be even"),
    ],
)
def test_wrong_settings_are_named(wrong, message):
    with pytest.raises(UserError, match=message):
        ShapesConfig(kind="clips", **wrong)
