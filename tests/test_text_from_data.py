"""Text from data shows as text: no code in the dataset card, nothing that steers a terminal."""

import json
import pathlib
import shutil

import pyarrow as pa
import pyarrow.parquet
import scored_dataset
import tiny_dataset

from blip_jax.capfilt import image_index, provenance
from blip_jax.checkpoints import training_data
from blip_jax.cli.main import main
from blip_jax.data.synthetic.builder import make_record
from blip_jax.reports import tables
from blip_jax.runtime.fingerprint import folder_digest
from blip_jax.tasks.contamination import check_contamination
from blip_jax.tasks.eval_dataset import EvalDataset

EVIL = "<script>alert(1)</script>[x](javascript:y) `|` \\x1b]0;\x1b[31m\nnext\u202e"


def assemble(folder, scores, *options) -> int:
    argv = ["assemble", f"--workdir={folder}", f"--config.scores={scores}"]
    return main([*argv, "--config.gallery_images=0", *(f"--config.{x}" for x in options)])


def test_markdown_shows_texts_as_they_are():
    found = tables.markdown_text("a<b>&[x](y)*`|\\\x1b\nc")
    assert found == r"a&lt;b&gt;&amp;\[x\](y)\*\`|\\\\x1b c"
    assert tables.markdown_code("a``b\n") == r"```a``b\n```"
    assert tables.markdown_code("`a") == "`` `a ``"
    table = tables.markdown([{"name": EVIL, "count": 1}])
    assert "<script" not in table and "](" not in table.replace(r"\](", "")
    assert table.count("\n") == 2 and "\x1b" not in tables.plain([{"name": EVIL}])


def test_the_card_and_the_terminal_show_no_code_of_the_data(tmp_path, capsys):
    web = scored_dataset.build(tmp_path)
    index = pathlib.Path(web.images) / image_index.FILE
    table = pa.parquet.read_table(index)
    for name in ("source", "license"):
        values = pa.array([EVIL if row % 2 else "b" for row in range(len(table))])
        table = table.set_column(table.column_names.index(name), name, values)
    pa.parquet.write_table(table, index)
    found = json.loads((pathlib.Path(web.scores) / provenance.FILE).read_text())
    found["captioners"][0] |= {"name": EVIL, "path": EVIL, "sha256": EVIL}
    found |= {"version": EVIL, "command": f"blip-jax x\n```\n{EVIL}", "seed": EVIL}
    provenance.write(web.scores, found)
    manifest = {"records_read": 1, "rows": 1, "skipped": {EVIL: 1}}
    (pathlib.Path(web.images) / provenance.MANIFEST).write_text(json.dumps(manifest))
    assert assemble(tmp_path / "out", web.scores) == 0
    card = (tmp_path / "out" / "README.md").read_text()
    body = card.split("---\n", 2)[2]
    blocks = body.split("\n```")
    for text in blocks[::2]:  # not in the blocks of code
        assert "<script" not in text and "[x](javascript" not in text
    assert len(blocks) % 2 == 1
    assert "\x1b" not in card and "\u202e" not in card
    out, err = capsys.readouterr()
    assert "\x1b" not in out + err and "\u202e" not in out + err


def test_errors_are_one_line_whatever_a_name_holds(tmp_path, capsys):
    name = f"{tmp_path}/a\x1b[31m\nb\u202e"
    assert main(["export", name, str(tmp_path / "out"), "--to=jsonl"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and r"a\x1b[31m b\u202e does not exist" in error
    shutil.rmtree(tmp_path)


def test_notes_about_records_and_training_sets_are_printable(tmp_path, capsys):
    """Keys come from the dataset, names of training sets from the file of the model."""
    records = [make_record(row, "train", tiny_dataset.WEB) for row in range(2)]
    records[0] |= {"key": EVIL, "image": b"no image"}
    dataset = tiny_dataset.write(str(tmp_path / "evil"), records)
    EvalDataset.load(dataset, "train", 16)
    known = training_data.TrainingDataset(EVIL, "train", folder_digest(dataset))
    assert check_contamination([known], dataset, "train", allow=True).images == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 2 and "\x1b" not in error and "\u202e" not in error
    assert error.count(r"\x1b[31m") == 2
