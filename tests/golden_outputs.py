"""What this code computes for a golden file's inputs, under the names of its outputs."""

import dataclasses
import re
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
from golden_file import Golden, image

from blip_jax import losses, nn
from blip_jax.checkpoints import original, rules
from blip_jax.decoding import Decoding
from blip_jax.decoding.logits import process_logits, seen_tokens
from blip_jax.models import functions
from blip_jax.models.model import ANSWER
from blip_jax.models.pmapped import method_caller
from blip_jax.tasks.base import TaskConfig
from blip_jax.tasks.nlvr import NlvrConfig
from blip_jax.tasks.pairs import ItcConfig, ItmConfig, LmConfig
from blip_jax.tasks.pretraining import PretrainingConfig
from blip_jax.tasks.vqa import VqaConfig
from blip_jax.train.state import TrainState
from blip_jax.train.step import make_step

Outputs = dict[str, np.ndarray]
# Moves nothing, and keeps the gradients where they can be read.
STILL = optax.chain(optax.trace(0.0), optax.scale(0.0))
LM = LmConfig()
BEAM = re.compile(r"beam(\d+)_max(\d+)_min(\d+)_rep([\d.]+)")


def outputs(golden: Golden) -> Outputs:
    """All outputs of a file, of whichever type it is."""
    compute = {
        "features": features, "pretrain": pretrain, "captioner": captioner,
        "retrieval": retrieval, "vqa": vqa, "nlvr": nlvr,
    }  # fmt: skip
    return compute[golden.model_type](golden)


def network(golden: Golden, *quirks: str):
    """What `inference.programs` take: a model, and a function that calls a network's method."""
    config, params = golden.config(quirks), golden.weights.params
    apply = method_caller(nn.network(config, golden.model_type), params)
    return apply, SimpleNamespace(config=config, tokenizer=SimpleNamespace(ids=golden.special))


def features(golden: Golden) -> Outputs:
    apply, model = network(golden)
    inputs, mask = golden.inputs, golden.mask()
    tokens = apply("encode_image", image(inputs["image"]))
    context = apply("image_context", tokens, "encoder")
    params, vit = golden.weights.params, model.config.vit
    larger = dataclasses.replace(vit, image_size=golden.cfg["image2"])
    position = nn.resize_position_embedding(params["vit"]["position"], larger.tokens)
    resized = {**params, "vit": {**params["vit"], "position": position}}
    blip = nn.Blip(dataclasses.replace(model.config, vit=larger))
    image2 = image(inputs["image2"])
    return {
        "image": tokens,
        "text": apply("encode_text", inputs["ids"], mask),
        "multimodal": apply("encode_text_with_image", inputs["ids"], mask, context),
        "pos_embed_resized": position,
        "image_resized": blip.apply({"params": resized}, image2, method="encode_image"),
    }


def pretrain(golden: Golden) -> Outputs:
    """`pretrain_step` and `pretrain_trajectory`: the task and the step that training runs."""
    inputs = golden.inputs
    several = inputs["image"].ndim == 5
    optimizer = STILL
    if several:
        optimizer = optax.adamw(float(inputs["lr"]), weight_decay=float(inputs["weight_decay"]))
    names = ("itc", "itm", "lm")
    step, state = stepper(golden, optimizer)
    lost = []
    for number in range(inputs["image"].shape[0] if several else 1):
        pick = (lambda x, i=number: x[i]) if several else (lambda x: x)
        state, metrics = step(state, batch(golden, pick), pick(inputs["alpha"]))
        lost.append([float(metrics[name]) for name in names])
    found = saved(golden, state)
    if several:
        return {"losses": lost, **{f"final/{name}": value for name, value in found.items()}}
    own = rules.source_shapes(golden.weights.params, original.rules("pretrain", golden.config()))
    moved = {f"momentum/{name}": value for name, value in found.items() if name not in own}
    return {**dict(zip(("loss_itc", "loss_itm", "loss_lm"), lost[0], strict=True)),
            **found, **gradients(golden, state), **moved}  # fmt: skip


def retrieval(golden: Golden) -> Outputs:
    """The recipe of the filter, and the scores of the original's blip_itm.py."""
    inputs, mask = golden.inputs, golden.mask()
    options = {"positives": "image", "floor": 0.0, "lm": None}
    step, state = stepper(golden, STILL, **options)
    state, metrics = step(state, batch(golden, lambda x: x), inputs["alpha"])
    apply, _ = network(golden, "cls_for_enc")
    tokens = apply("encode_image", image(inputs["image"]))
    context = apply("image_context", tokens, "encoder")
    aligned = apply("image_features", tokens), apply("text_features", inputs["ids"], mask)
    return {
        "loss_itc": metrics["itc"],
        "loss_itm": metrics["itm"],
        **saved(golden, state),
        **gradients(golden, state),
        "itm_logits": apply("itm_logits", inputs["ids"], mask, context),
        "itc_similarity": aligned[0] @ aligned[1].T,
    }


def stepper(golden: Golden, optimizer, positives="pair", floor=1e-4, lm=LM):
    """A jitted training step, and the state that the file's weights and queues make."""
    model = golden.config()
    size = {"queue_size": golden.cfg["queue"], "alpha_warmup_steps": 0, "positives": positives}

    @jax.jit
    def step(state, batch, alpha):
        # alpha is an input of each step here; in training it follows from the step's number.
        rows, length = batch["ids"].shape
        itc, itm = ItcConfig(alpha=alpha, **size), ItmConfig(group_size=rows, floor=floor)
        task = PretrainingConfig(max_length=length, itc=itc, itm=itm, lm=lm)
        return make_step(task.make(model, golden.special), optimizer)(state, batch, None)

    weights = golden.weights
    params = jax.tree.map(jnp.asarray, weights.params)
    extra = {"momentum": weights.momentum, "queue": weights.queue}
    state = TrainState(np.int32(0), params, extra, optimizer.init(params))
    return step, jax.tree.map(jnp.asarray, state)


def batch(golden: Golden, pick) -> dict[str, jax.Array]:
    """One step's batch with its hard negatives."""
    inputs = golden.inputs
    found = {
        "image": image(pick(inputs["image"])),
        "ids": pick(inputs["ids"]),
        "mask": pick(inputs["mask"]).astype(bool),
        "negative_image": pick(golden.outputs["negative_image_index"]),
        "negative_text": pick(golden.outputs["negative_text_index"]),
    }
    return found | ({"group": inputs["idx"].astype(np.int32)} if "idx" in inputs else {})


def saved(golden: Golden, state: TrainState) -> Outputs:
    """Parameters, momentum weights and queues of a state, under the original's names."""
    extra = state.extra["momentum"], state.extra["queue"]
    weights = original.Weights(*jax.device_get((state.params, *extra)))
    return original.save(weights, golden.config(), golden.model_type)


def gradients(golden: Golden, state: TrainState) -> Outputs:
    found = jax.device_get(state.opt_state[0].trace)
    found = rules.save(found, original.rules(golden.model_type, golden.config()))
    return {f"grad/{name}": value for name, value in found.items()}


def captioner(golden: Golden) -> Outputs:
    apply, model = network(golden)
    inputs, mask, prompt = golden.inputs, golden.mask(), golden.inputs["prompt"].astype(np.int32)
    tokens = apply("encode_image", image(inputs["image"]))
    context = apply("image_context", tokens, "decoder")
    decoding_contexts = apply("decoding_contexts", tokens)
    logits = apply("lm_logits", inputs["ids"], mask, context)
    ids = nn.set_first_token(inputs["ids"], golden.special.dec)
    loss, weight = losses.lm_loss(logits, ids, mask, int(inputs["prompt_length"]))
    so_far = jnp.asarray(inputs["nucleus_context"])
    following = apply("lm_logits", so_far, jnp.ones(so_far.shape, bool), context)[:, -1]
    drawn = Decoding(repetition_penalty=1.1, min_length=6, top_p=0.9)
    seen = seen_tokens(so_far, so_far.shape[1], following.shape[-1])
    params = drawn.params(len(following))
    sep, length = golden.special.sep, jnp.int32(so_far.shape[1])
    allowed = process_logits(following, seen, length, sep, drawn.method, params)
    found = {
        "loss": (loss * weight).sum() / weight.sum(),
        "logits": logits,
        "nucleus_logits": following,
        "nucleus_probs": jax.nn.softmax(allowed, axis=-1),
    }
    for name in golden.outputs:
        if match := BEAM.fullmatch(name):
            beams, longest, least = map(int, match.groups()[:3])
            options = Decoding(
                method="beam", num_beams=beams, max_length=longest, min_length=least,
                repetition_penalty=float(match[4]),
            )  # fmt: skip
            size = options.shape(prompt.shape[1]), options.params(len(prompt))
            written = functions.generate_from_contexts(
                apply, model, decoding_contexts, prompt, None, *size
            )
            found[name] = best(golden, written, name)
            found[f"{name}_score"] = written.score[:, 0]
    return found


def best(golden: Golden, written, name: str) -> np.ndarray:
    """The best texts, as wide as the file has them if nothing but pads is cut."""
    tokens, width = np.asarray(written.tokens[:, 0]), golden.outputs[name].shape[1]
    return tokens[:, :width] if np.all(tokens[:, width:] == golden.special.pad) else tokens


def vqa(golden: Golden) -> Outputs:
    quirks = "smoothed_ranking", "unmasked_question"
    apply, model = network(golden, *quirks)
    inputs, mask = golden.inputs, golden.mask("question_mask")
    tokens = apply("encode_image", image(inputs["image"]))
    states = apply("question_hidden_states", tokens, inputs["question_ids"], mask)
    ids, answer_mask = inputs["answer_ids"], golden.mask("answer_mask")
    candidates = jnp.asarray(inputs["candidate_ids"]), jnp.asarray(golden.mask("candidate_mask"))

    def choose(row: slice, order: np.ndarray) -> np.ndarray:
        some = *(x[order] for x in candidates), jnp.ones(len(order), bool)
        k = int(inputs["k_test"])
        return order[functions.rank_answers(apply, model, states[row], mask[row], some, k)[0]]

    size = ANSWER.shape(1), ANSWER.params(len(mask))
    generated = functions.generate_answers(apply, model, states, mask, *size)
    return {
        "loss": task_loss(
            golden,
            VqaConfig(max_length=mask.shape[1]),
            {
                "image": inputs["image"],
                "ids": inputs["question_ids"],
                "mask": mask,
                **answers_by_question(ids, answer_mask, inputs),
            },
        ),
        "question_states": states,
        "rank": rank(choose, golden.outputs["rank"], len(candidates[0])),
        "generated": best(golden, generated, "generated"),
    }


def answers_by_question(ids, mask, inputs) -> dict[str, np.ndarray]:
    """Answers [N, T] in a row as [B, A, T], where those that a question lacks have weight 0."""
    counts = inputs["answers_per_question"]
    owner = np.repeat(np.arange(len(counts)), counts)
    place = np.concatenate([np.arange(count) for count in counts])
    found = {"answer_ids": ids, "answer_mask": mask, "answer_weight": inputs["answer_weight"]}
    arrays = {}
    for name, values in found.items():
        arrays[name] = np.zeros((len(counts), max(counts), *values.shape[1:]), values.dtype)
        arrays[name][owner, place] = values
    return arrays


def task_loss(golden: Golden, config: TaskConfig, batch: dict[str, np.ndarray]) -> jax.Array:
    """The loss that the task trains on, without dropout."""
    task = config.make(golden.config(), golden.special)
    count = len(batch["ids"])
    batch = jax.tree.map(jnp.asarray, {**batch, "image": image(batch["image"])})
    batch["valid"] = jnp.ones(count, bool)
    params = golden.weights.params
    constants, _ = task.prepare(params, {}, batch, jnp.int32(0), None)
    return task.loss(params, batch, constants, jnp.arange(count), None)[0]


def rank(choose, theirs: np.ndarray, count: int) -> np.ndarray:
    """The chosen candidates, and where equals decide, the original's choice.

    Candidates that begin alike are equally likely in the shortlist, and torch.topk takes any of
    them; the choices of `choose` depend on their order in no other case. So a choice of theirs
    is put first, and what still wins against it last, until that has been last before.
    """
    found = choose(slice(None), np.arange(count))
    for row in np.flatnonzero(found != theirs):
        order, beaten = np.r_[theirs[row], np.delete(np.arange(count), theirs[row])], set()
        while (best := choose(slice(row, row + 1), order)[0]) not in {theirs[row], *beaten}:
            beaten.add(best)
            order = np.r_[order[order != best], best]
        found[row] = theirs[row] if best == theirs[row] else found[row]
    return found


def nlvr(golden: Golden) -> Outputs:
    apply, _ = network(golden)
    inputs, mask = golden.inputs, golden.mask()
    tokens = apply("encode_image", image(inputs["images"]))
    pair = apply("image_contexts", *jnp.split(tokens, 2))
    logits = apply("logits", inputs["ids"], mask, pair)
    pairs = np.stack(np.split(np.asarray(inputs["images"]), 2), axis=1)
    batch = {"image": pairs, "ids": inputs["ids"], "mask": mask, "label": inputs["targets"]}
    loss = task_loss(golden, NlvrConfig(max_length=mask.shape[1]), batch)
    return {"prediction": logits, "loss": loss}
