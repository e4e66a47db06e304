"""A worker of peers.py: the pre-training step of BLIP's original code, from a checkout of it.

What the code would download (DeiT, BERT, the vocabulary) is replaced by random numbers and ids, and
torchvision, which timm imports for what is not called, by nothing.
"""

import argparse
import functools
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


class Tokenizer:
    """Gives the same random ids for any text."""

    def __init__(self):
        vars(self).update(bos_token_id=30522, enc_token_id=30523, pad_token_id=0)

    def __len__(self) -> int:
        return 30524

    def __call__(self, texts, **options):
        ids = np.random.default_rng(0).integers(1000, 30_000, (len(texts), TOKENS))
        ids[:, 0], ids[:, -1] = 101, 102
        found = types.SimpleNamespace(
            input_ids=torch.from_numpy(ids), attention_mask=torch.ones_like(torch.from_numpy(ids))
        )
        found.to = lambda device: found
        return found


def load(checkout: pathlib.Path, image_size: int, small: dict):
    """Returns the original's model with random weights."""
    for name in ("torchvision", "torchvision.transforms", "torchvision.transforms.functional"):
        sys.modules[name] = mock.MagicMock()
    sys.path.insert(0, str(checkout))
    from models import blip_pretrain, med, vit

    med_config = json.loads((checkout / "configs" / "bert_config.json").read_text())
    make_vit = functools.partial(vit.VisionTransformer, img_size=image_size, patch_size=16)
    sizes = {"embed_dim": 768, "depth": 12, "num_heads": 12}
    if small:
        sizes = {"embed_dim": small["hidden_size"], "depth": small["num_hidden_layers"]}
        sizes["num_heads"] = small["num_attention_heads"]
        med_config |= small
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
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    torch.manual_seed(0)
    model = load(args.checkout.resolve(), args.image_size, args.small)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, weight_decay=0.05)
    image, first = torch.randn(args.batch, 3, args.image_size, args.image_size), None

    def work():
        nonlocal first
        optimizer.zero_grad()
        losses = model(image, [""] * args.batch, alpha=0.0)
        sum(losses).backward()
        optimizer.step()
        first = first or [loss.item() for loss in losses]

    return work, lambda: {"losses": np.array(first)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkout", type=pathlib.Path)
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--small", type=json.loads, default={}, help="sizes, in place of ViT-B's")
    args = parser.parse_args()
    serve(lambda: step(args))


if __name__ == "__main__":
    main()
