"""Lists, tables and texts as people have them: COCO's, Karpathy's, of Windows, of pandas."""

import json

import given_dataset
import malformed_files as found
import pyarrow
import pyarrow.parquet
import pytest
import tensorflow_datasets as tfds
from ingest_fixture import TEXTS, check_rows, pictures, run

from blip_jax.data.ingest.records import as_text, as_texts
from blip_jax.data.ingest.text import text_lines
from blip_jax.runtime.errors import UserError

COCO = {
    "info": {"year": 2017},
    "licenses": [{"id": 1, "name": "CC"}],
    "images": [{"id": 10 + n, "file_name": f"{n}.jpg", "license": 1} for n in range(3)],
    "annotations": [  # not in the order of the images
        {"id": 7, "image_id": 11, "caption": "a blue cube"},
        {"id": 5, "image_id": 12, "caption": "a dog"},
        {"id": 6, "image_id": 10, "caption": "a red ball"},
        {"id": 8, "image_id": 11, "caption": "a cube"},
    ],
}
KARPATHY = {
    "dataset": "coco",
    "images": [
        {"filepath": "images", "filename": f"{n}.jpg", "imgid": n, "split": "val",
         "sentids": [n], "sentences": [{"raw": text, "tokens": text.split()} for text in texts]}
        for n, texts in enumerate(TEXTS)
    ],
}  # fmt: skip
PAIRS = [{"image": f"{n}.jpg", "caption": texts} for n, texts in enumerate(TEXTS)]
DOCUMENTS = {
    "COCO": COCO,
    "Karpathy": {"dataset": "flickr30k", "images": [
        {name: value for name, value in image.items() if name != "filepath"}
        for image in KARPATHY["images"]]},
    "data": {"version": 1, "data": PAIRS},
    "numbered": {str(n): pair for n, pair in enumerate(PAIRS)},
    "by path": {pair["image"]: {"caption": pair["caption"], "tags": "x"} for pair in PAIRS},
    "path to texts": {f"{n}.jpg": texts for n, texts in enumerate(TEXTS)},
}  # fmt: skip


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("name", DOCUMENTS)
def test_objects_that_hold_the_records(tmp_path, name, indent):
    folder = pictures(tmp_path)
    mark = "\ufeff" if indent else ""
    (tmp_path / "x.json").write_text(mark + json.dumps(DOCUMENTS[name], indent=indent))
    for cut in (1, 10):
        manifest, rows, _ = run(tmp_path, tmp_path / "x.json", f"out{cut}", images=str(folder),
                                records_per_unit=cut)  # fmt: skip
        check_rows(rows)
        assert manifest["skipped"] == {} and len(manifest["units"]) == (3 if cut == 1 else 1)
    if name == "COCO":
        fields = json.loads(rows[1]["fields"])
        assert fields["caption_ids"] == [7, 8] and fields["license"] == 1
        assert [row["key"].split("--")[1] for row in rows] == ["10", "11", "12"]


def test_karpathys_folder_and_name_are_a_path(tmp_path):
    pictures(tmp_path)
    (tmp_path / "dataset_coco.json").write_text(json.dumps(KARPATHY))
    _, rows, _ = run(tmp_path, tmp_path / "dataset_coco.json")
    check_rows(rows)
    assert json.loads(rows[0]["fields"])["split"] == "val"


def test_captions_of_no_image_are_counted(tmp_path):
    folder = pictures(tmp_path)
    document = COCO | {"annotations": [*COCO["annotations"], {"image_id": 99, "caption": "gone"}]}
    (folder / "x.json").write_text(json.dumps(document))
    manifest, rows, _ = run(tmp_path, folder / "x.json")
    check_rows(rows)
    assert manifest["skipped"] == {"missing image": 1}


@pytest.mark.parametrize(
    ("document", "named"),
    [
        (COCO | {"annotations": [{"image_id": 10, "bbox": [1, 2]}]}, "have no captions; take"),
        ({"train": PAIRS, "val": PAIRS}, "several lists of objects .train, val."),
        ({"a": 1, "b": "c"}, "no image among its fields"),
        ({"data": [{"file": "0.jpg", "words": "a"}]}, r"x.json has no text among its fields"),
    ],
)
def test_objects_that_are_refused(tmp_path, document, named):
    (tmp_path / "x.json").write_text(json.dumps(document))
    with pytest.raises(UserError, match=named) as error:
        run(tmp_path, tmp_path / "x.json")
    assert "\n" not in str(error.value) and "file-list" not in str(error.value)


def captions(tmp_path, count):
    """A caption a record, `count` for each image, as in the original's lists."""
    pictures(tmp_path)
    return [
        {"image": f"images/{n}.jpg", "caption": f"text {n} {k}"}
        for n in range(3)
        for k in range(count)
    ]


@pytest.mark.parametrize("ending", ["json", "jsonl", "csv", "tsv", "parquet", "url.parquet"])
def test_where_a_file_is_cut_does_not_change_its_rows(tmp_path, ending):
    records = captions(tmp_path, 5)
    path = tmp_path / f"x.{ending}"
    if ending == "url.parquet":
        records = [{"url": f"http://a/{r['image']}", "caption": r["caption"]} for r in records]
    if "parquet" in ending:
        table = pyarrow.Table.from_pylist(records)
        pyarrow.parquet.write_table(table, path, row_group_size=4)
    elif ending == "json":
        path.write_text(json.dumps(records))
    elif ending == "jsonl":
        path.write_text("\n".join(map(json.dumps, records)))
    else:
        comma = "," if ending == "csv" else "\t"
        lines = [comma.join(record.values()) for record in records]
        path.write_text("\n".join([comma.join(records[0]), *lines]))
    wanted = [[f"text {n} {k}" for k in range(5)] for n in range(3)]
    images = str(tmp_path / "images") if "url" in ending else ""
    for cut in (1, 2, 7, 100):
        manifest, rows, _ = run(tmp_path, path, f"out{cut}", records_per_unit=cut, images=images)
        check_rows(rows, wanted)
        assert manifest["skipped"] == {"merged with the record before": 12}


def test_hugging_faces_paths_without_bytes_are_cut_between_images(tmp_path):
    records = [
        {"image": {"bytes": None, "path": record["image"]}, "caption": record["caption"]}
        for record in captions(tmp_path, 2)
    ]
    schema = pyarrow.schema({
        "image": pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.string()}),
        "caption": pyarrow.string(),
    })  # fmt: skip
    table = pyarrow.Table.from_pylist(records, schema)
    pyarrow.parquet.write_table(table, tmp_path / "x.parquet")
    _, rows, _ = run(tmp_path, tmp_path / "x.parquet", records_per_unit=1)
    check_rows(rows, [[f"text {n} 0", f"text {n} 1"] for n in range(3)])


def test_a_tfds_dataset_of_paths_is_cut_between_images(tmp_path):
    text = tfds.features.Text()
    records = captions(tmp_path, 2)
    path = given_dataset.write(tmp_path / "in", records, {"image": text, "caption": text})
    _, rows, _ = run(tmp_path, path, records_per_unit=1, images=str(tmp_path))
    check_rows(rows, [[f"text {n} 0", f"text {n} 1"] for n in range(3)])


@pytest.mark.parametrize("value", [float("nan"), None, False, True, float("inf"), "", " ", [], {}])
def test_what_is_no_text(tmp_path, value):
    folder = pictures(tmp_path)
    lines = [{"image": f"{n}.jpg", "caption": TEXTS[n]} for n in range(2)]
    lines.append({"image": "2.jpg", "caption": value})
    (folder / "x.jsonl").write_text("\n".join(map(json.dumps, lines)))
    manifest, rows, _ = run(tmp_path, folder / "x.jsonl")
    check_rows(rows, TEXTS[:2])
    assert manifest["skipped"] == {"empty text": 1}


def test_missing_values_of_pandas(tmp_path):
    folder = pictures(tmp_path, 1)
    nothing = float("nan")
    columns = {"image": ["0.jpg", None], "caption": ["a red ball", "a"], "truth": [None, "x"],
               "score": [nothing, 1.0]}  # fmt: skip
    pyarrow.parquet.write_table(pyarrow.table(columns), folder / "x.parquet")
    manifest, rows, _ = run(tmp_path, folder / "x.parquet")
    check_rows(rows, [["a red ball"]])
    assert rows[0]["truth"] == "" and manifest["skipped"] == {"missing image": 1}
    assert as_text(nothing) == "" and as_texts([nothing, "a", [None, 5]]) == ["a", "5"]


def test_only_line_ends_part_texts(tmp_path):
    text = "a\u2028b\x0bc\x85d\x0ce\x1cf"
    assert text_lines(f"{text}\r\nb\rc\nd") == [text, "b", "c", "d"]
    folder = pictures(tmp_path, 1)
    (folder / "0.txt").write_text(f"{text}\na dog", encoding="utf-8")
    assert run(tmp_path, folder)[1][0]["texts"] == [text, "a dog"]


def test_paths_of_windows(tmp_path):
    pictures(tmp_path)
    lines = [{"image": f"images\\{n}.jpg", "caption": TEXTS[n]} for n in range(3)]
    (tmp_path / "x.jsonl").write_text("\n".join(map(json.dumps, lines)))
    check_rows(run(tmp_path, tmp_path / "x.jsonl")[1])


@pytest.mark.parametrize("ending", ["csv", "TSV"])
def test_a_byte_order_mark_is_no_part_of_a_field(tmp_path, ending):
    folder = pictures(tmp_path)
    comma = "," if ending == "csv" else "\t"
    lines = [f"{n}.jpg{comma}{TEXTS[n][0]}" for n in range(3)]
    texts = [texts[:1] for texts in TEXTS]
    path = folder / f"x.{ending}"
    path.write_text("\ufeff" + "\n".join(lines), encoding="utf-8")
    for cut in (1, 10):
        _, rows, _ = run(tmp_path, path, f"a{cut}", header="image,  caption", records_per_unit=cut)
        check_rows(rows, texts)
    path.write_text("\n".join([f'\ufeff"image"{comma}"caption"', *lines]), encoding="utf-8")
    check_rows(run(tmp_path, path, "quoted")[1], texts)


def test_other_encodings(tmp_path):
    """A table in UTF-16 is named; texts beside images are read by their mark, or counted."""
    folder = pictures(tmp_path)
    content = "image,caption\n0.jpg,a café"
    for encoding in ("utf-16", "utf-16-le"):
        for name in ("x.csv", "x.jsonl"):
            (tmp_path / name).write_text(content, encoding=encoding)
            with pytest.raises(UserError, match=f"{name} is .*save it as UTF-8"):
                run(tmp_path, tmp_path / name)
    (folder / "0.txt").write_text("a café", encoding="utf-16")
    (folder / "1.txt").write_text("a café", encoding="utf-8-sig")
    (folder / "2.txt").write_text("a café", encoding="cp1252")
    manifest, rows, _ = run(tmp_path, folder)
    check_rows(rows, [["a café"]] * 2)
    assert manifest["skipped"] == {"text not UTF-8": 1}
    (folder / "x.csv").write_text(content, encoding="cp1252")
    with pytest.raises(UserError, match="text not UTF-8 1; the first: .*; save the texts as UTF-8"):
        run(tmp_path, folder / "x.csv", "table")


UNCLOSED = {
    "at the end": ('0.jpg,a\n1.jpg,"never closed\n2.jpg,c\n', [0, 2]),
    "before a quoted one": ('0.jpg,a\n1.jpg,"never closed\n2.jpg,"c"\n', [0, 2]),
    "before doubled ones": ('0.jpg,a\n1.jpg,"never\n2.jpg,"c ""d"""\n', [0, 2]),
    "far before a quoted one": ('1.jpg,"never\n0.jpg,a\n2.jpg,"c, d"\n', [0, 2]),
    "longer than a field": ('1.jpg,"never\n0.jpg,a\n' + "2.jpg,c\n" * 140_000, [0, 2]),
    "closed": ('0.jpg,"a\nb"\n1.jpg,"c ""d""\n\n"\n2.jpg,5" nails\n', [0, 1, 2]),
}


@pytest.mark.parametrize("name", UNCLOSED)
def test_a_quote_that_is_never_closed_is_one_broken_row(tmp_path, name):
    folder = pictures(tmp_path)
    content, whole = UNCLOSED[name]
    (folder / "x.csv").write_text("image,caption\n" + content)
    for cut in (1, 1_000_000):
        manifest, rows, _ = run(tmp_path, folder / "x.csv", f"out{cut}", records_per_unit=cut)
        assert [row["image"] for row in rows] == [found.jpeg(n) for n in whole]
        assert manifest["skipped"].get("broken row", 0) == 3 - len(whole)
        if len(whole) == 2:
            line = json.loads((tmp_path / f"out{cut}" / "skipped.jsonl").read_text().split("\n")[0])
            assert 'a quote is never closed: 1.jpg,"never' in line["detail"]
            before = content[: content.index("1.jpg")]
            place = f"line {2 + before.count(chr(10))} (byte {14 + len(before)}): "
            assert line["detail"].startswith(place)
        else:
            assert [row["texts"] for row in rows] == [["a\nb"], ['c "d"'], ['5" nails']]


def test_quotes_in_tab_separated_tables(tmp_path):
    """Taken off where the whole table is quoted, or where a field shows that a program did it."""
    folder = pictures(tmp_path)
    texts = ['a "red" dog', '"a dog" he said, 5"', '"hello"']
    written = ['"a ""red"" dog"', texts[1], texts[2]]
    lines = [f"{n}.jpg\t{text}" for n, text in enumerate(written)]
    (folder / "x.tsv").write_text("\n".join(["image\tcaption", *lines]))
    check_rows(run(tmp_path, folder / "x.tsv")[1], [[text] for text in texts])
    doubled = [text.replace('"', '""') for text in texts]
    lines = [f'"{n}.jpg"\t"{text}"' for n, text in enumerate(doubled)]
    (folder / "x.tsv").write_text("\n".join(['"image"\t"caption"', *lines]))
    check_rows(run(tmp_path, folder / "x.tsv", "quoted")[1], [[text] for text in texts])


def test_line_ends_of_old_macs_are_named(tmp_path):
    (tmp_path / "x.csv").write_text("image,caption\r0.jpg,a\r", newline="")
    with pytest.raises(UserError, match="ends its lines with CR alone"):
        run(tmp_path, tmp_path / "x.csv")


@pytest.mark.parametrize("ending", ["jsonl", "json", "csv", "parquet"])
def test_names_of_images_without_an_ending(tmp_path, ending):
    """Such a file is read by its content; or the image of this name with an ending."""
    folder = pictures(tmp_path)
    (folder / "0.jpg").rename(folder / "10")
    (folder / "1.jpg").rename(folder / "11.jpeg")
    (folder / "13").write_text("no image")
    names = ["images/10", "images/11", "images/2", "images/12", "images/13", "images"]
    lines = [{"image": name, "caption": "a"} for name in names]
    path = tmp_path / f"x.{ending}"
    if ending == "parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(lines), path)
    elif ending == "csv":
        path.write_text("image,caption\n" + "".join(f"{name},a\n" for name in names))
    else:
        text = json.dumps(lines) if ending == "json" else "\n".join(map(json.dumps, lines))
        path.write_text(text)
    manifest, rows, _ = run(tmp_path, path)
    check_rows(rows, [["a"]] * 3)
    assert manifest["skipped"] == {"missing image": 2, "undecodable image": 1}
    details = (tmp_path / "out" / "skipped.jsonl").read_text()
    assert "images/12: it does not exist" in details and "is a folder, not a file" in details
    if ending == "jsonl":  # identifiers of images, as numbers
        (tmp_path / "y.jsonl").write_text(json.dumps({"image": 10, "caption": "a"}))
        check_rows(run(tmp_path, tmp_path / "y.jsonl", "y", images=str(folder))[1], [["a"]])
