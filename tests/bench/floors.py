"""The least time of a step of each preset by formula, beside that of the compiled program.

    python tests/bench/floors.py [vit_b,v5e-64 …]              formulas alone
    python tests/bench/floors.py --compile [vit_b,v5e-64 …]    and a minute or more for each program

Three sums a chip, none of which contains another. Compute: FLOPs by nn/flops.py. The update of the
state: `roofline.update_bytes`. Activations: each matrix product reads its inputs from HBM and
writes its result, forward and backward, in bfloat16 (logits float32); an attention kernel reads
queries, keys, values and the result's gradient, and writes its result or three gradients;
everything else is taken as part of a product that it precedes or follows, and costs nothing. What
the compiler keeps on the chip between two products costs less than that, so a program may move
fewer bytes. Weights are not in the sums: they are read once a pass, 2 bytes each.

Numbers a token and layer, of width D (ViT), D and F (text), N image tokens:

| | forward | backward |
|---|---|---|
| a product from k to n | k + n | 2 (k + n) |
| self-attention | 4 D | 7 D |
| cross-attention of a text of T tokens | 2 D + 2 N D / T | 3 D + 4 N D / T |
"""

import argparse

from blip_jax.train.aot import topology

topology.prepare()

from blip_jax.cli import config_files  # noqa: E402
from blip_jax.reports import tables  # noqa: E402
from blip_jax.train.aot import compile, optimized  # noqa: E402

PRESETS = [
    f"{model},{machine}"
    for model in ("vit_b", "vit_l")
    for machine in ("v4-32", "v5e-64", "v5p-64", "v6e-64")
]
BYTES = 2  # of a bfloat16


def product(k: float, n: float) -> tuple[float, float]:
    """Returns numbers a token that a product moves, forward and backward."""
    return k + n, 2 * (k + n)


def layer(parts: list[tuple[float, float]], remat: str) -> tuple[float, float]:
    """Returns numbers a token of a layer: of a forward pass, and of training it.

    Args:
      parts: of each product and attention, forward and backward.
    """
    forward, backward = (sum(part[i] for part in parts) for i in range(2))
    # "full" computes all again but the last product, whose result is only added; "dots" nothing, as
    # the backward kernel computes its scores itself.
    again = forward - parts[-1][0] if remat == "full" else 0
    return forward, forward + again + backward


def activation_bytes(run) -> float:
    """Returns the bytes a chip of a pre-training step's activations."""
    vit, med, remat = run.model.vit, run.model.med, run.model.remat
    chips = topology.chips(topology.resolve(run.topology))
    tensor = run.mesh.tensor
    pairs = run.batch_size / (chips // tensor)
    v, w, f, n, t = vit.width, med.width, med.mlp_dim, vit.tokens, run.task.max_length
    heads = run.mesh.tensor  # which also splits the inner axis of each product

    def ends(k: float, inner: float) -> tuple[float, float]:
        return product(k, inner / heads)

    own = (4 * v / heads, 7 * v / heads)
    image = [ends(v, 3 * v), own, ends(v, v), ends(v, 4 * v), ends(v, 4 * v)]
    forward, trained = layer(image, remat)
    total = pairs * n * vit.depth * (forward + trained)  # the momentum encoder's pass, and ours
    text = [ends(w, 3 * w), (4 * w / heads, 7 * w / heads), ends(w, w)]
    read = (2 * w / heads + 2 * n * w / t / heads, 3 * w / heads + 4 * n * w / t / heads)
    ffn = [ends(w, f), ends(w, f)]
    forward, trained = layer([*text, *ffn], remat)
    total += pairs * t * med.depth * (forward + trained)  # ITC
    grounded = [*text, ends(w, w), read, ends(w, w), *ffn]
    total += 4 * pairs * t * med.depth * layer(grounded, remat)[1]  # ITM, LM
    total += pairs * n * med.depth * sum(product(v / med.depth, 2 * w / heads))  # context
    logits = BYTES * med.vocab_size / heads  # twice the bytes of others
    total += pairs * t * (sum(product(w, w)) + sum(product(w, logits)) + logits)  # and the loss
    return BYTES * total


def row(name: str, run, whole: bool) -> dict[str, object]:
    place = topology.resolve(run.topology)
    chip, _ = topology.parse(place)
    program = compile.step(run, place)
    compute = program.flops / topology.chips(place) / chip.flops
    update, activations = program.update_bytes, activation_bytes(run)
    bandwidth = chip.hbm_gb_per_second * 1e9
    least = max(compute, (update + activations) / bandwidth)
    found = {
        "preset": name,
        "remat": run.model.remat,
        "ms compute": f"{1e3 * compute:.1f}",
        "GB update": f"{update / 1e9:.2f}",
        "GB activations": f"{activations / 1e9:.1f}",
        "ms of both": f"{1e3 * (update + activations) / bandwidth:.1f}",
        "least ms": f"{1e3 * least:.1f}",
    }
    if whole:
        cost = optimized.in_child(compile.compile_program, "step", run, place, False)
        seconds = cost.roofline.seconds
        found |= {
            "GB compiled": f"{cost.hbm_bytes / 1e9:.1f}",
            "ms compiled": f"{1e3 * seconds:.1f}, {cost.roofline.limit}",
            "by compute": f"{seconds / compute:.2f}",
            "by least": f"{seconds / least:.2f}",
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("presets", nargs="*", default=PRESETS)
    parser.add_argument("--compile", action="store_true")
    args = parser.parse_args()
    rows = []
    for name in args.presets:
        rows.append(row(name, config_files.load(f"pretrain:{name}")[0], args.compile))
        print(rows[-1], flush=True)
    print(tables.markdown(rows))


if __name__ == "__main__":
    main()
