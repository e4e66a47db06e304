"""Choose the texts to train on from stored scores; no model is run, and no image copied:

    blip-jax assemble --config configs/assemble.py --workdir runs/clean \\
        --config.scores=runs/capfilt/scores --config.threshold.web=0.6 --config.best=2

OUT/mixture.json is what training reads, README.md the dataset card, statistics.json its numbers,
and report/index.html shows a sample. `blip-jax export` writes it out for other programs.
"""

from blip_jax.capfilt import assemble


def get_config():
    return assemble.defaults()
