"""The original's state-dict names and layouts to our parameter paths, both ways.

A rule is (regex on the original name, our path, how the array is laid out). In the names, N stands
for a layer number: those arrays are stacked on a leading axis. PyTorch keeps a dense kernel as
[out, in]; ours are [in, out] with heads apart.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping

import numpy as np

from blip_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Layout:
    """How one array changes on its way here (`load`) and back (`save`); h is the head count."""

    load: Callable[[np.ndarray, int], np.ndarray]
    save: Callable[[np.ndarray, int], np.ndarray]


def _split_heads(w: np.ndarray, heads: int) -> np.ndarray:
    return w.reshape(*w.shape[:-1], heads, w.shape[-1] // heads)


SAME = Layout(lambda w, h: w, lambda w, h: w)
DENSE = Layout(lambda w, h: w.T, lambda w, h: w.T)
# [H * K, D] -> [D, H, K]
HEADS = Layout(lambda w, h: _split_heads(w.T, h), lambda w, h: w.reshape(w.shape[0], -1).T)
HEAD_BIAS = Layout(_split_heads, lambda w, h: w.reshape(-1))
# [D, H * K] -> [H, K, D]
MERGE = Layout(
    lambda w, h: w.T.reshape(h, -1, w.shape[0]), lambda w, h: w.reshape(-1, w.shape[-1]).T
)
# The ViT's fused [3 * H * K, D] -> [D, 3, H, K]
QKV = Layout(
    lambda w, h: w.T.reshape(w.shape[1], 3, h, -1), lambda w, h: w.reshape(w.shape[0], -1).T
)
QKV_BIAS = Layout(lambda w, h: w.reshape(3, h, -1), lambda w, h: w.reshape(-1))
# Convolution [D, 3, P, P] -> [P * P * 3, D]
PATCH = Layout(
    lambda w, h: w.transpose(2, 3, 1, 0).reshape(-1, w.shape[0]),
    lambda w, h: w.reshape(round((w.shape[0] // 3) ** 0.5), -1, 3, w.shape[1]).transpose(
        3, 2, 0, 1
    ),
)


def _dense(name: str, path: str, kernel: Layout = DENSE, bias: Layout = SAME) -> list[tuple]:
    return [(f"{name}.weight", f"{path}/kernel", kernel), (f"{name}.bias", f"{path}/bias", bias)]


def _norm(name: str, path: str) -> list[tuple]:
    return [(f"{name}.weight", f"{path}/scale", SAME), (f"{name}.bias", f"{path}/bias", SAME)]


def _vit(name: str, path: str) -> list[tuple]:
    block, ours = f"{name}.blocks.N", f"{path}/blocks"
    return [
        (f"{name}.cls_token", f"{path}/cls", SAME),
        (f"{name}.pos_embed", f"{path}/position", SAME),
        *_dense(f"{name}.patch_embed.proj", f"{path}/patch", PATCH),
        *_norm(f"{block}.norm1", f"{ours}/norm1"),
        *_dense(f"{block}.attn.qkv", f"{ours}/attention/qkv", QKV, QKV_BIAS),
        *_dense(f"{block}.attn.proj", f"{ours}/attention/out", MERGE),
        *_norm(f"{block}.norm2", f"{ours}/norm2"),
        *_dense(f"{block}.mlp.fc1", f"{ours}/mlp_in"),
        *_dense(f"{block}.mlp.fc2", f"{ours}/mlp_out"),
        *_norm(f"{name}.norm", f"{path}/norm"),
    ]


def _med(name: str, path: str, role: str) -> list[tuple]:
    layer, ours = f"{name}.encoder.layer.N", f"{path}/layers/layer"
    own = f"{ours}/{role}_self_attention"
    cross, context = f"{ours}/cross_attention", f"{path}/cross_attention_context"
    embeddings = f"{path}/embeddings"
    rules = [
        (f"{name}.embeddings.word_embeddings.weight", f"{embeddings}/word", SAME),
        (f"{name}.embeddings.position_embeddings.weight", f"{embeddings}/position", SAME),
        *_norm(f"{name}.embeddings.LayerNorm", f"{embeddings}/norm"),
    ]
    for number, part in enumerate(("query", "key", "value")):
        at = f"[{number}]"  # our self-attention holds the three in one array
        rules += [
            (f"{layer}.attention.self.{part}.weight", f"{own}/qkv/kernel{at}", HEADS),
            (f"{layer}.attention.self.{part}.bias", f"{own}/qkv/bias{at}", HEAD_BIAS),
        ]
    return rules + [
        *_dense(f"{layer}.attention.output.dense", f"{own}/out", MERGE),
        *_norm(f"{layer}.attention.output.LayerNorm", f"{own}_norm"),
        *_dense(f"{layer}.crossattention.self.query", f"{cross}/query", HEADS, HEAD_BIAS),
        (f"{layer}.crossattention.self.key.weight", f"{context}/key_kernel", HEADS),
        (f"{layer}.crossattention.self.key.bias", f"{context}/key_bias", HEAD_BIAS),
        (f"{layer}.crossattention.self.value.weight", f"{context}/value_kernel", HEADS),
        (f"{layer}.crossattention.self.value.bias", f"{context}/value_bias", HEAD_BIAS),
        *_dense(f"{layer}.crossattention.output.dense", f"{cross}/out", MERGE),
        *_norm(f"{layer}.crossattention.output.LayerNorm", f"{cross}_norm"),
        *_dense(f"{layer}.intermediate.dense", f"{ours}/ffn_in"),
        *_dense(f"{layer}.output.dense", f"{ours}/ffn_out"),
        *_norm(f"{layer}.output.LayerNorm", f"{ours}/ffn_norm"),
    ]


PARAMETERS = [
    ("temp", "temperature", SAME),
    *_vit("visual_encoder", "vit"),
    *_med("text_encoder", "med", "encoder"),
    *_med("text_decoder.bert", "med", "decoder"),
    *_dense("text_decoder.cls.predictions.transform.dense", "med/lm_head/dense"),
    *_norm("text_decoder.cls.predictions.transform.LayerNorm", "med/lm_head/norm"),
    ("text_decoder.cls.predictions.bias", "med/lm_head/bias", SAME),
    ("text_decoder.cls.predictions.decoder.weight", "med/embeddings/word", SAME),
    ("text_decoder.cls.predictions.decoder.bias", "med/lm_head/bias", SAME),
    *_dense("vision_proj", "vision_proj"),
    *_dense("text_proj", "text_proj"),
    *_dense("itm_head", "itm_head"),
]
MOMENTUM = [
    *_vit("visual_encoder_m", "vit"),
    *_med("text_encoder_m", "med", "encoder"),
    *_dense("vision_proj_m", "vision_proj"),
    *_dense("text_proj_m", "text_proj"),
]
# Constants and what is kept elsewhere (the queue has its own fields).
IGNORED = re.compile(r".*\.position_ids|image_queue|text_queue|queue_ptr|idx_queue|ptr_queue")


def load(tensors: Mapping[str, np.ndarray], heads: Mapping[str, int], rules: list[tuple]) -> dict:
    """Parameters from a state dict.

    Args:
      tensors: by original name; momentum weights and buffers may be among them.
      heads: {"vit": heads of the ViT, "med": of the text transformer}.
      rules: PARAMETERS or MOMENTUM.

    Returns: nested dict of float32 arrays, stacked over layers. Paths that several names fill
      (tied weights) must agree.

    Raises:
      UserError: a name without a rule, or tied weights that differ.
    """
    found: dict[str, dict[tuple[int, int], np.ndarray]] = {}
    others = MOMENTUM if rules is PARAMETERS else PARAMETERS
    for name, tensor in tensors.items():
        match = _match(name, rules)
        if match is None:
            if not IGNORED.fullmatch(name) and _match(name, others) is None:
                raise UserError(f"no place for tensor {name!r}: not a BLIP checkpoint of this kind")
            continue
        path, layout, layer = match
        path, part = _part(path)
        value = layout.load(np.asarray(tensor), heads["vit" if path.startswith("vit") else "med"])
        slots = found.setdefault(path, {})
        if not np.array_equal(slots.setdefault((layer, part), value), value):
            raise UserError(f"tensor {name!r} differs from the one it is tied to")
    tree: dict = {}
    for path, slots in found.items():
        *parents, leaf = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = _stack(slots)
    return tree


def save(params: Mapping, rules: list[tuple]) -> dict[str, np.ndarray]:
    """The state dict of `params`; the inverse of `load`, tied weights under each of their names."""
    tensors = {}
    for name, path, layout in rules:
        path, part = _part(path)
        value = params
        for key in path.split("/"):
            value = value.get(key) if isinstance(value, Mapping) else None
        if value is None:  # a model without this head
            continue
        value = np.asarray(value)
        layered = ".N." in name
        for layer in range(value.shape[0]) if layered else [0]:
            array = value[layer] if layered else value
            array = array if part < 0 else array.take(part, axis=-3)
            tensors[name.replace(".N.", f".{layer}.")] = layout.save(array, 0)
    return tensors


def _match(name: str, rules: list[tuple]) -> tuple[str, Layout, int] | None:
    layer = re.search(r"\.(\d+)\.", name)
    key = name if layer is None else name.replace(layer.group(0), ".N.", 1)
    for pattern, path, layout in rules:
        if pattern == key:
            return path, layout, -1 if layer is None else int(layer.group(1))
    return None


def _part(path: str) -> tuple[str, int]:
    """ "a/qkv[1]" -> ("a/qkv", 1); without brackets the part is -1."""
    match = re.fullmatch(r"(.*)\[(\d)\]", path)
    return (match.group(1), int(match.group(2))) if match else (path, -1)


def _stack(slots: dict[tuple[int, int], np.ndarray]) -> np.ndarray:
    """Joins the parts of a fused array (before the heads axis), then the layers."""
    layers: dict[int, dict[int, np.ndarray]] = {}
    for (layer, part), value in slots.items():
        layers.setdefault(layer, {})[part] = value
    joined = [
        parts[-1] if -1 in parts else np.stack([parts[i] for i in sorted(parts)], axis=-3)
        for _, parts in sorted(layers.items())
    ]
    return np.stack(joined) if -1 not in layers else joined[0]
