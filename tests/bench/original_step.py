"""A worker of peers.py and gpu.py: the pre-training step of BLIP's original code.

The code is that of a checkout; it needs timm. What it would download (DeiT, BERT, the vocabulary)
is replaced by random numbers and ids; torchvision and fairscale, if they are not there, by nothing;
and what later versions of transformers left out since 4.25 by what this step needs of it.
"""

import argparse
import functools
import importlib.util
import json
import pathlib
import sys
import tempfile
import types
from unittest import mock

import numpy as np
import torch
from turn_taking import serve

TOKENS = 30
LARGE = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16}
# Imported for what the step does not call.
NOT_CALLED = {
    "torchvision": ("torchvision.transforms", "torchvision.transforms.functional"),
    "fairscale": (
        "fairscale.nn", "fairscale.nn.checkpoint", "fairscale.nn.checkpoint.checkpoint_activations",
    ),
}  # fmt: skip


class Tokenizer:
    """Gives the same random ids for any text."""

    def __init__(self):
        vars(self).update(bos_token_id=30522, enc_token_id=30523, pad_token_id=0)

    def __len__(self) -> int:
        return 30524

    def __call__(self, texts, **options):
        ids = np.random.default_rng(0).integers(1000, 30_000, (len(texts), TOKENS))
        ids[:, 0], ids[:, -1] = 101, 102
        found = types.SimpleNamespace(input_ids=torch.from_numpy(ids))
        found.to = lambda device: types.SimpleNamespace(
            input_ids=found.input_ids.to(device),
            attention_mask=torch.ones_like(found.input_ids, device=device),
        )
        return found


def restore_transformers() -> None:
    """Gives `transformers` back what the original uses of it and of no arithmetic."""
    from transformers import modeling_utils, pytorch_utils

    given = {"apply_chunking_to_forward", "prune_linear_layer", "find_pruneable_heads_and_indices"}
    for name in given - set(vars(modeling_utils)):
        setattr(modeling_utils, name, getattr(pytorch_utils, name, None))
    methods = {
        "get_head_mask": lambda self, mask, layers: [None] * layers,
        "init_weights": lambda self: self.apply(self._init_weights),
        "invert_attention_mask": lambda self, mask: (
            (1 - mask[:, None, None, :].to(self.dtype)) * torch.finfo(self.dtype).min
        ),
        "resize_token_embeddings": lambda self, size: None,  # the config has this size
    }
    if not hasattr(modeling_utils.PreTrainedModel, "get_head_mask"):
        for name, method in methods.items():
            setattr(modeling_utils.PreTrainedModel, name, method)


def load(checkout: pathlib.Path, image_size: int, model: str, small: dict):
    """Returns the original's model with random weights."""
    restore_transformers()
    for package, modules in NOT_CALLED.items():
        if not importlib.util.find_spec(package):
            sys.modules |= {name: mock.MagicMock() for name in (package, *modules)}
    sys.path.insert(0, str(checkout))
    from models import blip_pretrain, med, vit

    med_config = json.loads((checkout / "configs" / "bert_config.json").read_text())
    # Defaults of transformers 4.25, and the vocabulary with [DEC] and [ENC].
    med_config |= {"vocab_size": 30524, "chunk_size_feed_forward": 0}
    make_vit = functools.partial(vit.VisionTransformer, img_size=image_size, patch_size=16)
    med_config |= small
    given = {**med_config, **(LARGE if model == "vit_l" else {})}
    sizes = {
        "embed_dim": given["hidden_size"], "depth": given["num_hidden_layers"],
        "num_heads": given["num_attention_heads"],
    }  # fmt: skip
    create = lambda *args: (make_vit(**sizes), sizes["embed_dim"])  # noqa: E731
    fresh = classmethod(lambda cls, name, **given: cls(**given))
    with (
        mock.patch.multiple(blip_pretrain, create_vit=create, init_tokenizer=Tokenizer),
        mock.patch.object(torch.hub, "load_state_dict_from_url", lambda **given: {"model": {}}),
        mock.patch.object(med.BertModel, "from_pretrained", fresh),
        mock.patch.object(med.BertLMHeadModel, "from_pretrained", fresh),
        tempfile.NamedTemporaryFile("w", suffix=".json") as file,
    ):
        json.dump(med_config, file)
        file.flush()
        return blip_pretrain.blip_pretrain(med_config=file.name, image_size=image_size).train()


def step(args):
    """Returns the work, and the losses of the first step."""
    store = torch.distributed.HashStore()
    on_gpu = args.device == "cuda"
    kind = "nccl" if on_gpu else "gloo"
    torch.distributed.init_process_group(kind, store=store, rank=0, world_size=1)
    torch.manual_seed(0)
    torch.set_float32_matmul_precision("high" if args.bf16 else "highest")
    model = load(args.checkout.resolve(), args.image_size, args.model, args.small).to(args.device)
    call = torch.compile(model, backend=args.compile) if args.compile else model
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, weight_decay=0.05)
    shape = args.batch, 3, args.image_size, args.image_size
    image, first = torch.randn(shape, device=args.device), None

    def work():
        nonlocal first
        optimizer.zero_grad()
        with torch.autocast(args.device, torch.bfloat16, enabled=args.bf16):
            losses = call(image, [""] * args.batch, alpha=0.0)
        sum(losses).backward()
        optimizer.step()
        first = first or [loss.item() for loss in losses]
        if on_gpu:
            torch.cuda.synchronize()

    return work, lambda _: {"losses": np.array(first)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkout", type=pathlib.Path)
    parser.add_argument("--model", default="vit_b", help="vit_b, vit_l or, with --small, small")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--small", type=json.loads, default={}, help="sizes, in place of ViT-B's")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--bf16", action="store_true", help="autocast")
    parser.add_argument("--compile", default="", help="by this backend of torch.compile")
    args = parser.parse_args()
    serve(lambda: step(args))


if __name__ == "__main__":
    main()
