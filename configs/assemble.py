"""Choose the texts to train on from stored scores; no model is run, and no image copied:

    blip-jax assemble --workdir runs/clean --config.scores=runs/capfilt/scores \\
        --config.selection.thresholds.web=0.6 --config.selection.max_texts_per_image=2

OUT/mixture.json is what training reads, README.md the dataset card, statistics.json its numbers,
and report/index.html shows a sample. `blip-jax export` writes it out for other programs.
"""

from blip_jax.capfilt.config import AssembleConfig


def get_config():
    return AssembleConfig()
