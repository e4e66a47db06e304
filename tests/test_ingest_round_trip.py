"""What `export` writes, `prepare` reads: every image with its texts, whatever their names are."""

import json

import malformed_files as found
import pytest
from ingest_fixture import run

from blip_jax.cli.main import main
from blip_jax.data.mixture import Component, save_mixture

NAMES = [
    "a b",
    "a-b",
    "street.2",
    "street.3",
    "1.0",
    "ключ",
    "日本 語",
    "x.y/z.1",
    "A" * 120,
    "ß?#%20",
]
OPTIONS = {
    "jsonl": ["--to", "jsonl"],
    "parquet": ["--to", "parquet"],
    "parquet and image files": ["--to", "parquet", "--images", "files"],
    "webdataset": ["--to", "webdataset", "--shard", "4"],
    "blip": ["--to", "blip"],
}


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """({image: texts}, the exported folders by name)."""
    root = tmp_path_factory.mktemp("trip")
    pairs = {}
    components = []
    for number, component in enumerate(("my web", "weiß.1")):
        folder = root / f"in{number}"
        for seed, name in enumerate(NAMES):
            image = found.jpeg(len(NAMES) * number + seed)
            texts = [f"a text of {name}", f'"{name}", twice']
            path = folder / f"{name}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(image)
            path.with_name(f"{path.name[:-4]}.txt").write_text("\n".join(texts), encoding="utf-8")
            pairs[image] = texts
        run(root, folder, f"dataset{number}")
        components.append(Component(component, str(root / f"dataset{number}")))
    save_mixture(str(root / "mixture.json"), components)
    for name, options in OPTIONS.items():
        assert main(["export", str(root / "mixture.json"), str(root / name), *options]) == 0
    return pairs, root


@pytest.mark.parametrize("name", OPTIONS)
def test_every_pair_comes_back(exported, tmp_path, name):
    pairs, root = exported
    for cut in (3, 10_000):
        manifest, rows, _ = run(tmp_path, root / name, f"out{cut}", records_per_unit=cut)
        assert {row["image"]: row["texts"] for row in rows} == pairs
        assert len(rows) == len(pairs) == 2 * len(NAMES)
        assert set(manifest["skipped"]) <= {"merged with the record before"}
        assert manifest["passed_over"] == [] and json.dumps(manifest["warnings"]) == "{}"
