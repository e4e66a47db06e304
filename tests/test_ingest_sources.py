"""Which files a source is: folders of every layout, names with dots, patterns, and URLs."""

import json

import malformed_files as found
import pyarrow
import pyarrow.parquet
import pytest
from ingest_fixture import TEXTS, check_rows, pictures, run

from blip_jax.cli.main import main
from blip_jax.data.ingest import IngestConfig
from blip_jax.data.ingest.sources import files
from blip_jax.runtime.errors import UserError

FIRST = [texts[:1] for texts in TEXTS]


def parquet(path, records):
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(records), path)


def lines(path, names, text="text"):
    records = [{"file_name": name, text: TEXTS[n]} for n, name in enumerate(names)]
    path.write_text("\n".join(map(json.dumps, records)))


def with_texts(folder, ending="txt"):
    for number, texts in enumerate(TEXTS):
        (folder / f"{number}.{ending}").write_text("\n".join(texts))
    return folder


def paths(source, **fields):
    """The files of a source, without its folder, and what was passed over."""
    chosen, passed_over = files(IngestConfig(source=str(source), **fields))
    return [file.path.removeprefix(str(source)).lstrip("/") for file in chosen], passed_over


# Names with dots.


@pytest.mark.parametrize(
    ("names", "texts", "wanted"),
    [
        (["street.2.jpg", "street.3.jpg"], ["street.2.txt", "street.3.txt"], [0, 1]),
        (["1.0.png", "2.0.png", "3.0.png"], ["1.0.txt", "2.0.txt", "3.0.txt"], [0, 1, 2]),
        (["a.jpg", "a.2.jpg"], ["a.txt", "a.2.txt"], [1, 0]),  # sorted: a.2, then a
        (["a.1.jpg", "a.2.jpg", "b.jpg"], [None, "a.2.txt", "b.txt"], [1, 2]),
        (["0.image.jpg", "1.image.JPG"], ["0.txt", "1.TXT"], [0, 1]),
        (["x.y/1.v2.jpg", "x.y/2.v2.jpg"], ["x.y/1.v2.txt", "x.y/2.v2.txt"], [0, 1]),
    ],
)
@pytest.mark.parametrize("format", ["tar", "folder"])
def test_names_with_dots(tmp_path, names, texts, wanted, format):
    if format == "folder" and "0.image.jpg" in names:
        pytest.skip("webdataset's rule is for tars")
    members = {name: found.jpeg(n) for n, name in enumerate(names)}
    members |= {name: TEXTS[n][0].encode() for n, name in enumerate(texts) if name}
    source = tmp_path / "in"
    if format == "tar":
        samples = [(name.rpartition(".")[0], {name.rpartition(".")[2]: members[name]})
                   for name in sorted(members)]  # fmt: skip
        source = found.write_tar(tmp_path / "x.tar", samples)
    for name, content in members.items():
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(content)
    manifest, rows, _ = run(tmp_path, source)
    assert [row["texts"] for row in rows] == [FIRST[n] for n in wanted]
    assert [row["image"] for row in rows] == [found.jpeg(n) for n in wanted]
    assert len(rows) + sum(manifest["skipped"].values()) == len(names)


def test_many_images_of_one_name_to_the_first_dot(tmp_path):
    image = found.jpeg(0)
    samples = [
        (f"street.{n}", {"jpg": image + b"#%d" % n, "json": {"n": n}, "txt": b"text %d" % n})
        for n in range(100)
    ]
    found.write_tar(tmp_path / "x.tar", samples)
    _, rows, _ = run(tmp_path, tmp_path / "x.tar")
    assert [row["texts"] for row in rows] == [[f"text {n}"] for n in range(100)]
    assert [row["key"] for row in rows] == [f"x--street-{n}" for n in range(100)]
    assert [json.loads(row["fields"]) for row in rows] == [{"n": n} for n in range(100)]


def test_images_that_share_a_text_are_counted(tmp_path):
    members = {"left.jpg": found.jpeg(0), "right.jpg": found.jpeg(1), "txt": b"a red ball"}
    found.write_tar(tmp_path / "x.tar", [("a", members)])
    manifest, rows, _ = run(tmp_path, tmp_path / "x.tar")
    check_rows(rows, FIRST[:1])
    assert manifest["warnings"] == {"images passed over: not the first of their record": 1}


# Folders.


def test_img2datasets_files(tmp_path):
    """A folder of images for each shard, with a Parquet file and statistics beside it."""
    shards = tmp_path / "shards"
    about = [{"url": f"http://a/{n}", "caption": TEXTS[n][0], "key": f"{n:09d}"} for n in range(3)]
    for number, record in enumerate(about):
        folder = shards / f"{number:05d}"
        folder.mkdir(parents=True)
        (folder / f"{number:09d}.jpg").write_bytes(found.jpeg(number))
        (folder / f"{number:09d}.txt").write_text(record["caption"])
        (folder / f"{number:09d}.json").write_text(json.dumps(record))
        (shards / f"{number:05d}_stats.json").write_text("{}")
        parquet(shards / f"{number:05d}.parquet", about)
    manifest, rows, _ = run(tmp_path, shards)
    check_rows(rows, FIRST)
    assert [row["url"] for row in rows] == ["http://a/0", "http://a/1", "http://a/2"]
    assert manifest["passed_over"] == []
    (shards / "00000.tar").write_bytes(b"")
    assert paths(shards)[0] == ["00000.tar"]
    for name in ("00001.parquet", "00001_stats.json"):  # in the folder of the images
        (shards / name).rename(shards / "00001" / name)
    assert run(tmp_path, shards / "00001", "one")[1][0]["texts"] == FIRST[1]
    assert paths(shards / "00001") == ([""], [])


@pytest.mark.parametrize("ending", ["txt", "caption", "text", "TXT"])
def test_side_cars(tmp_path, ending):
    source = with_texts(pictures(tmp_path), ending)
    check_rows(run(tmp_path, source)[1])


def test_parquet_below_a_folder(tmp_path):
    """As on the Hub, and as `export --to parquet` writes it, also with image files."""
    records = [{"image": {"bytes": found.jpeg(n), "path": "x"}, "text": TEXTS[n]} for n in range(3)]
    parquet(tmp_path / "hub" / "default" / "data" / "train-00000.parquet", records)
    check_rows(run(tmp_path, tmp_path / "hub", "a")[1])
    check_rows(run(tmp_path, tmp_path / "hub", "b", format="parquet")[1])
    (tmp_path / "out").mkdir()
    pictures(tmp_path / "out")
    records = [{"image": f"images/{n}.jpg", "caption": TEXTS[n]} for n in range(3)]
    parquet(tmp_path / "out" / "data" / "train-00000.parquet", records)
    check_rows(run(tmp_path, tmp_path / "out", "c")[1])


def test_lists_of_each_folder(tmp_path):
    source = tmp_path / "in"
    for split in ("test", "train"):
        (source / split).mkdir(parents=True)
        pictures(source / split).rename(source / split / "i")
        lines(source / split / "metadata.jsonl", [f"i/{n}.jpg" for n in range(3)])
    check_rows(run(tmp_path, source)[1][:3])
    found, (note,) = paths(source)
    assert found == ["test/metadata.jsonl", "train/metadata.jsonl"]
    assert "has files of the splits test, train, which become one" in note


@pytest.mark.parametrize("name", ["data.jsonl", "captions.json"])
def test_lists_that_export_writes(tmp_path, name):
    (tmp_path / "in").mkdir()
    pictures(tmp_path / "in")
    records = [{"image": f"images/{n}.jpg", "caption": texts} for n, texts in enumerate(TEXTS)]
    content = json.dumps(records) if name.endswith("n") else "\n".join(map(json.dumps, records))
    (tmp_path / "in" / name).write_text(content)
    check_rows(run(tmp_path, tmp_path / "in")[1])


def test_lists_of_other_names_are_named(tmp_path):
    source = pictures(tmp_path)
    lines(source / "metadata1000.jsonl", [f"{n}.jpg" for n in range(3)])
    with pytest.raises(UserError, match="images without texts, and metadata1000.jsonl; name"):
        run(tmp_path, source)
    check_rows(run(tmp_path, source, allow_no_text=True)[1], [[]] * 3)
    check_rows(run(tmp_path, source / "metadata1000.jsonl", "list")[1])
    with_texts(source)
    (source / "\x1b[2J\n.csv").write_text("")
    chosen, passed_over = paths(source)
    assert chosen == [""] and "passed over in" in passed_over[0]
    assert ": ?[2J?.csv, metadata1000.jsonl;" in passed_over[0]


@pytest.mark.parametrize("name", ["croissant.json", "dataset_infos.json", "features.json"])
def test_files_that_describe_a_dataset_are_no_lists(tmp_path, name):
    pictures(tmp_path)
    (tmp_path / name).write_text('{"description": "four pictures"}')
    lines(tmp_path / "data.json", ["0.jpg", "1.jpg"])
    assert paths(tmp_path, format="json") == (["data.json"], [])
    (tmp_path / "data.json").unlink()
    assert paths(with_texts(tmp_path)) == ([""], [])


@pytest.mark.parametrize("name", ["export.parquet", "backup.tar", "OLD.TAR"])
def test_an_old_file_beside_images_with_texts(tmp_path, name):
    source = with_texts(pictures(tmp_path))
    (source / name).write_bytes(b"")
    with pytest.raises(UserError, match=f"images with texts and also {name}; choose with"):
        run(tmp_path, source)
    check_rows(run(tmp_path, source, format="folder")[1])


def test_what_is_passed_over_is_said(tmp_path, capsys):
    source = pictures(tmp_path)
    samples = [(f"{n}", {"jpg": found.jpeg(n), "txt": TEXTS[n][0].encode()}) for n in range(3)]
    found.write_tar(source / "A.TAR", samples)
    parquet(source / "other.parquet", [{"url": "u", "caption": "c"}])
    manifest, rows, _ = run(tmp_path, source)
    check_rows(rows, FIRST)
    said = capsys.readouterr().err
    assert "passed over in" in said and ": other.parquet, 3 image files; to read them" in said
    assert manifest["passed_over"][0] in said


# Patterns and URLs.


def test_a_path_that_exists_is_no_pattern(tmp_path):
    for name in ("set [v2]", "a,b", "c{1,2}", "d*"):
        (tmp_path / name).mkdir()
        source = with_texts(pictures(tmp_path / name))
        check_rows(run(tmp_path, source, f"{name}-out")[1])
        found.write_tar(tmp_path / name / "0.tar", [])
        assert paths(tmp_path / name / "0.tar")[0] == [""]
        if "," not in name:
            assert paths(f"{tmp_path / name}/*.tar")[0]


@pytest.mark.parametrize(
    ("pattern", "wanted"),
    [
        ("{00000..00002}.tar", ["00000.tar", "00001.tar", "00002.tar"]),
        ("{00002..00001}.tar", ["00002.tar", "00001.tar"]),
        ("{b,a}.tar", ["b.tar", "a.tar"]),
        ("{a,0000{0..1}}.tar", None),
        ("0000{0,1}.{tar,csv}", None),
        ("{0..2}.jsonl", ["0.jsonl", "1.jsonl", "2.jsonl"]),
    ],
)
def test_braces(tmp_path, pattern, wanted):
    for name in ("00000.tar", "00001.tar", "00002.tar", "a.tar", "b.tar", "0.jsonl", "1.jsonl",
                 "2.jsonl"):  # fmt: skip
        (tmp_path / name).write_bytes(b"")
    if wanted is None:
        with pytest.raises(UserError, match="does not exist; check the"):
            files(IngestConfig(source=f"{tmp_path}/{pattern}"))
        return
    for prefix in ("", "web="):
        chosen, _ = files(IngestConfig(source=f"{prefix}{tmp_path}/{pattern}"))
        assert [file.path for file in chosen] == [f"{tmp_path}/{name}" for name in wanted]
        assert {file.source for file in chosen} == {"web" if prefix else tmp_path.name}


def test_braces_without_end_are_refused(tmp_path):
    for pattern in ("{0..99999999999}", "{0..9999}{0..9999}"):
        with pytest.raises(UserError, match="more than 1,000,000 paths"):
            files(IngestConfig(source=f"{tmp_path}/{pattern}.tar"))


@pytest.mark.parametrize(
    ("url", "named"),
    [
        ("https://example.org/a.tar", "prepare downloads nothing; download it"),
        ("HTTPS://example.org/{0..1}.tar", "prepare downloads nothing; download it"),
        ("s3://bucket/*.tar", "cannot be read .*s3fs"),
        ("s3://bucket/{00000..00009}.tar", "cannot be read .*s3fs"),
        ("abc://x/a.tar", "of a kind that cannot be read"),
        ("file:///x/a.tar", "of a kind that cannot be read"),
    ],
)
def test_urls_are_refused_in_one_line(tmp_path, url, named, capsys):
    folder = pictures(tmp_path, 1)
    lines(folder / "x.jsonl", ["0.jpg"])
    images = [f"--config.source={folder / 'x.jsonl'}", f"--config.images={url}"]
    for fields in ([f"--config.source={url}"], images):
        argv = ["prepare", "--config=configs/prepare.py", f"--workdir={tmp_path / 'out'}"]
        assert main(argv + fields) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and error.startswith("blip-jax prepare: config.")
    with pytest.raises(UserError, match=named):
        files(IngestConfig(source=url))
