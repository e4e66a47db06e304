"""The dataset card: front matter that Hugging Face takes, and the numbers it is made of."""

import json
import pathlib

import pytest
import scored_dataset
import yaml
from huggingface_hub import DatasetCard

from blip_jax.capfilt import dataset_card, provenance
from blip_jax.cli.main import main
from blip_jax.data.ingest.config import ColumnsConfig, IngestConfig
from blip_jax.data.mixture import RecordSource, load_mixture
from blip_jax.runtime.config import to_json

ROOT = pathlib.Path(__file__).parents[1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A dataset with the scores of two filters, assembled."""
    root = tmp_path_factory.mktemp("card")
    world = scored_dataset.build(root, ("large", "small"), 2)
    columns = ColumnsConfig(text="alt")
    settings = to_json(IngestConfig(source="shards/*.tar", min_side=200, columns=columns))
    counts = {"records_read": 1250, "rows": 240, "skipped": {"too small": 1000, "opted out": 10}}
    manifest = pathlib.Path(world.images) / provenance.MANIFEST
    manifest.write_text(json.dumps(counts | {"settings": settings}))
    found = json.loads((pathlib.Path(world.scores) / provenance.FILE).read_text())
    provenance.write(world.scores, found | {"command": "blip-jax capfilt Y"})
    argv = ["assemble", f"--config={ROOT / 'configs' / 'assemble.py'}", f"--workdir={root / 'out'}"]
    options = [
        "gallery_images=0",
        "threshold_sweep=(0.5,0.7)",
        "title=Shapes | clean",
        f"scores={world.scores}",
    ]
    assert main(argv + [f"--config.{option}" for option in options]) == 0
    return root / "out"


def test_the_front_matter_is_hugging_faces(folder):
    text = (folder / "README.md").read_text()
    data = DatasetCard(text).data
    assert data.pretty_name == "Shapes | clean" and data.size_categories == ["n<1K"]
    assert data.license == ["cc-by-4.0", "cc-by-sa-4.0", "other"]  # a third of them says nothing
    assert "capfilt" in data.tags and "image-to-text" in data.task_categories
    assert yaml.safe_load(text.split("---")[1])["task_categories"] == list(dataset_card.TASKS)


def test_the_card_says_what_statistics_say(folder):
    text, found = (folder / "README.md").read_text(), json.loads(
        (folder / "statistics.json").read_text()
    )  # fmt: skip
    kept = sum(row["kept"] for row in found["texts"])
    assert f"{kept} texts of {found['images']['with_kept_text']} images" in text
    assert kept == sum(
        len(RecordSource(component)) for component in load_mixture(str(folder / "mixture.json"))
    )
    for heading in ("Texts", "What was left out", "Scores", "Noise", "Licences", "How it was made"):
        assert text.count(f"## {heading}\n") == 1, heading
    for row in found["decisions"] + found["sweep"] + found["truth"]["rows"]:
        assert any(str(value) in text for value in row.values() if isinstance(value, int))
    assert "| undecodable image: no bytes | 1 |" in text
    assert text.count("ab" * 32) == 1 and text.count("cd" * 32) == 2  # weights' hashes
    assert '"top_p": 0.9' in text
    assert text.index("blip-jax prepare --workdir") < text.index("blip-jax capfilt Y\n")
    changed = "'--config.source=shards/*.tar' --config.min_side=200 --config.columns.text=alt\n"
    assert f" web {changed}" in text
    assert "Of 1,250 records of the input 240 became images: 1,000 too small, 10 opted out." in text
    assert "{{" not in text and "None" not in text and "nan" not in text
    assert found["commands"][-1].startswith("blip-jax assemble --config=")


def test_no_absolute_path_is_published(folder):
    for name in ("README.md", "statistics.json"):
        text = (folder / name).read_text()
        assert str(folder.parent) not in text and str(ROOT) not in text, name


def test_tables_are_whole(folder):
    """Each row has the cells of its heading."""
    tables = [
        block.splitlines() for block in (folder / "README.md").read_text().split("\n\n")
        if block.startswith("|")
    ]  # fmt: skip
    assert len(tables) >= 9
    for lines in tables:
        cells = [line.replace(r"\|", "").count("|") for line in lines]
        assert len(lines) > 2 and len(set(cells)) == 1, lines


@pytest.mark.parametrize(
    ("names", "wanted"),
    [
        (["CC BY-SA 4.0"], ["cc-by-sa-4.0"]),
        (["http://creativecommons.org/licenses/by-nc/2.0/", "mit"], ["cc-by-nc-2.0", "mit"]),
        (["https://creativecommons.org/publicdomain/zero/1.0/"], ["cc0-1.0"]),
        (["CC BY 4.0", "All rights reserved"], ["cc-by-4.0", "other"]),
        (["CC BY 4.0", "unknown"], ["cc-by-4.0", "other"]),
        (["unknown"], ["unknown"]),
        ([], ["unknown"]),
    ],
)  # fmt: skip
def test_licences_get_their_names(names, wanted):
    assert dataset_card.licences([{"license": name} for name in names]) == wanted


@pytest.mark.parametrize(
    ("count", "wanted"),
    [
        (0, "n<1K"), (999, "n<1K"), (1000, "1K<n<10K"), (9_999, "1K<n<10K"),
        (10_000, "10K<n<100K"), (129_000_000, "100M<n<1B"), (10**12, "n>1T"), (10**14, "n>1T"),
    ],
)  # fmt: skip
def test_size_categories(count, wanted):
    assert dataset_card.size_category(count) == wanted


def test_score_tables_sum_bins_and_cut_empty_ends():
    counts = {"edges": [i / 20 for i in range(21)], "web": [0] * 6 + [1, 2] + [0] * 11 + [5]}
    rows = dataset_card.score_rows(counts)
    assert [row["web"] for row in rows] == [3, 0, 0, 0, 0, 0, 5]
    assert (rows[0]["from"], rows[0]["to"], rows[-1]["to"]) == ("0.30", "0.40", "1.00")
    assert dataset_card.score_rows({"edges": [0, 1], "web": [0]}) == []
