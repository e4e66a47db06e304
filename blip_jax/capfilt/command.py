"""The verb `capfilt`: caption, score, and write the view to train on."""

import sys

import jax
from etils import epath
from ml_collections import ConfigDict

from blip_jax.capfilt import assemble, scores
from blip_jax.capfilt.run import Settings
from blip_jax.capfilt.run import run as caption_and_score
from blip_jax.data.sources import Part
from blip_jax.decoding import Decoding
from blip_jax.errors import UserError
from blip_jax.evaluation import tables
from blip_jax.inference import load


def defaults() -> ConfigDict:
    """The fields of a capfilt run."""
    return ConfigDict({
        "dataset": "",  # folder of the dataset to clean, with features.json
        "split": "train",
        "captioner": "",  # workdirs of the two fine-tuned models
        "filter": "",
        "captions": 1,  # an image
        "decoding": ConfigDict({
            "method": "nucleus", "top_p": 0.9, "top_k": 0, "temperature": 1.0,
            "repetition_penalty": 1.1, "min_length": 5, "max_length": 20,
            "beams": 3, "length_penalty": 1.0,
        }),
        "batch_size": 64,  # images a device
        "shard_rows": 1024,
        "seed": 0,
        "threshold": 0.5,  # of P(match); applied when the view is written, not to the rows
        "human": "",  # folder of the human pairs of the view; "" writes no view
        "human_share": 0.25,  # of each batch
    }).lock()  # fmt: skip


def run(config: ConfigDict, workdir: str) -> None:
    """Writes `workdir/scores` (a TFDS dataset) and, with `human`, `workdir/view.json`.

    Raises:
      UserError: a field that must be given is empty, or names nothing.
    """
    for name in ("dataset", "captioner", "filter"):
        if not config[name]:
            raise UserError(f"config.{name} is empty; give it with --config.{name}=FOLDER")
    output = str(epath.Path(workdir) / "scores")
    settings = Settings(
        dataset=config.dataset,
        split=config.split,
        output=output,
        decoding=Decoding(**config.decoding),
        captions=config.captions,
        batch_size=config.batch_size,
        shard_rows=config.shard_rows,
        seed=config.seed,
    )
    caption_and_score(settings, load(config.captioner), load(config.filter))
    if jax.process_index():
        return
    columns = scores.read(output, config.split)
    kept = assemble.keep(columns, scores.ORIGINS, config.threshold)
    print(tables.plain(summary(columns, kept)))
    for reason, count in scores.set_aside(columns).items():
        print(f"set aside: {count}, {reason}", file=sys.stderr)
    if config.human:
        source = assemble.Source(config.dataset, config.split, output)
        view = str(epath.Path(workdir) / "view.json")
        human = Part(name="human", dataset=config.human)
        assemble.write_view(view, human, source, columns, kept, config.human_share)
        print(f"\nview to train on: {view}")


def summary(columns: scores.Columns, kept) -> list[dict]:
    """Texts in, kept and without a score, by origin."""
    rows = []
    for origin in scores.ORIGINS:
        own = [i for i, name in enumerate(columns.origin) if name == origin]
        rows.append({
            "texts": origin,
            "count": len(own),
            "kept": int(kept[own].sum()),
            "not scored": int((columns.p_match[own] != columns.p_match[own]).sum()),
        })  # fmt: skip
    return rows
