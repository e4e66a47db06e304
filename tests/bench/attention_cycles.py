"""Cycles that the TPU compiler schedules for attention, by the kernel and with stored scores.

    python tests/bench/attention_cycles.py [--topology v5p:2x2x1] [image text itm lm]

Needs the `tpu` extra. Of one layer of ViT-B with the texts of 90 pairs; with dropout, and with the
mask of texts. For the kernel: instructions in the body of its loop by the iterations of a core; for
the rest: the estimates that the compiler notes at each fusion. Neither was compared with a chip.
"""

import argparse
import os
import pathlib
import re
import subprocess
import sys
import tempfile

HEADS, WIDTH, RATE = 12, 64, 0.1
CASES = {  # rows, queries, keys; whether there is a mask, and dropout
    "image": (90, 197, 197, False, False),
    "text": (270, 30, 30, True, True),
    "itm": (90, 60, 197, False, True),
    "lm": (90, 30, 197, False, True),
}


def compile_one(case: str, how: str, topology_name: str) -> None:
    """Compiles forward, or forward and backward, of one case; the compiler writes its notes."""
    from blip_jax.train.aot import topology

    topology.prepare()
    import jax
    import jax.numpy as jnp
    import numpy as np
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    from blip_jax.nn import attention, attention_kernel
    from blip_jax.nn.attention_kernel import ContextStack, Inputs

    rows, queries, keys, is_masked, drops = CASES[case]
    mesh = Mesh(np.array(topology.devices(topology_name)[:1]), ("data",))

    def array(dtype, *shape):
        sharding = NamedSharding(mesh, PartitionSpec())
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

    query = array(jnp.bfloat16, rows, queries, HEADS * WIDTH)
    key = array(jnp.bfloat16, rows, keys, HEADS * WIDTH)
    mask = array(jnp.int8, rows, 1, keys) if is_masked else None
    keep = array(jnp.int8, rows, HEADS, queries, keys) if drops else None

    def kernel(query, key, value, mask, keep):
        inputs = Inputs(query, ContextStack(key[None], value[None], 0), None, mask, keep)
        if how.endswith("backward"):
            inputs = inputs._replace(gradient=query)
            return attention_kernel.gradients(inputs, WIDTH, RATE)
        return attention_kernel.attend(inputs, WIDTH, RATE)

    def stored(query, key, value, mask, keep):
        dropout = None if keep is None else lambda x: x * (keep.astype(x.dtype) / (1 - RATE))
        allowed = None if mask is None else mask[:, None] != 0

        def attend(*arrays):
            split = (x.reshape(*x.shape[:2], HEADS, WIDTH) for x in arrays)
            return attention.attend(*split, allowed, dropout).reshape(query.shape)

        if how.endswith("backward"):
            return jax.vjp(attend, query, key, value)[1](query)
        return attend(query, key, value)

    function = kernel if how.startswith("kernel") else stored
    jax.jit(function).lower(query, key, key, mask, keep).compile()


def kernel_cycles(folder: pathlib.Path) -> int:
    """Returns the scheduled instructions of a core: those of the loop, times its iterations."""
    path = next(x for x in folder.glob("*-final_bundles.txt") if "kernel" in x.name)
    first = last = count = 0
    for line in path.read_text("utf-8").splitlines():
        if match := re.match(r"\s*(?:0x)?([0-9a-f]+) LB:", line):
            first = int(match[1], 16)
        match = re.match(r"\s*0x([0-9a-f]+).*, (\d+) /\* loop exit test", line)
        if match:
            last, count = int(match[1], 16), int(match[2])
    return (last - first) * count


def noted_cycles(folder: pathlib.Path) -> int:
    """Returns the sum of the compiler's estimates."""
    path = next(folder.glob("*-hlo-static-bundle-profile.txt"))
    return sum(map(int, re.findall(r'estimated_cycles":"(\d+)"', path.read_text("utf-8"))))


def cycles(case: str, how: str, topology_name: str) -> int:
    with tempfile.TemporaryDirectory() as name:
        flags = f"--xla_jf_dump_to={name} --xla_jf_dump_llo_text=true"
        command = [sys.executable, __file__, "--topology", topology_name, "--compile", how, case]
        environment = {**os.environ, "LIBTPU_INIT_ARGS": flags, "JAX_PLATFORMS": "cpu"}
        subprocess.run(command, check=True, env=environment, stderr=subprocess.DEVNULL)
        count = kernel_cycles if how.startswith("kernel") else noted_cycles
        return count(pathlib.Path(name))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", nargs="*", default=list(CASES))
    parser.add_argument("--topology", default="v5p:2x2x1")
    parser.add_argument("--compile", default="", help="of the processes that it starts")
    args = parser.parse_args()
    if args.compile:
        return compile_one(args.cases[0], args.compile, args.topology)
    print(
        "| attention | forward: kernel | stored | ratio | with backward: kernel | stored | ratio |"
    )
    print("|---|---|---|---|---|---|---|")
    for case in args.cases:
        forward, backward, stored, stored_both = (
            cycles(case, f"{kind} {part}", args.topology)
            for kind in ("kernel", "stored")
            for part in ("forward", "backward")
        )
        both = forward + backward  # the other's backward contains its forward pass
        cells = [f"{forward:,}", f"{stored:,}", f"{stored / forward:.1f}"]
        cells += [f"{both:,}", f"{stored_both:,}", f"{stored_both / both:.1f}"]
        print(f"| {case} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
