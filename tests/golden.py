"""Holds this code against values of the original PyTorch code.

    python tests/golden.py tests/goldens/features.npz tests/goldens/pretrain_step.npz …

Takes any file of the schema in tests/goldens/README.md; sizes come from its `meta`. Prints the
largest error of each output, relative to its largest magnitude, and exits with 1 past 1e-4.
"""

import argparse
import os
import sys
import traceback

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import numpy as np
from golden_file import Golden
from golden_gradcam import gradcam
from golden_outputs import outputs

TOLERANCE = 1e-4


def without_effect(name: str, array: np.ndarray) -> np.ndarray:
    """bool like `array`: the entries that are biases of attention keys.

    Such a bias adds the same to all scores of a query, and a softmax does not see that: it changes
    no output, and its gradient is zero in exact arithmetic. In floating point it is rounding
    noise, of which AdamW, dividing by its own size, makes steps of up to the learning rate. Two
    programs that add up in another order cannot agree there, so gradients are held to be
    nothing beside their neighbours', and weights are not compared.
    """
    found = np.zeros(array.shape, bool)
    if name.endswith("attn.qkv.bias"):
        found[len(found) // 3 : 2 * len(found) // 3] = True
    elif name.endswith(".self.key.bias"):
        found[:] = True
    return found


def check(golden: Golden) -> dict[str, float]:
    """The relative error of each output of the file, by name."""
    found = gradcam(golden) if "gradcam" in golden.outputs else outputs(golden)
    errors = {}
    for name, want in golden.outputs.items():
        if name.startswith("negative_") or name.endswith("position_ids"):
            continue  # an input of the check, and a constant
        got = np.asarray(found[name], want.dtype)
        assert got.shape == want.shape, f"{name}: shape {got.shape}, not {want.shape}"
        if np.issubdtype(want.dtype, np.integer):
            errors[name] = 0.0 if np.array_equal(got, want) else np.inf
            continue
        scale = np.abs(want).max() or 1.0
        difference = np.asarray(np.abs(got - want))
        noise = without_effect(name, want)
        if name.startswith("grad/") and noise.any():
            beside = name.replace(".key.", ".value.")
            scale = np.abs(golden.outputs[beside]).max()
            difference[noise] = np.maximum(np.abs(got), np.abs(want))[noise]
        elif name.startswith("final/"):
            difference[noise] = 0.0
        errors[name] = float(difference.max() / scale)
    return errors


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", metavar="FILE.npz")
    parser.add_argument("--verbose", action="store_true", help="print every output")
    args = parser.parse_args(argv)
    worst = 0.0
    with jax.default_matmul_precision("highest"):
        for path in args.files:
            try:
                errors = check(Golden(path))
            except Exception:  # the files behind it are still to be held against
                traceback.print_exc()
                print(f"{path}: could not be computed")
                worst = np.inf
                continue
            past = {name: error for name, error in errors.items() if not error <= TOLERANCE}
            shown = errors if args.verbose or len(errors) < 20 else past
            for name, error in shown.items():
                print(f"  {error:9.2e}  {name}")
            name, error = max(errors.items(), key=lambda item: item[1])
            counts = f"{len(errors)} outputs, {len(past)} past 1e-4"
            print(f"{path}: {counts}; largest {error:.2e} ({name})")
            worst = max(worst, error)
    return 0 if worst <= TOLERANCE else 1


if __name__ == "__main__":
    sys.exit(main())
