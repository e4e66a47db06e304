"""Six arms on three seeds, to see what each half of CapFilt does (under an hour on two CPU cores):

    blip-jax bootstrap --config shapes_ablation --workdir runs/shapes_ablation

In addition to the paper's four arms: `random`, as many web texts as the filter keeps but chosen at
random, and `human`, without the web. A seed has a dataset of its own and its own weights.
"""

import dataclasses
import pathlib
import runpy


def get_config():
    shapes = runpy.run_path(str(pathlib.Path(__file__).with_name("shapes.py")))
    return dataclasses.replace(
        shapes["get_config"](),
        title="What each half of CapFilt does, on the Shapes dataset",
        seeds=(0, 1, 2),
        arms=("none", "random", "filter", "captioner", "both", "human"),
    )
