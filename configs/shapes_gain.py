"""Whether CapFilt's synthetic texts gain over filtering alone, on a harder Shapes dataset:

    blip-jax bootstrap --config shapes_gain --workdir runs/shapes_gain

Few human pairs, more shapes and colours, and web texts that mostly leave something out, as on the
web: what a filter alone can keep is little. `perfect` shows how much there is to gain.
"""

import dataclasses
import pathlib
import runpy

from blip_jax.runtime.config import replace


def get_config():
    shapes = runpy.run_path(str(pathlib.Path(__file__).with_name("shapes.py")))
    config = replace(
        shapes["get_config"](),
        world={"human_images": 150, "shapes": 6, "colours": 8, "short_share": 0.9},
        # More steps on so few texts make the captioner worse.
        captioner={
            "steps": 100,
            "optimizer.schedule": {"peak_lr": 5e-4, "warmup_steps": 20},
        },
    )
    return dataclasses.replace(
        config,
        title="CapFilt beside filtering alone, on the harder Shapes dataset",
        seeds=(0, 1, 2, 3, 4),
        arms=("filter", "both", "both_beam", "both_ensemble", "both_beam_round2", "perfect"),
    )
