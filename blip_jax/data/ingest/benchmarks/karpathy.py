"""The splits of Karpathy and Fei-Fei, dataset_coco.json and dataset_flickr30k.json.

{"images": [{"filename", "split", "sentences": [{"raw", "sentid"}, …], …}, …], "dataset": "coco"}
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator

from blip_jax.data.ingest.benchmarks.base import ImageRecord
from blip_jax.data.ingest.benchmarks.owner_files import OwnerFile
from blip_jax.data.ingest.records import as_texts

URL = "https://cs.stanford.edu/people/karpathy/deepimagesent/caption_datasets.zip"


def records(
    file: OwnerFile,
    dataset: str,
    splits: Collection[str],
    describe: Callable[[dict], tuple[str, str]],
) -> Iterator[ImageRecord]:
    """Yields the images of some splits with their captions.

    Args:
      dataset: what the file must say that it is.
      describe: of an image, (its key, FOLDER/FILE).
    """
    document = file.load()
    rows = file.rows(document, "images", {"filename": str, "split": str, "sentences": list})
    if document.get("dataset", dataset) != dataset:
        raise file.wrong(f"is of the dataset {document['dataset']!r}")
    for row in rows:
        if row["split"] in splits:
            key, image = describe(row)
            fields = {"image_id": key, "caption_ids": row.get("sentids", [])}
            yield ImageRecord(key, image, as_texts(row["sentences"]), fields)
