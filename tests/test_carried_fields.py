"""What is known of images (URL, licence, hashes, opt-out fields) from the import to the export."""

import json
import sys
import tarfile

import ingest_fixture
import malformed_files
import pyarrow.parquet
import pytest

from blip_jax.cli.main import main

CARRIED = ("url", "license", "sha256", "phash", "source")
SAID = [
    {"noai": False, "license": "CC BY 4.0"},
    {"noai": "0", "X-Robots-Tag": "all"},
    {"license": "CC0", "noai": None, "noindex": ""},
    {"noai": True},
]
OPT_OUT = [{"noai": "False"}, {"noai": "0", "X-Robots-Tag": "all"}, {}, {"noai": "True"}]


def run(*argv):
    assert main(list(argv)) == 0


def index_of(folder):
    return pyarrow.parquet.read_table(folder / "index.parquet").to_pylist()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A list imported, one record of which opts out, scored, assembled and exported."""
    folder = tmp_path_factory.mktemp("carried")
    ingest_fixture.pictures(folder, len(SAID))
    lines = [
        {"image": f"images/{i}.jpg", "text": f"text {i}", "url": f"https://example.org/{i}"} | said
        for i, said in enumerate(SAID)
    ]
    (folder / "list.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (folder / "allows.py").write_text(
        "def make():\n    return lambda images, texts: [[0.75] * len(own) for own in texts]\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "path", [*sys.path])
        source = "--config.source=first=list.jsonl"
        run("prepare", "--workdir=data", source, "--config.opt_out_fields=()")
        run("capfilt", "--workdir=run", "--config.dataset=data", "--config.filters=allows:make")
        run("assemble", "--workdir=mine", "--config.scores=run/scores", "--config.gallery_images=0")
        for to in ("jsonl", "parquet", "webdataset"):
            run("export", "mine/mixture.json", to, "--to", to)
        run("export", "mine/mixture.json", "none", "--to", "jsonl", "--images", "none")
        yield folder
    sys.modules.pop("allows", None)


def test_the_import_keeps_what_fields_say(folder):
    index = index_of(folder / "data")
    assert [json.loads(row["opt_out"] or "{}") for row in index] == OPT_OUT
    assert [row["license"] for row in index] == ["CC BY 4.0", None, "CC0", None]
    assert all(len(row["sha256"]) == 64 and len(row["phash"]) == 16 for row in index)


def rows_of(folder, to):
    if to == "parquet":
        (path,) = (folder / to / "data").iterdir()
        return pyarrow.parquet.read_table(path).to_pylist()
    if to == "webdataset":
        with tarfile.open(folder / to / "00000.tar") as tar:
            names = [name for name in tar.getnames() if name.endswith(".json")]
            return [json.load(tar.extractfile(name)) for name in names]
    return [json.loads(line) for line in (folder / to / "data.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("to", ["jsonl", "parquet", "webdataset", "none"])
def test_exports_have_them(folder, to):
    rows, index = rows_of(folder, to), index_of(folder / "data")
    assert [row["texts"][0]["text"] for row in rows] == [f"text {i}" for i in range(len(SAID))]
    for row, known, said in zip(rows, index, OPT_OUT, strict=True):
        assert {name: row[name] for name in CARRIED} == {name: known[name] for name in CARRIED}
        given = {name: row[name] for name in ("noai", "X-Robots-Tag")}
        assert given == dict.fromkeys(given) | said


def test_the_assembled_dataset_counts_them(folder):
    found = json.loads((folder / "mine" / "statistics.json").read_text())
    counts = {row["opt_out"]: row["kept"] for row in found["opt_outs"]}
    expected = {json.dumps(said, sort_keys=True) if said else "unknown": 1 for said in OPT_OUT}
    assert counts == expected
    assert "## Opt-out fields" in (folder / "mine" / "README.md").read_text()


@pytest.mark.parametrize("to", ["jsonl", "parquet", "webdataset"])
def test_an_export_that_is_imported_again_keeps_them(folder, to):
    """Hashes are the same, and the record that opts out is now skipped."""
    source = {"jsonl": "jsonl/data.jsonl", "parquet": "parquet/data", "webdataset": "webdataset"}
    run("prepare", f"--workdir=again-{to}", f"--config.source=first={source[to]}")
    index, first = index_of(folder / f"again-{to}"), index_of(folder / "data")
    assert [row["sha256"] for row in index] == [row["sha256"] for row in first[:-1]]
    for name in ("phash", "url", "license", "opt_out"):
        assert [row[name] for row in index] == [row[name] for row in first[:-1]], name
    manifest = json.loads((folder / f"again-{to}" / "manifest.json").read_text())
    assert manifest["skipped"] == {"opted out": 1}


def test_of_merged_records_the_one_that_opts_out_counts(tmp_path):
    """Records of one image in a row become one row."""
    ingest_fixture.pictures(tmp_path, 1)
    lines = [{"image": "images/0.jpg", "text": f"text {x}", "noai": x} for x in ("no", "yes", "0")]
    (tmp_path / "list.jsonl").write_text("\n".join(map(json.dumps, lines)))
    _, rows, index = ingest_fixture.run(tmp_path, tmp_path / "list.jsonl", opt_out_fields=())
    assert len(rows) == 1 and rows[0]["image"] == malformed_files.jpeg(0)
    assert json.loads(index[0]["opt_out"]) == {"noai": "yes"}


def test_an_index_without_them_is_read(tmp_path):
    """As written by an earlier version."""
    import scored_dataset

    web = scored_dataset.build(tmp_path)
    argv = ["assemble", f"--workdir={tmp_path / 'out'}", f"--config.scores={web.scores}"]
    assert main([*argv, "--config.gallery_images=0"]) == 0
    statistics = json.loads((tmp_path / "out" / "statistics.json").read_text())
    assert "opt_outs" not in statistics and statistics["sources"]
    mixture, out = str(tmp_path / "out" / "mixture.json"), tmp_path / "export"
    assert main(["export", mixture, str(out), "--to", "jsonl", "--images", "none"]) == 0
    row = json.loads((out / "data.jsonl").read_text().splitlines()[0])
    assert row["phash"] == f"{int(row['key'][-7:]):016x}"
