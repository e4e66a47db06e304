"""The verb `capfilt`: caption, score, and write the mixture to train on."""

import shlex
import sys

import jax
from etils import epath
from ml_collections import ConfigDict

from blip_jax.capfilt import mixture, storage
from blip_jax.capfilt.inputs import CapFiltInput
from blip_jax.capfilt.run import Settings
from blip_jax.capfilt.run import run as caption_and_score
from blip_jax.data.mixture import Component
from blip_jax.decoding import Decoding
from blip_jax.models import Model, load
from blip_jax.reports import tables
from blip_jax.runtime.command_line import command_line
from blip_jax.runtime.errors import UserError

TOP_K = 50  # of "top_k" where the config says 0


def defaults() -> ConfigDict:
    """The fields of a capfilt run."""
    return ConfigDict({
        "dataset": "",  # folder of the dataset to clean, with features.json; or a mixture file
        "split": "train",
        "captioner": "",  # what models.load takes; several: A,B or NAME=A,NAME=B; "": none
        "filter": "",  # the same
        "dtype": "float32",  # of computing; bfloat16 on TPUs and GPUs
        "image_size": 0,  # pixels a side, for all models; 0: what each was trained with
        "captions": "nucleus",  # decoding methods: nucleus*2,top_k,greedy,beam
        "decoding": ConfigDict({
            "top_p": 0.9, "top_k": 0, "temperature": 1.0, "repetition_penalty": 1.1,
            "min_length": 5, "max_length": 20, "num_beams": 3, "length_penalty": 1.0,
        }),
        "batch_size": 64,  # images a device
        "shard_rows": 1024,
        "seed": 0,
        "threshold": 0.5,  # of P(match); applied when the mixture is written, not to the rows
        "human": "",  # folder of the human pairs of the mixture; "" writes no mixture
        "human_share": 0.25,  # of each batch
    }).lock()  # fmt: skip


def run(config: ConfigDict, workdir: str) -> None:
    """Writes `workdir/scores` (a TFDS dataset) and, with `human`, `workdir/mixture.json`.

    Raises:
      UserError: a required field is empty, or names something that does not exist.
    """
    for name in ("dataset", "filter"):
        if not config[name]:
            raise UserError(f"config.{name} is empty; give it with --config.{name}=FOLDER")
    output = str(epath.Path(workdir) / "scores")
    settings = Settings(
        dataset=config.dataset,
        split=config.split,
        output=output,
        decodings=decodings(config.captions, config.decoding.to_dict()),
        batch_size=config.batch_size,
        shard_rows=config.shard_rows,
        seed=config.seed,
        command=command_line(),
    )
    source = CapFiltInput(config.dataset, config.split, 1)  # checks the input before models load
    captioners = models(config.captioner, config)
    caption_and_score(settings, captioners, models(config.filter, config))
    if jax.process_index():
        return
    table = storage.read(output, source.split)
    kept = mixture.select_by_threshold(table, storage.ORIGINS, config.threshold)
    print(tables.plain(summary(table, kept)))
    for reason, count in storage.skipped(table).items():
        print(f"skipped {count}: {reason}", file=sys.stderr)
    print(f"\nscores of all texts: {output}")
    if config.human:
        origin = mixture.ScoredDataset(source.dataset, source.split, output)
        path = str(epath.Path(workdir) / "mixture.json")
        human = Component(name="human", dataset=config.human)
        mixture.write_mixture(path, human, origin, table, kept, config.human_share)
        print(f"mixture to train on: {path}")
    else:
        argv = ["blip-jax", "assemble", "--workdir=DIR", f"--config.scores={output}"]
        print(f"to select texts, run: {shlex.join(argv)}")


def decodings(wanted: str, options: dict) -> tuple[Decoding, ...]:
    """Parses decoding methods: "nucleus*2,beam" is two sampled captions and one of beam search.

    Raises:
      UserError: the syntax is wrong, or an option is out of range.
    """
    found = []
    for part in filter(None, (part.strip() for part in str(wanted).split(","))):
        method, _, count = part.partition("*")
        if count and not count.isdecimal():
            raise UserError(
                f"config.captions has {part!r}; expected METHOD*NUMBER, as in nucleus*2"
            )
        own = {**options, "method": method, "num_captions": int(count or 1)}
        if method == "top_k":
            own |= {"method": "nucleus", "top_p": 1.0, "top_k": options["top_k"] or TOP_K}
        found.append(Decoding(**own))
    return tuple(found)


def models(named: str, config: ConfigDict) -> dict[str, tuple[str, Model]]:
    """Loads the models of a list NAME=PATH,…; the default name is the last part of the path.

    Raises:
      UserError: one cannot be loaded, or two have the same name.
    """
    found = {}
    for part in filter(None, (part.strip() for part in named.split(","))):
        name, _, path = part.rpartition("=")
        name = name or epath.Path(path).name
        if name in found:
            raise UserError(f"two models are called {name!r}; give them names: A={path},B=…")
        found[name] = path, load(path, dtype=config.dtype, image_size=config.image_size or None)
    return found


def summary(table: storage.TextTable, kept) -> list[dict]:
    """Returns the number of texts, kept texts and unscored texts of each origin."""
    rows = []
    for origin in storage.ORIGINS:
        own = table.where("origin", origin)
        rows.append({
            "origin": origin,
            "count": int(own.sum()),
            "kept": int(kept[own].sum()),
            "not_scored": int((own & ~table.scored).sum()),
        })  # fmt: skip
    return rows
