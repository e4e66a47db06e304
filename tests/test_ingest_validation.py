"""What an import sets aside, under which reason, and what it refuses in one line."""

import json
import tarfile

import malformed_files as found
import numpy as np
import pytest
from ingest_fixture import TEXTS, check_rows, pictures, run
from PIL import Image

from blip_jax.data import ingest
from blip_jax.data.images import decode
from blip_jax.data.ingest.records import RawRecord, RejectedRecord
from blip_jax.data.ingest.validation import row as check
from blip_jax.runtime.errors import UserError


def reason(raw=None, **fields):
    """Why a record is skipped; "" if it is not."""
    try:
        check(raw, [""], ingest.IngestConfig(source="x", **fields))
    except RejectedRecord as rejection:
        return rejection.reason
    return ""


def test_ten_ways_of_being_broken(tmp_path):
    """Each is a row or counted; what decodes decodes to what it shows."""
    ways = found.ways(3)
    for number, (image, text, name) in enumerate(ways.values()):
        sample = (name, {"jpg": image, "txt": text})
        found.write_tar(tmp_path / "in" / f"{number}.tar", [sample])
    before = sorted(tmp_path.rglob("*"))
    manifest, rows, _ = run(tmp_path, tmp_path / "in")
    counted = {way: next(iter(unit["skipped"]), "") for way, unit in zip(ways, manifest["units"])}
    assert counted == {way: found.SKIP_REASONS.get(way, "") for way in ways}
    new = [path for path in tmp_path.rglob("*") if path not in before]
    assert all("out" in path.parts for path in new) and not list(tmp_path.parent.glob("0*"))
    picture = np.asarray(found.picture(3)).astype(float)
    grey = np.asarray(found.picture(3).convert("L")).astype(float)
    wanted = [("animated GIF", picture, 20), ("CMYK", picture, 4), ("16-bit PNG", grey, 0.5)]
    kept = [way for way in ways if way not in found.SKIP_REASONS]
    for way, image, tolerance in wanted:
        seen = decode(rows[kept.index(way)]["image"]).astype(float)
        seen = seen if image.ndim == 3 else seen.mean(-1)
        assert np.abs(seen - image).mean() < tolerance, way
    assert len(rows[kept.index("10,000 words")]["texts"][0].split()) == 10_000
    assert manifest["warnings"] == {"texts with more than 1000 words": 1}


@pytest.mark.parametrize(
    ("fields", "settings", "wanted"),
    [
        ({}, {}, ""),
        ({"noai": False, "optout": "0", "noindex": None, "opt_out": float("nan")}, {}, ""),
        ({"NoAI": True}, {}, "opted out"),
        ({"opt-out": "yes"}, {}, "opted out"),
        ({"X-Robots-Tag": "img2dataset: noai, nofollow"}, {}, "opted out"),
        ({"x_robots_tag": "nofollow"}, {}, ""),
        ({"noai": 1}, {"opt_out_fields": ()}, ""),
        ({"forbidden": 1}, {"opt_out_fields": ("forbidden",)}, "opted out"),
        ({}, {"min_side": 40}, ""),
        ({}, {"min_side": 41}, "too small"),
    ],
)
def test_opting_out_and_size(fields, settings, wanted):
    raw = RawRecord("x", found.jpeg(0), texts=["a"], fields=fields)  # 48 x 40
    assert reason(raw, **settings) == wanted


def test_texts_that_are_not_utf8_or_empty():
    image, broken = found.jpeg(0), b"caf\xe9".decode("utf-8", "surrogateescape")
    assert reason(RawRecord("x", image)) == "empty text"
    assert reason(RawRecord("x", image), allow_no_text=True) == ""
    assert reason(RawRecord("x", image, texts=[broken])) == "text not UTF-8"
    assert reason(RawRecord("x", image, texts=["\ud83d"])) == "text not UTF-8"
    assert reason(RawRecord("x", image, texts=[broken, "a dog"])) == ""


@pytest.mark.parametrize(
    ("place", "images", "wanted"),
    [
        ("0.jpg", "", ""),
        ("FOLDER/0.jpg", "", ""),
        ("FOLDER/0.jpg", "FOLDER", "unsafe name"),
        ("../in/0.jpg", "", "unsafe name"),
        ("a/../0.jpg", "", "unsafe name"),
        ("https://a.b/%2e%2e%2f0.jpg", "", ""),
        ("https://a.b/..", "", "unsafe name"),
        ("a.jpg", "", "missing image"),
        ("0.jpg/a", "", "missing image"),
        ("a" * 300 + ".jpg", "", "missing image"),
        ("", "", "missing image"),
        (".", "", "missing image"),
    ],
)
def test_names_that_lead_elsewhere(tmp_path, place, images, wanted):
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "0.jpg").write_bytes(found.jpeg(0))
    raw = RawRecord("x", image_path=place.replace("FOLDER", str(folder)), texts=["a"])
    config = ingest.IngestConfig(source="x", images=images.replace("FOLDER", str(folder)))
    try:
        check(raw, [str(folder)], config)
        got = ""
    except RejectedRecord as rejection:
        got = rejection.reason
    assert got == wanted


def details(folder) -> list[str]:
    """What is said of each record that was left out."""
    return [json.loads(line)["detail"] for line in (folder / "skipped.jsonl").open()]


def test_damaged_lines_rows_and_archives_are_counted(tmp_path):
    folder = pictures(tmp_path)
    good = [json.dumps({"image": f"{n}.jpg", "caption": TEXTS[n]}).encode() for n in range(3)]
    broken = b'{"image": "0.jpg", "caption": "caf\xe9"}'
    lines = [good[0], b"{", good[1], b"", b"[1]", broken, good[2]]
    (folder / "x.jsonl").write_bytes(b"\n".join(lines))
    manifest, rows, _ = run(tmp_path, folder / "x.jsonl", "lines", records_per_unit=2)
    check_rows(rows)
    assert manifest["skipped"] == {"broken JSON": 2, "text not UTF-8": 1}
    wanted = [
        "line 2: Expecting property name enclosed in double quotes, column 2",
        "line 5: not an object",
    ]
    assert details(tmp_path / "lines")[:2] == wanted
    table = b'image,caption\r\n0.jpg,"a red\r\nball"\r\n1.jpg\r\n\r\n2.jpg,"a dog'
    (folder / "x.csv").write_bytes(b"\xef\xbb\xbf" + table)
    manifest, rows, _ = run(tmp_path, folder / "x.csv", "rows", records_per_unit=1)
    assert [row["texts"] for row in rows] == [["a red\r\nball"]]
    assert manifest["skipped"] == {"broken row": 2}
    first, second = details(tmp_path / "rows")
    assert first == "line 4: 1 fields, expected 2"
    assert second == 'line 6 (byte 48): a quote is not closed, or not doubled: 2.jpg,"a dog'
    values = b'[{"image": "0.jpg",\n"caption": "a dog"},\n\n 7,\n' + good[1] + b"]"
    (folder / "x.json").write_bytes(values)
    manifest, rows, _ = run(tmp_path, folder / "x.json", "list", records_per_unit=1)
    assert manifest["skipped"] == {"broken JSON": 1} and len(rows) == 2
    assert details(tmp_path / "list") == ["line 4: not an object"]
    samples = [(f"{n}", {"txt": b"a", "jpg": found.jpeg(n)}) for n in range(3)]
    whole = found.write_tar(folder / "0.tar", samples).read_bytes()
    with tarfile.open(folder / "0.tar") as tar:
        image = tar.getmembers()[3]  # of the second record
    (folder / "1.tar").write_bytes(whole[: image.offset_data + 700])
    damaged = whole[: image.offset] + b"x" * 512 + whole[image.offset_data :]
    (folder / "2.tar").write_bytes(damaged)
    (folder / "3.tar").write_bytes(b"")
    manifest, rows, _ = run(tmp_path, folder / "*.tar", "tars")
    assert [unit["rows"] for unit in manifest["units"]] == [3, 1, 1, 0]
    assert [unit["skipped"] for unit in manifest["units"]] == [
        {}, {"broken archive": 2}, {"broken archive": 2}, {"broken archive": 1}]  # fmt: skip


def test_images_are_made_smaller_only_where_asked(tmp_path):
    samples = [
        ("0", {"jpg": found.jpeg(0, width=96, height=80), "txt": b"a"}),
        ("1", {"png": found.encoded(found.picture(1, 70, 100), "PNG"), "txt": b"b"}),
        ("2", {"jpg": found.jpeg(2), "txt": b"c"}),
    ]
    found.write_tar(tmp_path / "x.tar", samples)
    _, plain, _ = run(tmp_path, tmp_path / "x.tar", "plain")
    manifest, small, index = run(tmp_path, tmp_path / "x.tar", "small", resize=40)
    sizes = [decode(row["image"]).shape for row in small]
    assert sizes == [(40, 48, 3), (57, 40, 3), (40, 48, 3)]
    assert [row["image"][:4] for row in small[1:]] == [b"\x89PNG", plain[2]["image"][:4]]
    assert small[2]["image"] == plain[2]["image"] and manifest["warnings"] == {
        "downscaled images": 2
    }
    for name in ("sha256", "phash", "width", "height"):
        assert [row[name] for row in small] == [row[name] for row in plain]
    assert [(entry["width"], entry["height"]) for entry in index][:2] == [(96, 80), (70, 100)]
    wanted = np.asarray(found.picture(1, 70, 100).resize((40, 57), Image.Resampling.BICUBIC))
    assert np.array_equal(decode(small[1]["image"]), wanted)


# What the user can mend.


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"source": ""}, "config.source is empty"),
        ({"source": "/nowhere/*.tar"}, "names /nowhere/.*.tar, which does not exist"),
        ({"source": ","}, "config.source , has no record"),
        ({"source": "FOLDER/x.xyz"}, "x.xyz has no ending of a supported format"),
        ({"source": "FOLDER", "format": "tar"}, "has no tar file"),
        ({"source": "FOLDER", "format": "zip"}, r"format is 'zip' \(str\); give '', 'tar', 'json'"),
        ({"source": "FOLDER/x.jsonl,FOLDER/x.*l"}, "x.jsonl twice"),
        ({"source": "FOLDER/x.jsonl", "near_duplicate_bits": 11}, "near_duplicate_bits is 11"),
        ({"source": "FOLDER/x.jsonl", "records_per_unit": 0}, "records_per_unit is 0"),
        ({"source": "FOLDER/x.jsonl", "workers": -1}, "workers is -1"),
        ({"source": "FOLDER/x.jsonl", "columns.image": "photo"},
         r"no field 'photo' \(image, caption\); name it with --config.columns.image=NAME"),
        ({"source": "FOLDER/y.csv"}, r"no text among its fields \(image, title\)"),
        ({"source": "FOLDER/x.json"}, "x.json is neither a JSON list"),
        ({"source": "FOLDER/y.json"}, r"y.json is not JSON near line 3 \(byte 26\): Expecting"),
        ({"source": "FOLDER/z.json"}, "z.json ends in line 2 without"),
        ({"source": "FOLDER/x.parquet"}, "x.parquet cannot be read"),
        ({"source": "FOLDER/x.jsonl"},
         "0 of 1 records can be used: missing image 1; the first: .*; --config.images"),
        ({"source": "nothing_of_this_name", "format": "tfds"}, "nothing_of_this_name cannot be"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_line(tmp_path, fields, named):
    files = {
        "x.xyz": "", "x.jsonl": '{"image": "0", "caption": "a"}', "x.json": '{"images": [\n{}]}',
        "y.json": '[{"url":"a","caption":1},\n{\n]', "z.json": '[{"url":"a",\n"caption":1}',
        "y.csv": "image,title\na,b", "x.parquet": "PAR",
    }  # fmt: skip
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    fields = {
        name: value.replace("FOLDER", str(tmp_path)) if isinstance(value, str) else value
        for name, value in fields.items()
    }
    with pytest.raises(UserError, match=named) as error:
        run(tmp_path, **fields)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()  # a refused import leaves nothing
