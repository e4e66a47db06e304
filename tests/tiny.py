"""The smallest model and the batches that the tests of models, steps and shardings share.

Sizes divide by 4 where a mesh axis may cut them: heads, width, MLP, vocabulary.
"""

import jax
import numpy as np

from blip_jax import nn

PAD, CLS, SEP = 0, 2, 3
IMAGE, LENGTH, VOCAB = 16, 7, 32


def config(vit: dict | None = None, med: dict | None = None, **changes) -> nn.BlipConfig:
    """A model 16 wide and 2 deep, of 5 image tokens, without dropout, in float32."""
    vit = {"image_size": IMAGE, "patch_size": 8, "width": 16, "heads": 4, **(vit or {})}
    med = {
        "width": 16, "heads": 4, "mlp_dim": 32, "vocab_size": VOCAB, "max_length": 12,
        **(med or {}),
    }  # fmt: skip
    return nn.preset("tiny", vit=vit, med=med, **{"embed_dim": 8, "scan_unroll": 1, **changes})


def init(config: nn.BlipConfig, seed: int = 0, model_type: str = "pretrain") -> dict:
    """Random parameters of a trained model's sizes, made without compiling anything.

    None are zeros: biases that are 0 would hide a path that leaves them out.
    """
    shapes = nn.param_shapes(config, model_type)
    zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
    start = {"scale": 1.0, "temperature": 0.07, "logit_scale": 2.6592}

    def lift(path, x):
        return x + start.get(path[-1].key, 0.0)

    lifted = jax.tree_util.tree_map_with_path(lift, noisy(zeros, seed, 0.2))
    return jax.tree.map(np.float32, lifted)


def noisy(tree: dict, seed: int, std: float) -> dict:
    """`tree` with independent normal noise on every number but the temperature."""
    rng = np.random.default_rng(seed)
    leaves, structure = jax.tree.flatten(tree)
    moved = [
        np.asarray(x) + std * rng.normal(size=x.shape).astype(np.float32) * (x.ndim > 0)
        for x in leaves
    ]
    return jax.tree.unflatten(structure, moved)


def texts(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """ids int32 [count, LENGTH] and mask bool: [CLS] words [SEP] pads, of different lengths."""
    rng = np.random.default_rng(seed)
    ids = np.full((count, LENGTH), PAD, np.int32)
    for row in range(count):
        words = rng.integers(5, VOCAB - 2, rng.integers(2, LENGTH - 1))
        ids[row, : len(words) + 2] = [CLS, *words, SEP]
    return ids, ids != PAD


def images(count: int, seed: int = 0) -> np.ndarray:
    """float32 [count, S, S, 3], taken as normalised."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, IMAGE, IMAGE, 3)).astype(np.float32)


def batch(count: int, group: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Pairs that bring their hard negatives, drawn within groups of `group`; all are valid."""
    rng = np.random.default_rng(seed)
    ids, mask = texts(count, seed)
    # A step of 1 … group - 1 from its own place: never the pair itself.
    own = np.arange(count) % group
    other = lambda: (own + rng.integers(1, group, count)) % group if group > 1 else own  # noqa: E731
    return {
        "image": images(count, seed),
        "ids": ids,
        "mask": mask,
        "group": np.arange(count, dtype=np.int32),
        "text_group": np.arange(count, dtype=np.int32),
        "valid": np.ones(count, bool),
        "negative_image": other().astype(np.int32),
        "negative_text": other().astype(np.int32),
    }
