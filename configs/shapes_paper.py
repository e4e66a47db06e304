"""The paper's ablations on the Shapes dataset, and whether they come out in the paper's order:

    blip-jax bootstrap --config shapes_paper --workdir runs/shapes_paper

Tables 1 (captioner and filter), 2 (beam search), 3 (one model for both roles), 4 (shared layers),
12 (web texts repeated) and 13 (training continued) of the paper.
"""

import dataclasses
import pathlib
import runpy

from blip_jax.capfilt.bootstrap.paper import ORDERS


def get_config():
    gain = runpy.run_path(str(pathlib.Path(__file__).with_name("shapes_gain.py")))
    arms = dict.fromkeys(arm for order in ORDERS for arm in (order.worse, order.better))
    return dataclasses.replace(
        gain["get_config"](),
        title="The paper's ablations on the harder Shapes dataset",
        arms=tuple(arms),
    )
