"""Initial weights of pre-training: a ViT of an image classifier, and a BERT.

The paper (section 4.1) starts ViT-B from DeiT and ViT-L from the augreg ViT of ImageNet-21k, and
the text transformer from bert-base-uncased; cross-attention is initialised at random.
"""

import re
from collections.abc import Mapping

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from blip_jax import nn
from blip_jax.checkpoints import original
from blip_jax.checkpoints import tensors as tensor_files
from blip_jax.checkpoints.rules import Layout, Rule, load
from blip_jax.runtime.errors import UserError

# Classifier heads of the image models, including DeiT's distillation head.
_CLASSIFIER = re.compile(r"(head|head_dist|pre_logits)[./].*")
_SHAPED = Layout(lambda w, shape: w.reshape(shape), lambda w: w)
# [P, P, 3, D] <-> [P * P * 3, D]
_CONV = Layout(
    lambda w, shape: w.reshape(shape),
    lambda w: w.reshape(round((w.shape[0] // 3) ** 0.5), -1, 3, w.shape[1]),
)
# BERT's other heads; BLIP's text transformer has no token types.
_NOT_TEXT = re.compile(
    r"(bert\.)?(pooler\..*|embeddings\.(position_ids|token_type_embeddings\.weight))"
    r"|cls\.seq_relationship\..*"
)
_NEW_TOKENS = 2  # [DEC] and [ENC]


def augreg() -> list[Rule]:
    """Returns the rules of augreg `.npz` files (google-research/vision_transformer)."""
    block, ours = "Transformer/encoderblock_*", "vit/blocks"
    attention = f"{block}/MultiHeadDotProductAttention_1"
    rules = [
        Rule("cls", "vit/cls"),
        Rule("Transformer/posembed_input/pos_embedding", "vit/position"),
        *_pair("embedding", "vit/patch", _CONV),
        *_pair(f"{attention}/out", f"{ours}/attention/out"),
        *_pair(f"{block}/MlpBlock_3/Dense_0", f"{ours}/mlp_in"),
        *_pair(f"{block}/MlpBlock_3/Dense_1", f"{ours}/mlp_out"),
    ]
    for number, part in enumerate(("query", "key", "value")):
        at, qkv = f"[{number}]", f"{ours}/attention/qkv"
        rules.append(Rule(f"{attention}/{part}/kernel", f"{qkv}/kernel{at}"))
        rules.append(Rule(f"{attention}/{part}/bias", f"{qkv}/bias{at}"))
    norms = {
        f"{block}/LayerNorm_0": f"{ours}/norm1",
        f"{block}/LayerNorm_2": f"{ours}/norm2",
        "Transformer/encoder_norm": "vit/norm",
    }
    for name, path in norms.items():
        rules += [Rule(f"{name}/{part}", f"{path}/{part}") for part in ("scale", "bias")]
    return rules


def _pair(name: str, path: str, kernel: Layout = _SHAPED) -> list[Rule]:
    return [Rule(f"{name}/kernel", f"{path}/kernel", kernel), Rule(f"{name}/bias", f"{path}/bias")]


def load_pretrained_encoders(
    params: Mapping, config: nn.BlipConfig, vit: str = "", text: str = ""
) -> dict:
    """Returns `params` with the ViT and the text transformer replaced by pretrained ones.

    Args:
      params: initial parameters of any model type.
      vit: a DeiT or augreg file in timm's names (.pth, .safetensors) or an augreg `.npz`; "": the
        ViT is not replaced. The position embedding is resized to the model's image size.
      text: a Hugging Face folder or file of a BERT; "": the text transformer is not replaced. The
        embeddings of BLIP's two added tokens, and an LM head that the BERT lacks, are kept.

    Returns: nested dict; replaced leaves are float32 NumPy arrays.

    Raises:
      UserError: a tensor is missing, unknown, or of another shape.
    """
    leaves = flatten_dict(params, sep="/")
    for path, read in ((vit, _vit), (text, _text)):
        if not path:
            continue
        try:
            leaves |= read(path, leaves, config)
        except UserError as error:
            message = str(error)
            raise UserError(message if path in message else f"{path}: {message}") from error
    return unflatten_dict(leaves, sep="/")


def _vit(path: str, leaves: Mapping, config: nn.BlipConfig) -> dict:
    tensors = tensor_files.read(path)
    rules, position = original.vision(""), "pos_embed"
    if "Transformer/posembed_input/pos_embedding" in tensors:
        rules, position = augreg(), "Transformer/posembed_input/pos_embedding"
    like = {name: leaf for name, leaf in leaves.items() if name.startswith("vit/")}
    shape = tensors.shapes.get(position, ())
    if len(shape) == 3:  # any length; `load` rejects another rank
        width = like["vit/position"].shape[-1]
        like["vit/position"] = np.broadcast_to(np.float32(0), (1, shape[1], width))
    found = flatten_dict(
        load(tensors, unflatten_dict(like, sep="/"), rules, _CLASSIFIER.fullmatch), sep="/"
    )
    found["vit/position"] = nn.resize_position_embedding(found["vit/position"], config.vit.tokens)
    return found


def _text(path: str, leaves: Mapping, config: nn.BlipConfig) -> dict:
    tensors = _rename_layer_norms(tensor_files.read(path))
    prefix = "bert." if any(name.startswith("bert.") for name in tensors) else ""
    has_lm_head = any(name.startswith("cls.predictions.") for name in tensors)
    rules: list[Rule] = []
    for role in ("encoder", "decoder"):
        for part in (original.embeddings, original.self_attention, original.feed_forward):
            rules += part(prefix, role, config.med)
    # Encoder and decoder have the same rules for shared parameters.
    rules = list(dict.fromkeys(rules))
    if has_lm_head:
        rules += original.lm_head("cls.predictions.", config.med)
    filled = {rule.path.partition("[")[0] for rule in rules} & leaves.keys()
    like = {name: leaves[name] for name in filled}
    extended = [name for name in filled if name.endswith(("embeddings/word", "lm_head/bias"))]
    for name in extended:
        size, *rest = leaves[name].shape
        like[name] = np.broadcast_to(np.float32(0), (size - _NEW_TOKENS, *rest))

    def ignored(name: str) -> bool:
        unused = name.startswith("cls.predictions.") and "med/lm_head/bias" not in leaves
        return unused or _NOT_TEXT.fullmatch(name) is not None

    found = flatten_dict(load(tensors, unflatten_dict(like, sep="/"), rules, ignored), sep="/")
    for name in extended:
        found[name] = np.concatenate([found[name], np.asarray(leaves[name])[-_NEW_TOKENS:]])
    return found


def _rename_layer_norms(tensors: tensor_files.Tensors) -> tensor_files.Tensors:
    """Renames LayerNorm's gamma and beta, as in the published BERTs, to weight and bias."""
    renamed = {
        re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight",
               re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", name)): name
        for name in tensors
    }  # fmt: skip
    shapes = {new: tensors.shapes[old] for new, old in renamed.items()}
    return tensor_files.Tensors(shapes, lambda name: tensors[renamed[name]])
