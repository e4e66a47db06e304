"""No record ends an import: what cannot be read is one counted record, and the others are rows."""

import datetime
import decimal
import gzip
import io
import json
import lzma
import os
import socket
import tarfile

import malformed_files as found
import pyarrow
import pyarrow.parquet
import pytest
from ingest_fixture import TEXTS, check_rows, pictures, run

from blip_jax.data.ingest.text import decode_text, parse_json
from blip_jax.runtime.errors import UserError

DEEP = "[" * 50_000 + "]" * 50_000
NESTED = "[" * 101 + "]" * 101  # which Python reads
LONG = "9" * 5000


def records(**fields):
    return [{"image": f"{n}.jpg", "caption": TEXTS[n], **fields} for n in range(3)]


def test_parquet_with_times_and_decimals(tmp_path):
    folder = pictures(tmp_path)
    nanoseconds = 1_600_000_000_000_000_001
    columns = {
        "image": [f"{n}.jpg" for n in range(3)],
        "caption": TEXTS,
        "truth": [datetime.date(2020, 1, 2)] * 3,
        "stamp": pyarrow.array([nanoseconds, None, 0], pyarrow.timestamp("ns")),
        "zone": pyarrow.array([nanoseconds, None, 0], pyarrow.timestamp("ns", "UTC")),
        "took": pyarrow.array([1, None, 3], pyarrow.duration("ns")),
        "clock": pyarrow.array([1, None, 3], pyarrow.time64("ns")),
        "price": [decimal.Decimal("1.50")] * 3,
        "far": pyarrow.array([2**60, None, 0], pyarrow.timestamp("us")),  # after the year 9999
        "inner": pyarrow.array([[1], None, []], pyarrow.list_(pyarrow.timestamp("ns"))),
    }
    pyarrow.parquet.write_table(pyarrow.table(columns), folder / "x.parquet")
    _, rows, _ = run(tmp_path, folder / "x.parquet", records_per_unit=2)
    check_rows(rows)
    fields = json.loads(rows[0]["fields"])
    assert rows[0]["truth"] == '"2020-01-02"' and fields["price"] == "1.50"
    assert fields["stamp"].startswith("2020-09-13 12:26:40.000000001")
    assert json.loads(rows[1]["fields"])["took"] is None


@pytest.mark.parametrize("shape", ["list", "lines", "object"])
def test_json_that_is_nested_or_long_without_end(tmp_path, shape):
    folder = pictures(tmp_path)
    good = [json.dumps(record) for record in records()]
    deep = [f'{{"image": "0.jpg", "caption": "a", "x": {value}}}' for value in (DEEP, NESTED)]
    number = f'{{"image": "1.jpg", "caption": "long", "x": {LONG}}}'
    lines = [good[0], *deep, number, *good[1:]]
    content = {
        "list": "[" + ",\n".join(lines) + "]",
        "lines": "\n".join(lines),
        "object": '{"data": [' + ",\n".join([good[0], number, *good[1:]]) + "]}",
    }
    (folder / "x.json").write_text(content[shape])
    manifest, rows, _ = run(tmp_path, folder / "x.json", records_per_unit=2)
    assert [row["texts"] for row in rows] == [TEXTS[0], ["long", *TEXTS[1]], TEXTS[2]]
    skipped = {"broken JSON": 1, "unreadable record": 1} if shape != "object" else {}
    assert manifest["skipped"] == skipped | {"merged with the record before": 1}


def test_json_beside_images_and_in_tars(tmp_path):
    folder = pictures(tmp_path)
    contents = ['{"caption": ["a red ball"]}', f'{{"caption": "a", "x": {NESTED}}}', DEEP]
    samples = []
    for number, content in enumerate(contents):
        (folder / f"{number}.json").write_text(content)
        samples.append((str(number), {"jpg": found.jpeg(number), "json": content.encode()}))
    found.write_tar(tmp_path / "x.tar", samples)
    for name, source in (("folder", folder), ("tar", tmp_path / "x.tar")):
        manifest, rows, _ = run(tmp_path, source, name)
        check_rows(rows, TEXTS[:1])
        assert manifest["skipped"] == {"broken JSON": 1, "unreadable record": 1}


@pytest.mark.parametrize(
    "name",
    ["a" * 300 + ".jpg", "é" * 200 + ".jpg", "a/" * 3000 + "b.jpg", "a\0.jpg", "loop.jpg",
     "https://[a/b.jpg", "\ud83d.jpg", "pipe.jpg", "socket.jpg", "/dev/zero", "sub"],
)  # fmt: skip
def test_names_that_are_no_image_file(tmp_path, name):
    """Too long for a file system, or of a pipe, socket or device, which would be waited for."""
    folder = pictures(tmp_path)
    os.mkfifo(folder / "pipe.jpg")
    (folder / "sub").mkdir()
    (folder / "loop.jpg").symlink_to("loop.jpg")
    with socket.socket(socket.AF_UNIX) as server:
        here = os.getcwd()
        os.chdir(folder)  # a socket's path is short
        server.bind("socket.jpg")
        os.chdir(here)
        lines = [*records(), {"image": name, "caption": "a"}]
        (folder / "x.jsonl").write_text("\n".join(map(json.dumps, lines)))
        manifest, rows, _ = run(tmp_path, folder / "x.jsonl")
    check_rows(rows)
    assert sum(manifest["skipped"].values()) == 1


def test_pipes_among_images_and_as_source(tmp_path):
    folder = pictures(tmp_path, 1)
    (folder / "0.txt").write_text("a red ball")
    os.mkfifo(folder / "1.jpg")
    os.mkfifo(folder / "0.json")
    manifest, rows, _ = run(tmp_path, folder, allow_no_text=True)
    check_rows(rows, TEXTS[:1])
    assert manifest["skipped"] == {"missing image": 1}
    os.mkfifo(tmp_path / "x.jsonl")
    with pytest.raises(UserError, match="x.jsonl is not a regular file"):
        run(tmp_path, tmp_path / "x.jsonl", "pipe")


def test_links_out_of_the_folder_of_images(tmp_path):
    """Counted, be it the file or a folder; links within it, or to it, are followed."""
    folder = pictures(tmp_path)
    other = tmp_path / "secret"
    other.mkdir()
    (other / "3.jpg").write_bytes(found.jpeg(3))
    (folder / "out.jpg").symlink_to(other / "3.jpg")
    (folder / "sub").symlink_to(other)
    (folder / "in.jpg").symlink_to("0.jpg")
    (tmp_path / "same").symlink_to(folder)
    names = ["out.jpg", "sub/3.jpg", "in.jpg"]
    lines = [*records(), *({"image": name, "caption": "a red ball"} for name in names)]
    (tmp_path / "x.jsonl").write_text("\n".join(map(json.dumps, lines)))
    for images in (folder, tmp_path / "same"):
        manifest, rows, _ = run(
            tmp_path, tmp_path / "x.jsonl", images.name + "2", images=str(images)
        )
        assert [row["texts"] for row in rows] == [*TEXTS, TEXTS[0]]
        assert manifest["skipped"] == {"unsafe name": 2}


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz"])
@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE])
def test_tars_that_claim_more_than_they_hold(tmp_path, mode, kind):
    samples = [(f"{n}", {"jpg": found.jpeg(n), "txt": TEXTS[n][0].encode()}) for n in range(2)]
    content = found.write_tar(tmp_path / "x.tar", samples).read_bytes().rstrip(b"\0")
    content += b"\0" * (-len(content) % 512)
    member = tarfile.TarInfo("2.jpg")
    member.size, member.type = 1 << 40, kind
    content += member.tobuf(tarfile.GNU_FORMAT) + b"a" * 700
    opener = {"w": open, "w:gz": gzip.open, "w:xz": lzma.open}[mode]
    with opener(tmp_path / "x.tar", "wb") as file:
        file.write(content)
    manifest, rows, _ = run(tmp_path, tmp_path / "x.tar")
    whole = 2 if kind == tarfile.REGTYPE else 1  # the record before a broken header may go on
    check_rows(rows, [texts[:1] for texts in TEXTS[:whole]])
    assert manifest["skipped"] == {"broken archive": 2}


def test_a_member_that_is_too_large_leaves_the_others(tmp_path, monkeypatch):
    monkeypatch.setattr("blip_jax.data.ingest.readers.webdataset.MAX_BYTES", 10_000)
    samples = [(f"{n}", {"jpg": found.jpeg(n), "txt": TEXTS[n][0].encode()}) for n in range(3)]
    samples.insert(1, ("big", {"jpg": bytes(3_000_000), "txt": b"a"}))
    found.write_tar(tmp_path / "x.tar", samples)
    manifest, rows, _ = run(tmp_path, tmp_path / "x.tar")
    check_rows(rows, [texts[:1] for texts in TEXTS])
    assert manifest["skipped"] == {"too many bytes": 1}


def test_an_image_that_cannot_be_scaled(tmp_path):
    """Its longer side would be more than a JPEG can have."""
    wide = io.BytesIO()
    found.picture(0, 140_000, 80).save(wide, "BMP")
    found.write_tar(
        tmp_path / "x.tar",
        [("0", {"bmp": wide.getvalue(), "txt": b"a"}), ("1", {"jpg": found.jpeg(0), "txt": b"b"})],
    )
    manifest, rows, _ = run(tmp_path, tmp_path / "x.tar", resize=40)
    assert len(rows) == 1 and manifest["skipped"] == {"undecodable image": 1}


def test_texts_by_their_byte_order_mark():
    for encoding in ("utf-8-sig", "utf-16", "utf-32", "utf-8"):
        assert decode_text("a café".encode(encoding)) == "a café"
    assert decode_text(b"caf\xe9") == "caf\udce9" and decode_text(b"\xff\xfea") == "\udcff\udcfea"
    assert parse_json(b'\xef\xbb\xbf{"a": "b\tc", "n": 12}') == {"a": "b\tc", "n": 12}
    assert parse_json(f'{{"n": {LONG}, "m": 3}}'.encode()) == {"n": LONG, "m": 3}
