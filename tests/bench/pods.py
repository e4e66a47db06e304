"""Compiles the paper's runs for TPU pods and prints the tables of blip_jax/train/README.md.

Needs the `tpu` extra.

    python tests/bench/pods.py presets                 the eight of configs/pretrain.py
    python tests/bench/pods.py weak                    ViT-B, 64 pairs a chip, on 16 to 256 chips
    python tests/bench/pods.py presets vit_b,v5e-64    some of them

Each takes about a minute; a line of JSON each on stderr as they come.
"""

import json
import sys

from blip_jax.train.aot import topology

topology.prepare()

from blip_jax.cli import config_files  # noqa: E402
from blip_jax.cli.compile import format_value  # noqa: E402
from blip_jax.reports import tables  # noqa: E402
from blip_jax.runtime.config import replace  # noqa: E402
from blip_jax.train.aot import compile, optimized  # noqa: E402

PRESETS = [
    f"{model},{machine}"
    for model in ("vit_b", "vit_l")
    for machine in ("v4-32", "v5e-64", "v5p-64", "v6e-64")
]
PODS = ["v5p:2x2x4", "v5p:4x8x8", "v6e:4x4", "v6e:16x16"]
PAIRS = 64  # a chip


def config(name: str):
    return config_files.load(f"pretrain:{name}")[0]


def pod(topology_name: str):
    """ViT-B with PAIRS pairs on each chip, its hard negatives among them."""
    batch_size = PAIRS * topology.chips(topology_name)
    itm = {"group_size": PAIRS}
    return replace(config("vit_b,v5e-64"), batch_size=batch_size, task={"itm": itm})


def row(name: str, run, topology_name: str) -> dict[str, object]:
    chip, _ = topology.parse(topology_name)
    start = {"run": name, "topology": topology_name, "chips": topology.chips(topology_name)}
    try:
        cost = optimized.in_child(compile.compile_program, "step", run, topology_name, False)
    except compile.OutOfMemory as error:
        return {
            **start,
            "peak GiB": f"{format_value(error.peak_bytes / compile.GIB)}: does not fit",
        }
    exchanged = ", ".join(
        f"{collective} {size / 1e6:,.0f}" for collective, size in sorted(cost.ici_bytes.items())
    )
    return {
        **start,
        "pairs a chip": f"{cost.batch_size / cost.chips:g}",
        "arguments GiB": format_value(cost.arguments_bytes / compile.GIB),
        "peak GiB": f"{format_value(cost.peak_bytes / compile.GIB)} of {chip.hbm_gib}",
        "TFLOP (formula)": format_value(cost.flops / 1e12),
        "TFLOP (compiled)": format_value(cost.compiled_flops / 1e12),
        "HBM GB": format_value(cost.hbm_bytes / 1e9),
        "exchanged MB": exchanged,
        "ms": f"{1e3 * cost.roofline.seconds:.0f}, {cost.roofline.limit}",
        "images/s": round(cost.images_per_second),
        "hours": round(run.steps * cost.roofline.seconds / 3600),
    }


def preset(name: str) -> dict[str, object]:
    run = config(name)
    return row(name, run, topology.resolve(run.topology))


def weak(topology_name: str) -> dict[str, object]:
    found = row("vit_b", pod(topology_name), topology_name)
    found.pop("hours", None)  # of a schedule that goes with another batch
    return found


def main(kind: str, *names: str) -> None:
    compiled, usual = {"presets": (preset, PRESETS), "weak": (weak, PODS)}[kind]
    rows = []
    for name in names or usual:
        rows.append(compiled(name))
        print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    print(tables.markdown(rows))


if __name__ == "__main__":
    main(*sys.argv[1:])
