"""Six arms on three seeds, to see what each half of CapFilt does (under an hour on two CPU cores):

    blip-jax bootstrap --config configs/shapes_ablation.py --workdir runs/shapes_ablation

Beside the paper's four arms: `random`, as many web texts as the filter keeps but chosen by lot, and
`human`, without the web. A seed draws a world of its own and its own weights.
"""

import pathlib
import runpy

from ml_collections import ConfigDict


def get_config():
    demo = runpy.run_path(str(pathlib.Path(__file__).with_name("shapes.py")))
    config = ConfigDict(demo["get_config"]())
    config.title = "What each half of CapFilt does, on the Shapes dataset"
    config.seeds = (0, 1, 2)
    config.arms = ("none", "random", "filter", "captioner", "both", "human")
    return config
