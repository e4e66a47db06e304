"""The plug-ins of capfilt/README.md, with tiny random models of transformers, in `capfilt`."""

import sys

import documented
import numpy as np
import pytest
import tiny_dataset

from blip_jax.capfilt import storage
from blip_jax.cli.main import main
from blip_jax.data.datasets import open_dataset
from blip_jax.data.images import decode

torch = pytest.importorskip("torch")

SIDE = 16
TEXT = {"vocab_size": 200, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
        "num_attention_heads": 2}  # fmt: skip
VISION = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "patch_size": 8,
          "num_attention_heads": 2, "image_size": SIDE}  # fmt: skip


@pytest.fixture(scope="module")
def models(world, tmp_path_factory):
    """Folders of the models that the README names by their hub ids."""
    import transformers as hf

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("models")
    tokenizer = hf.BertTokenizer(vocab=f"{world.folder}/tokenizer/vocab.txt")
    size = {"height": SIDE, "width": SIDE}
    pictures = hf.CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size=size)
    ids = {"eos_token_id": tokenizer.sep_token_id, "bos_token_id": tokenizer.cls_token_id}
    clip = hf.CLIPConfig(text_config={**TEXT, **ids}, vision_config=VISION, projection_dim=8)
    git = hf.GitConfig(
        vision_config={**VISION, "initializer_range": 0.5}, **TEXT, **ids, initializer_range=0.5
    )
    labels = {"id2label": {0: "normal", 1: "nsfw"}, "label2id": {"normal": 0, "nsfw": 1}}
    made = {
        "openai/clip-vit-base-patch32": (hf.CLIPModel(clip), hf.CLIPProcessor),
        "microsoft/git-base-coco": (hf.GitForCausalLM(git), hf.GitProcessor),
        "Falconsai/nsfw_image_detection": (
            hf.ViTForImageClassification(hf.ViTConfig(**VISION, **labels)), None,
        ),
    }  # fmt: skip
    for name, (model, processor) in made.items():
        model.save_pretrained(folder / name)
        both = processor(pictures, tokenizer) if processor else hf.ViTImageProcessor(size=size)
        both.save_pretrained(folder / name)
    return folder


@pytest.mark.slow
def test_the_plugins_of_the_documentation(world, models, monkeypatch):
    chapter = "blip_jax/capfilt/README.md", "Plug-ins"
    (models / "mine.py").write_text(documented.code_of(*chapter, "python")[0])
    command = next(x for x in documented.commands() if any("mine:git" in y for y in x.argv))
    options = {x.partition("=")[0]: x.partition("=")[2] for x in command.argv[2:]}
    monkeypatch.chdir(models)  # in which hub ids are folders
    monkeypatch.setattr(sys, "path", [*sys.path])
    argv = ["capfilt", "--workdir=run", f"--config.dataset={world.web}"]
    for name in ("captioners", "filters", "extra_scores"):
        named = options[f"--config.{name}"].split(",")
        argv.append(f"--config.{name}={','.join(x for x in named if 'mine:' in x)}")
    assert main([*argv, "--config.batch_size=1"]) == 0
    table = storage.read("run/scores", "train")
    assert (table.filters, table.extra_names) == (("clip",), ("nsfw",))
    check_clip(models, world, table)
    own = table.where("model", "git")
    assert own.sum() == tiny_dataset.ROWS - 1 and len(set(table.text.filter(own))) > 1
    used = table.where("status", "ok")
    nsfw = table.extra_scores[used, 0]
    assert ((nsfw > 0) & (nsfw < 1)).all() and len(set(nsfw.tolist())) > 9
    argv = ["assemble", "--workdir=chosen", "--config.scores=run/scores"]
    limits = f"minimums=clip={np.nanmedian(table.p_match)}", f"maximums=nsfw={nsfw.mean()}"
    limits += ("thresholds.web=0", "thresholds.synthetic=0")
    assert main([*argv, *(f"--config.selection.{x}" for x in limits)]) == 0


def check_clip(models, world, table):
    """Scores of an image's texts are those of CLIP for this image alone."""
    from transformers import CLIPModel, CLIPProcessor

    path = models / "openai/clip-vit-base-patch32"
    network, processor = CLIPModel.from_pretrained(path).eval(), CLIPProcessor.from_pretrained(path)
    images = open_dataset(world.web, "train")
    for row in (0, 3, tiny_dataset.ROWS - 1):
        texts = table.text.filter(table.row == row).to_pylist()
        picture = decode(images[row]["image"])
        inputs = processor(images=[picture], text=texts, return_tensors="pt", padding=True)
        with torch.no_grad():
            logits = network(**inputs).logits_per_image[0] / network.logit_scale.exp()
        found = table.p_match[table.row == row, 0]
        np.testing.assert_allclose(found, logits.clamp(0, 1), atol=1e-5)
        assert len(texts) == 2
