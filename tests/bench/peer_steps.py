"""The pre-training step that peers.py and others time."""

import sys

import numpy as np
from peer_works import ROOT, SMALL, Task

sys.path[:0] = [str(ROOT)]


def network(task: Task):
    """Returns the config of the network that the task asks for."""
    from blip_jax import nn
    from blip_jax.runtime.config import replace

    size = "large" if task.model == "vit_l" else "base"
    model = nn.preset(size, vit={"image_size": task.image_size}, dtype=task.dtype)
    if task.model != "small":
        return model
    own = {"width": SMALL["hidden_size"], "depth": SMALL["num_hidden_layers"]}
    own["heads"] = SMALL["num_attention_heads"]
    return replace(model, vit=own, med={**own, "mlp_dim": SMALL["intermediate_size"]})


def batch_of(setup) -> dict[str, np.ndarray]:
    """Returns a batch of noise whose texts have all their tokens."""
    spec = setup.task.batch_spec(setup.config.batch_size)
    rng = np.random.default_rng(0)
    ids = rng.integers(1000, setup.tokenizer.ids.vocab_size - 2, spec["ids"].shape).astype(np.int32)
    ids[:, 0], ids[:, -1] = setup.tokenizer.ids.cls, setup.tokenizer.ids.sep
    return {
        "image": rng.integers(0, 256, spec["image"].shape, dtype=np.uint8),
        "ids": ids,
        "mask": np.ones(ids.shape, bool),
        "group": np.arange(len(ids), dtype=np.int32),
        "text_group": np.arange(len(ids), dtype=np.int32),
        "valid": np.ones(len(ids), bool),
    }


def ours(task: Task, **changes):
    """Returns the work, and the losses of the first step and its FLOPs by formula."""
    from blip_jax.data.tokenizer import TokenIds

    return step(network(task), task.batch, TokenIds(), **changes)


def step(model, batch_size: int, tokenizer, **changes):
    """Returns the work, and the losses of the first step and its FLOPs by formula.

    The recipe is that of pre-training; negatives are drawn in the whole batch.
    """
    from blip_jax.runtime import malloc

    malloc.keep_freed_memory()  # as `blip-jax train` does
    import jax

    from blip_jax.runtime.config import replace
    from blip_jax.train import recipes
    from blip_jax.train.mesh import put_batch
    from blip_jax.train.setup import TrainSetup

    settings = {"task.itm.group_size": batch_size, "task.itc.queue_random_init": True, **changes}
    config = replace(recipes.pretraining(), model=model, batch_size=batch_size, **settings)
    setup = TrainSetup(config, tokenizer=tokenizer)
    state, key = setup.init_state(), jax.random.key(0)
    batch = put_batch(batch_of(setup), setup.mesh, batch_size)
    first = None

    def work():
        nonlocal state, first
        state, metrics = setup.functions.step(state, batch, key)
        jax.block_until_ready(state)
        if not first:
            first = {name: float(metrics[name]) for name in ("itc", "itm", "lm")}
            malloc.release_freed_memory()

    return work, lambda _: {
        "losses": np.array(list(first.values())),
        "flops": np.array(float(setup.task.flops(batch_size))),
    }
