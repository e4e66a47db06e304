"""Holds this code against values of the original PyTorch code.

    python tests/golden.py tests/goldens/features.npz tests/goldens/pretrain_step.npz …

Takes any file of the schema in tests/goldens/README.md; sizes come from its `meta`. Prints the
largest error of each output, relative to its largest magnitude, and exits with 1 past 1e-4.
"""

import argparse
import dataclasses
import json
import os
import sys

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp
import numpy as np
import optax

from blip_jax import losses, models
from blip_jax.convert import original
from blip_jax.train.state import TrainState
from blip_jax.train.step import make_step
from blip_jax.train.tasks.image_text import ImageText, Objectives

TOLERANCE = 1e-4


class Golden:
    """One file: its configuration, its weights as our parameters, inputs and outputs."""

    def __init__(self, path: str):
        with np.load(path, allow_pickle=False) as file:
            self.arrays = {name: file[name] for name in file.files if name != "meta"}
            meta = json.loads(str(file["meta"]))
        self.cfg = cfg = meta["cfg"]
        self.special = meta["special"]
        self.heads = {"vit": cfg["vit"]["heads"], "med": cfg["med"]["heads"]}
        self.tensors = self.part("param/")
        self.inputs, self.outputs = self.part("in/"), self.part("out/")

    def part(self, prefix: str) -> dict[str, np.ndarray]:
        return {k[len(prefix) :]: v for k, v in self.arrays.items() if k.startswith(prefix)}

    def config(self) -> models.BlipConfig:
        vit, med = self.cfg["vit"], self.cfg["med"]
        config = models.BlipConfig(
            vit=models.ViTConfig(image_size=self.cfg["image"], **vit),
            med=models.MedConfig(
                width=med["width"], depth=med["depth"], heads=med["heads"], mlp=med["mlp"],
                vocab=med["vocab"], max_length=med["max_len"], dropout=0.0,
                context_width=vit["width"],
            ),
            embed=self.cfg["embed"],
            dtype="float32",
        )  # fmt: skip
        special = config.med.dec_token, config.med.enc_token
        assert special == (self.special["dec"], self.special["enc"]), "unknown token layout"
        return config

    def params(self) -> dict:
        return original.load(self.tensors, self.heads, original.PARAMETERS)


def image(x: np.ndarray) -> jax.Array:
    """NCHW to NHWC."""
    return jnp.asarray(np.moveaxis(x, -3, -1))


def features(golden: Golden) -> dict[str, np.ndarray]:
    config, params, inputs = golden.config(), {"params": golden.params()}, golden.inputs
    blip, mask = models.Blip(config), inputs["mask"].astype(bool)
    tokens = blip.apply(params, image(inputs["image"]), method="encode_image")
    # The file has no decoder and no heads; unimodal text and the encoder's context suffice.
    context = blip.apply(params, tokens, "encoder", method="context")
    tokens2 = (golden.cfg["image2"] // config.vit.patch) ** 2 + 1
    position = models.resize_position(params["params"]["vit"]["position"], tokens2)
    vit = dataclasses.replace(config.vit, image_size=golden.cfg["image2"])
    larger = dataclasses.replace(config, vit=vit)
    resized = {**params["params"], "vit": {**params["params"]["vit"], "position": position}}
    image2 = image(inputs["image2"])
    return {
        "image": tokens,
        "text": blip.apply(params, inputs["ids"], mask, method="encode_text"),
        "multimodal": blip.apply(params, inputs["ids"], mask, context, method="ground"),
        "pos_embed_resized": position,
        "image_resized": models.Blip(larger).apply(
            {"params": resized}, image2, method="encode_image"
        ),
    }


def pretrain(golden: Golden) -> dict[str, np.ndarray]:
    """`pretrain_step` and `pretrain_trajectory`: the task and the step that training runs."""
    inputs = golden.inputs
    several = inputs["image"].ndim == 5
    if several:
        optimizer = optax.adamw(float(inputs["lr"]), weight_decay=float(inputs["weight_decay"]))
    else:  # moves nothing, and keeps the gradients where they can be read
        optimizer = optax.chain(optax.trace(0.0), optax.scale(0.0))
    config, state = golden.config(), start(golden, optimizer)

    @jax.jit
    def step(state, batch, alpha):
        # alpha is an input of each step here; in training it follows from the step's number.
        cfg = golden.cfg
        names = ("itc", "itm", "lm")
        objectives = Objectives(names, queue=cfg["queue"], negative_group=cfg["batch"], alpha=alpha)
        return make_step(ImageText(config, objectives), optimizer)(state, batch, None)

    lost = []
    for number in range(inputs["image"].shape[0] if several else 1):
        pick = (lambda x, i=number: x[i]) if several else (lambda x: x)
        batch = {
            "image": image(pick(inputs["image"])),
            "ids": pick(inputs["ids"]),
            "mask": pick(inputs["mask"]).astype(bool),
            "negative_image": pick(golden.outputs["negative_image_index"]),
            "negative_text": pick(golden.outputs["negative_text_index"]),
        }
        state, metrics = step(state, batch, pick(inputs["alpha"]))
        lost.append([float(metrics[name]) for name in ("itc", "itm", "lm")])
    momentum = original.save(state.momentum, original.MOMENTUM)
    queues = {
        "image_queue": state.queue.image.T,
        "text_queue": state.queue.text.T,
        "queue_ptr": state.queue.pointer[None],
    }
    if several:
        final = original.save(state.params, original.PARAMETERS) | momentum | queues
        return {"losses": lost, **{f"final/{name}": value for name, value in final.items()}}
    grads = original.save(state.opt_state[0].trace, original.PARAMETERS)
    return {
        **dict(zip(("loss_itc", "loss_itm", "loss_lm"), lost[0], strict=True)),
        **queues,
        **{f"grad/{name}": value for name, value in grads.items()},
        **{f"momentum/{name}": value for name, value in momentum.items()},
    }


def start(golden: Golden, optimizer: optax.GradientTransformation) -> TrainState:
    """The state that the file's weights and queues make."""
    tensors, params = golden.tensors, golden.params()
    size = golden.cfg["queue"]
    queue = losses.Queue(
        tensors["image_queue"].T,
        tensors["text_queue"].T,
        np.full(size, -1, np.int32),
        np.ones(size, bool),
        np.int32(tensors["queue_ptr"][0]),
    )
    momentum = original.load(tensors, golden.heads, original.MOMENTUM)
    params = jax.tree.map(jnp.asarray, params)
    state = TrainState(np.int32(0), params, momentum, queue, optimizer.init(params))
    return jax.tree.map(jnp.asarray, state)


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
    kind = pretrain if "image_queue" in golden.tensors else features
    found = kind(golden)
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
            errors = check(Golden(path))
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
