"""Imports of MSRVTT, MSRVTT-QA and MSVD-QA from miniature folders: the clips are kept as files."""

import json

import benchmark_folders as folders
import pytest
import video_files
from ingest_fixture import run
from test_benchmarks_refused import made, refusal

from blip_jax.data.datasets import open_dataset
from blip_jax.data.fields import questions_of
from blip_jax.data.pixels import RecordPixels


@pytest.fixture(scope="module", autouse=True)
def av():
    return pytest.importorskip("av")


def imported(tmp_path, benchmark, make, split, **fields):
    """(manifest, records) of the import of a miniature folder."""
    source = tmp_path / benchmark
    if not source.exists():
        make(source)
    name = f"out-{len(list(tmp_path.iterdir()))}"
    manifest, _, _ = run(tmp_path, source, name, benchmark=benchmark, split=split, **fields)
    return manifest, list(open_dataset(str(tmp_path / name), split))


def test_msrvtt(tmp_path, capsys):
    manifest, rows = imported(tmp_path, "msrvtt", folders.msrvtt, "train")
    assert [row["key"].decode() for row in rows] == [
        "msrvtt-train--video2960", "msrvtt-train--video0",
    ]  # fmt: skip
    place = tmp_path / "msrvtt" / "TrainValVideo"
    assert rows[0]["video"] == (place / "video2960.mp4").read_bytes() and "image" not in rows[0]
    assert (rows[0]["width"], rows[0]["height"]) == (video_files.WIDTH, video_files.HEIGHT)
    assert [text.decode() for text in rows[1]["texts"]] == [f"a car is shown 0 {n}" for n in (0, 1)]
    fields = json.loads(rows[0]["fields"])
    assert (fields["video_id"], fields["start time"]) == ("video2960", 137.72)
    line = "msrvtt train has 2 clips and 4 captions where 6,513 and 130,260 are published"
    assert [line in printed for printed in capsys.readouterr().err.splitlines()] == [True]
    assert manifest["duplicates"] == {"exact": 0, "near": 0}
    pixels = RecordPixels.of(rows[0], 16, num_frames=4).read(rows[0])
    assert pixels.shape == (4, 16, 16, 3)


@pytest.mark.parametrize("unlinked", ["msrvtt_test.jsonl", "annotation/MSRVTT_JSFUSION_test.csv"])
def test_the_thousand_clips_of_retrieval(tmp_path, unlinked):
    folders.msrvtt_1k_a(tmp_path / "msrvtt")
    (tmp_path / "msrvtt" / unlinked).unlink()
    _, rows = imported(tmp_path, "msrvtt", None, "test_1k_a")
    assert [json.loads(row["fields"])["video_id"] for row in rows] == ["video9770", "video7010"]
    assert [[t.decode() for t in row["texts"]] for row in rows] == [
        ["a person, connecting"], ["a dog"],
    ]  # fmt: skip


def test_msrvtt_qa_groups_the_questions_of_a_clip(tmp_path):
    manifest, rows = imported(tmp_path, "msrvtt_qa", folders.msrvtt_qa, "test")
    assert manifest["benchmark"]["read"] == {"clips": 2, "questions": 3}
    assert [len(questions_of(row)) for row in rows] == [2, 1]
    assert questions_of(rows[0])[1] == {
        "id": "170861", "question": "what is shown?", "answers": ["stage"], "type": "",
    }  # fmt: skip


def test_msvd_qa_finds_clips_by_their_numbers(tmp_path):
    _, rows = imported(tmp_path, "msvd_qa", folders.msvd_qa, "test")
    names = ["-4wsuPCjDBc_5_15", "-7KMZQEsJW4_205_208"]
    place = tmp_path / "msvd_qa" / "YouTubeClips"
    assert [row["video"] for row in rows] == [(place / f"{x}.avi").read_bytes() for x in names]
    assert [questions_of(row)[0]["id"] for row in rows] == ["37348", "37349"]


def test_clips_of_the_same_bytes_are_duplicates(tmp_path):
    folders.msrvtt_qa(tmp_path / "msrvtt_qa")
    place = tmp_path / "msrvtt_qa" / "TestVideo"
    (place / "video7012.mp4").write_bytes((place / "video7010.mp4").read_bytes())
    manifest, rows = imported(tmp_path, "msrvtt_qa", None, "test")
    assert manifest["duplicates"] == {"exact": 1, "near": 0} and len(rows) == 2


def test_wrong_lists_are_named(tmp_path):
    source, _, file = made(tmp_path, "msvd_qa")
    (source / "youtube_mapping.txt").write_text("-4wsuPCjDBc_5_15 vid1451\n")
    line = refusal(tmp_path, "msvd_qa", "test")
    assert f"youtube_mapping.txt has no clip vid1452, about which {file} asks" in line
    (source / "youtube_mapping.txt").write_text("-4wsuPCjDBc_5_15 vid1451\nno number\n")
    assert "has a line 2 that is not NAME vidNUMBER" in refusal(tmp_path, "msvd_qa", "test")
    source, _, file = made(tmp_path, "msrvtt")
    text = file.read_text()
    file.write_text(text.replace("video2960", "clip9"))
    line = refusal(tmp_path, "msrvtt", "train")
    assert "names the clip 'clip9', which should be video0" in line
    file.write_text(text.replace('"video_id": "video2960", "start', '"video_id": "video1", "start'))
    line = refusal(tmp_path, "msrvtt", "train")
    assert "has a sentence of video2960, which is not in its list 'videos'" in line
    (source / "test_videodatainfo.json").write_text(text)
    assert "has no clip of msrvtt test" in refusal(tmp_path, "msrvtt", "test")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is cut off; download it again"),
        ("key,vid_key,video_id\n", "has no column 'sentence'"),
        ("key,vid_key,video_id,sentence\n", "has no line below its header"),
        ("key,vid_key,video_id,sentence\nret0,msr1,video7010\n", "has a line 2 that is cut off"),
    ],
)
def test_a_wrong_list_of_the_thousand_clips_is_named(tmp_path, text, message):
    folders.msrvtt_1k_a(tmp_path / "msrvtt")
    (tmp_path / "msrvtt" / "annotation" / "MSRVTT_JSFUSION_test.csv").write_text(text)
    assert message in refusal(tmp_path, "msrvtt", "test_1k_a")
