"""Frames of video files: evenly spaced in time, upright, and errors of files that are none."""

import dataclasses
import io
from unittest import mock

import numpy as np
import pytest
import video_files

from blip_jax.data import video_file
from blip_jax.data.video import VideoError, frames
from blip_jax.runtime.errors import UserError


@pytest.fixture(scope="module", autouse=True)
def av():
    return pytest.importorskip("av")


CONTAINERS = [
    {"format": "mp4"},
    {"format": "matroska"},
    {"format": "mpegts"},
    {"format": "avi", "codec": "mpeg4"},
    {"format": "avi", "codec": "libx264"},  # with timestamps that are wrong
    {"format": "webm", "codec": "libvpx-vp9"},
]


@pytest.mark.parametrize("given", CONTAINERS, ids=lambda x: f"{x['format']}-{x.get('codec', '')}")
@pytest.mark.parametrize("group", [250, 5])
def test_frames_are_from_the_middles_of_equal_parts(given, group):
    clip = video_files.make(24, group=group, **given)
    assert video_files.numbers(frames(clip, 4)) == [3, 9, 15, 21]
    assert video_files.numbers(frames(clip, 1)) == [12]
    assert video_files.numbers(frames(clip, 24)) == list(range(24))
    shape = (4, video_files.HEIGHT, video_files.WIDTH, 3)
    assert frames(clip, 4).shape == shape and frames(clip, 4).dtype == np.uint8


def test_a_short_clip_repeats_its_frames():
    assert video_files.numbers(frames(video_files.make(3), 8)) == [0, 0, 0, 1, 1, 2, 2, 2]
    assert video_files.numbers(frames(video_files.make(1), 3)) == [0, 0, 0]


def test_frames_of_a_variable_rate_are_chosen_by_time():
    # Six frames in the first second, then one that is shown for two seconds, then one for one.
    clip = video_files.make(8, times=[0, 1, 2, 3, 4, 5, 8, 24], format="matroska")
    assert video_files.numbers(frames(clip, 4)) == [3, 6, 6, 6]


def test_a_clip_that_starts_late_has_no_frames_before():
    clip = video_files.make(8, times=list(range(80, 88)), format="matroska")
    assert video_files.numbers(frames(clip, 4)) == [1, 3, 5, 7]


@pytest.mark.parametrize("rotation", [90, 180, -90])
def test_rotated_clips_are_turned_upright(rotation):
    clip = video_files.make(4, rotation=rotation)
    upright = frames(clip, 2)
    want = np.rot90(frames(video_files.make(4), 2), rotation // 90, axes=(1, 2))
    assert upright.shape == want.shape
    assert np.abs(upright.astype(int) - want).max() < 8


def test_a_mirrored_clip_is_mirrored_back():
    clip = video_files.make(4)
    turn = np.array([-65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30], ">i4").tobytes()
    plain = np.array([65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30], ">i4").tobytes()
    assert clip.count(plain) == 2  # of the film and of its track
    place = clip.rindex(plain)
    mirrored = frames(clip[:place] + turn + clip[place + len(plain) :], 2)
    np.testing.assert_array_equal(mirrored, frames(clip, 2)[:, :, ::-1])


def test_frames_are_stretched_to_squares():
    clip = video_files.make(4)
    assert frames(clip, 2, 16).shape == (2, 16, 16, 3)
    assert frames(clip, 2, 16)[:, 0, 0].min() > 200  # the white corner


def test_sound_does_not_count():
    assert video_files.numbers(frames(video_files.make(16, audio=True), 4)) == [2, 6, 10, 14]


def test_only_needed_groups_are_decoded():
    clip, given = video_files.make(40, group=4), []
    with mock.patch("blip_jax.data.video._Decoder._decode", autospec=True) as decode:
        decode.side_effect = lambda self, packet, numbers: given.append(packet) or ()
        with pytest.raises(VideoError):
            frames(clip, 2)
    assert sum(packet is not None for packet in given) <= 16  # of 40


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "no bytes"),
        (b"no video" * 100, "not a video, or cut off"),
        (b"#EXTM3U\n#EXTINF:3,\nfile:///etc/hostname\n#EXT-X-ENDLIST\n", "not a video"),
    ],
)
def test_what_is_no_video_is_refused(data, reason):
    with pytest.raises(VideoError, match=f"^{reason}"):
        frames(data, 4)


def test_audio_alone_is_refused():
    with pytest.raises(VideoError, match="^audio alone$"):
        frames(video_files.audio_alone(), 4)


@pytest.mark.parametrize("given", CONTAINERS[:2] + CONTAINERS[3:], ids=lambda x: x["format"])
@pytest.mark.parametrize("share", [0.3, 0.5, 0.8])
def test_a_file_that_was_cut_off_is_refused(given, share):
    clip = video_files.make(24, **given)
    with pytest.raises(VideoError, match="cut off"):
        frames(clip[: int(share * len(clip))], 4)


def damaged(clip: bytes, av, first: int) -> bytes:
    """The clip with zeros in place of the packets from number `first` on."""
    content = bytearray(clip)
    with av.open(io.BytesIO(clip)) as container:
        packets = [packet for packet in container.demux() if packet.size]
        for packet in packets[first:]:
            content[packet.pos : packet.pos + packet.size] = bytes(packet.size)
    return bytes(content)


def test_frames_before_damage_stand_in_unless_most_are_damaged(av):
    clip = video_files.make(24, group=4)
    found = video_files.numbers(frames(damaged(clip, av, 16), 12))
    assert found == [1, 3, 5, 7, 9, 11, 13, 15, 15, 15, 15, 15]
    with pytest.raises(VideoError, match="^damaged: 20 of 24 frames do not decode$"):
        frames(damaged(clip, av, 4), 12)
    with pytest.raises(VideoError, match="^damaged: 24 of 24 frames do not decode$"):
        frames(damaged(clip, av, 0), 12)


def test_huge_frames_are_refused():
    with (
        mock.patch.object(video_file, "MAX_PIXELS", 100),
        pytest.raises(VideoError, match="^64x48 pixels are more than 100$"),
    ):
        frames(video_files.make(2), 1)


def test_random_damage_is_a_video_error_or_frames():
    rng = np.random.default_rng(0)
    clip = video_files.make(12, group=4)
    for _ in range(60):
        damaged = bytearray(clip)
        for place in rng.integers(0, len(clip), rng.integers(1, 40)):
            damaged[place] = rng.integers(256)
        try:
            assert frames(bytes(damaged), 3, 16).shape == (3, 16, 16, 3)
        except VideoError as error:
            assert len(str(error)) < 100


def test_frames_that_come_after_a_keyframe_but_are_shown_before_it_need_the_group_before():
    index = video_file.FrameIndex(
        shown=np.arange(6), end=6.0, groups=np.array([0, 0, 0, 1, 1, 1]),
        times=np.array([0, 1, 2, 4, 3, 5]), starts=np.array([0, 4]), has_times=True,
    )  # fmt: skip
    assert index.needed_groups(np.array([3])) == {0, 1}
    assert index.needed_groups(np.array([4, 5])) == {1}
    assert index.frames_at(np.array([0, 0.5, 0.99])).tolist() == [0, 3, 5]
    assert dataclasses.replace(index, end=12.0).frames_at(np.array([0.6])).tolist() == [5]


def test_without_pyav_the_extra_is_named():
    with (
        mock.patch.dict("sys.modules", av=None),
        pytest.raises(UserError, match=r'^clips need PyAV: pip install "blip-jax\[video\]"$'),
    ):
        frames(b"any", 4)
