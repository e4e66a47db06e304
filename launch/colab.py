# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # BLIP in JAX
#
# Captions, matching, answers, heat maps, fine-tuning on pictures of your own, CapFilt, and
# conversion to PyTorch, in a few minutes on a CPU, GPU or TPU.
#
# Run all cells (*Runtime > Run all*). Nothing is downloaded: a small model is trained here on the
# synthetic Shapes dataset. With `CHECKPOINT` below a released model is loaded, too.

# %% [markdown]
# ## Install
#
# `SOURCE` is what pip installs: the address of the repository, with its owner in place of OWNER, or
# the folder of a checkout, for example on Google Drive. What is installed already is used as it is.
# If pip replaces packages that are loaded, restart the runtime (*Runtime > Restart session*).

# %%
import importlib.util
import os

from IPython import get_ipython

SOURCE = "git+https://github.com/OWNER/blip_jax"  # or a folder, as "/content/blip_jax"

if importlib.util.find_spec("blip_jax") is None:
    wanted = f'-e "{SOURCE}[torch]"' if os.path.isdir(SOURCE) else f'"blip-jax[torch] @ {SOURCE}"'
    get_ipython().run_line_magic("pip", f"install --quiet {wanted}")

import blip_jax

print("blip_jax", blip_jax.__version__)

# %%
import io
import logging
import pathlib
import time

import jax
import numpy as np
import tensorflow_datasets as tfds
from IPython.display import display
from PIL import Image, ImageDraw

from blip_jax import models
from blip_jax.runtime.config import replace

tfds.disable_progress_bar()
logging.getLogger("absl").setLevel(logging.ERROR)
started = time.time()
jax.devices()

# %% [markdown]
# ## Load a released model
#
# `CHECKPOINT` is an id of Hugging Face's hub, a `.pth` file of the original code that you have
# uploaded (folder symbol on the left), or the folder of a training. Left empty, this section does
# nothing.

# %%
CHECKPOINT = ""  # as "Salesforce/blip-image-captioning-base" or "/content/model_base.pth"
PICTURES = []  # paths of uploaded pictures, as ["/content/dog.jpg"]

if CHECKPOINT:
    released = models.load(CHECKPOINT)
    print(released)
    if PICTURES and released.can("caption"):
        display(released.caption(PICTURES))
else:
    print("CHECKPOINT is empty: the sections below use a model that is trained here")

# %% [markdown]
# ## Train a small model
#
# The config `shapes` makes the datasets: pictures with true captions (human), and with texts of
# which half are noise (web). `shapes_tasks` has the settings of its trainings. Here a picture has
# one object, and the trainings are shorter.
#
# The vocabulary is made of all texts that are trained on, those of the questions and of the ten
# pictures below included, so all of these are made first.

# %%
from blip_jax.capfilt.bootstrap.run import prepare_datasets
from blip_jax.cli import config_files
from blip_jax.data.datasets import open_dataset
from blip_jax.data.ingest import IngestConfig
from blip_jax.data.ingest import run as ingest
from blip_jax.data.synthetic.dataset import prepare_dataset

runs = pathlib.Path("runs/colab")
SIDE = 32  # pixels
# fmt: off
CAPTIONED = {  # shapes of PIL, in a square of 64 pixels
    "a house with a red roof": [
        ("rectangle", (16, 30, 48, 58), "moccasin"),
        ("polygon", (10, 30, 32, 10, 54, 30), "crimson"),
    ],
    "a green tree": [
        ("rectangle", (28, 38, 36, 60), "sienna"), ("ellipse", (14, 6, 50, 44), "forestgreen"),
    ],
    "the sun over the sea": [
        ("rectangle", (0, 40, 64, 64), "royalblue"), ("ellipse", (22, 8, 42, 28), "gold"),
    ],
    "a sailing boat": [
        ("polygon", (10, 44, 54, 44, 46, 56, 18, 56), "sienna"),
        ("polygon", (32, 6, 32, 40, 52, 40), "white"),
    ],
    "a smiling face": [
        ("ellipse", (8, 8, 56, 56), "gold"), ("ellipse", (20, 22, 26, 28), "black"),
        ("ellipse", (38, 22, 44, 28), "black"), ("chord", (20, 30, 44, 48, 0, 180), "black"),
    ],
    "a flower with red petals": [
        ("rectangle", (30, 32, 34, 62), "green"), ("ellipse", (22, 4, 42, 24), "red"),
        ("ellipse", (12, 16, 32, 36), "red"), ("ellipse", (32, 16, 52, 36), "red"),
        ("ellipse", (26, 16, 38, 28), "yellow"),
    ],
    "a blue car": [
        ("rectangle", (6, 30, 58, 46), "blue"), ("rectangle", (18, 18, 46, 30), "blue"),
        ("ellipse", (12, 40, 24, 52), "black"), ("ellipse", (40, 40, 52, 52), "black"),
    ],
    "the moon at night": [
        ("rectangle", (0, 0, 64, 64), "midnightblue"), ("ellipse", (30, 8, 54, 32), "white"),
        ("ellipse", (24, 6, 46, 28), "midnightblue"),
    ],
    "a mountain with snow": [
        ("polygon", (2, 60, 32, 8, 62, 60), "dimgray"),
        ("polygon", (22, 26, 32, 8, 42, 26), "white"),
    ],
    "a red balloon": [
        ("line", (32, 36, 32, 62), "black"), ("ellipse", (18, 4, 46, 38), "red"),
    ],
}
# fmt: on


def draw(shapes, background="skyblue"):
    picture = Image.new("RGB", (64, 64), background)
    for name, place, colour in shapes:
        arguments = (place[:4], *place[4:]) if name == "chord" else (place,)
        getattr(ImageDraw.Draw(picture), name)(*arguments, fill=colour)
    return picture.resize((SIDE, SIDE))


def write_folder(folder, pictures):
    """Writes pictures, each with a text file of its name: a folder as `prepare` reads it."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, (text, picture) in enumerate(pictures):
        picture.save(folder / f"{number:02d}.png")
        (folder / f"{number:02d}.txt").write_text(text)


drawn = {text: draw(shapes) for text, shapes in CAPTIONED.items()}
write_folder(runs / "drawn", drawn.items())
ingest(IngestConfig(source=str(runs / "drawn"), workers=1), str(runs / "data_drawn"))

QUESTIONS = ("colour_of_shape", "background", "exists")
questions, _ = config_files.load("shapes:vqa")
questions = replace(
    questions,
    train=2000,
    val=0,
    test=100,
    templates=QUESTIONS,
    **{"world.max_objects": 1},
)
prepare_dataset(questions, str(runs / "data_questions"))

world, _ = config_files.load("shapes")
world = replace(
    world,
    vocabulary_datasets=(str(runs / "data_drawn"), str(runs / "data_questions")),
    world={
        "image_size": SIDE,
        "max_objects": 1,
        "human_images": 2500,
        "web_images": 100,
        "test_images": 200,
    },
)
data = prepare_datasets(world, str(runs))
data

# %% [markdown]
# A training takes a mixture of datasets, and settings: those of `shapes_tasks` with fewer steps. It
# writes checkpoints and metrics to its folder, and when the cell is run again it continues there.

# %%
from blip_jax.capfilt.mixture import write_plain_mixture
from blip_jax.data.mixture import Component
from blip_jax.train.loop import train

settings, _ = config_files.load("shapes_tasks")


def fit(config, name, dataset, **changes):
    """Trains on a dataset and returns the model."""
    mixture = str(runs / f"{name}.json")
    write_plain_mixture(mixture, Component(name, str(dataset)), None, 1.0)
    config = replace(config, tokenizer=data["tokenizer"], log_every=100, **changes)
    train(replace(config, **{"data.mixture": mixture}), str(runs / name))
    return models.load(str(runs / name))


blip = fit(settings.pretraining, "blip", data["human"], steps=500)
blip

# %% [markdown]
# ## Caption
#
# Pictures are paths, bytes, PIL images or arrays. Beam search gives the likeliest caption. As the
# last line of a cell, captions are shown with their pictures and probabilities, those of all tokens
# multiplied.

# %%
test = open_dataset(data["test"], "test")
photos = [test[row]["image"] for row in range(6)]
captions = blip.caption(photos, num_beams=3)
captions

# %%
captions[0].text, captions[0].probability, captions[0].log_probs

# %% [markdown]
# Nucleus sampling gives captions that differ, as CapFilt wants them.

# %%
sampled = blip.captions(photos[:3], top_p=0.9, num_captions=3, seed=1)
sampled

# %% [markdown]
# ## Match a list of texts
#
# P(match) is of the image-grounded encoder (ITM), the cosine of the two separate ones (ITC).

# %%
texts = [test[row]["texts"][0].decode() for row in range(6)]
match = blip.match(photos[0], texts)
match

# %% [markdown]
# The features of pictures and texts have unit length: their product is the similarity.

# %%
similarity = blip.encode_image(photos) @ blip.encode_text(texts).T
columns = {text: similarity[:, column] for column, text in enumerate(texts)}
similarities = models.Table(columns, photos)
similarities

# %% [markdown]
# ## Where the model looks: GradCAM
#
# The attention of each word to the patches of the picture, weighted by the gradient of the score.

# %%
(heat,) = blip.gradcam(photos[0], texts[0])
heat

# %%
heat.picture().resize((256, 256))

# %% [markdown]
# ## Answer questions
#
# A VQA model is fine-tuned from the pre-training, here for three forms of questions.

# %%
vqa = fit(
    settings.vqa.train,
    "vqa",
    runs / "data_questions",
    steps=300,
    **{"init.run": str(runs / "blip")},
)

# %%
from blip_jax.data.fields import questions_of

records = open_dataset(str(runs / "data_questions"), "test")
asked = [questions_of(records[row])[0] for row in range(6)]
answers = vqa.answer([records[row]["image"] for row in range(6)], [x["question"] for x in asked])
answers

# %% [markdown]
# The metrics of the whole test split, with their standard errors. The annotators' words differ
# ("red", "crimson"), so that no answer agrees with all of them.

# %%
from blip_jax.tasks.evaluate import EvaluateConfig, evaluate

metrics = evaluate(
    EvaluateConfig(dataset=str(runs / "data_questions"), task=settings.vqa.train.task), model=vqa
)
metrics

# %% [markdown]
# ## Fine-tune on ten pictures of your own
#
# Ten pictures were drawn above, with captions by hand. For your own, upload a folder in which
# `x.jpg` has its caption in `x.txt`, and give it to `IngestConfig(source=…)`.

# %%
own = fit(
    settings.captioning.train,
    "own",
    runs / "data_drawn",
    steps=100,
    batch_size=20,
    **{"init.run": str(runs / "blip"), "optimizer.schedule.peak_lr": 2e-3},
)
pictures = list(drawn.values())
before, after = blip.caption(pictures), own.caption(pictures)
learnt = models.Table(
    {"by hand": list(drawn), "before": list(map(str, before)), "after": list(map(str, after))},
    pictures,
)
learnt

# %% [markdown]
# ## CapFilt over a folder
#
# A folder of pictures, each with a text from the web: half of the texts are of something else. The
# captioner writes another text for each picture, the filter scores both, and all scores are stored.
# Both are the model trained above; the paper fine-tunes each on human captions.

# %%
from blip_jax.capfilt import assemble
from blip_jax.capfilt.config import AssembleConfig, CapFiltConfig
from blip_jax.capfilt.run import run as capfilt

web = open_dataset(data["web"], "train")
found = [(web[row]["texts"][0].decode(), web[row]["image"]) for row in range(len(web))]
write_folder(runs / "photos", [(text, Image.open(io.BytesIO(image))) for text, image in found])
ingest(IngestConfig(source=str(runs / "photos"), workers=1), str(runs / "data_photos"))

config = CapFiltConfig(dataset=str(runs / "data_photos"), filters="blip", captioners="blip")
model = {"blip": (str(runs / "blip"), blip)}
scores = capfilt(config.scoring(str(runs / "scores")), model, model)

# %% [markdown]
# The threshold applies when texts are selected, so another one needs no inference. What is struck
# out is removed. `assemble.run` writes a mixture to train on, a dataset card, and a page of images.

# %%
selection = AssembleConfig(scores=scores, gallery_images=12)
assemble.run(selection, str(runs / "selected"))
gallery = assemble.gallery(selection)
gallery

# %% [markdown]
# ## Convert to PyTorch
#
# The captioner as a folder that `transformers` loads; `"original"` in place of `"hf"` writes a
# `.pth` file for BLIP's own code. The same captions get the same log-probabilities in both.

# %%
from blip_jax.checkpoints import sources
from blip_jax.data.images import normalize

converted = runs / "own-hf"
if not converted.exists():
    sources.write(sources.read(str(runs / "own")), str(converted), "hf")

if importlib.util.find_spec("torch") is None:
    print("PyTorch is not installed: pip install torch")
else:
    import torch
    import transformers

    pytorch = transformers.BlipForConditionalGeneration.from_pretrained(converted).eval()
    greedy = own.caption(pictures, num_beams=1)
    start = own.tokenizer.prompt(own.prompt)  # ids of [DEC] and of what captions begin with
    differences = []
    for picture, caption in zip(pictures, greedy, strict=True):
        pixels = np.moveaxis(np.asarray(normalize(np.asarray(picture)[None])), -1, 1)
        ids = torch.tensor([[*start, *caption.tokens]])
        with torch.no_grad():
            logits = pytorch(pixel_values=torch.tensor(pixels), input_ids=ids).logits
        log_probs = torch.log_softmax(logits, -1)[0, len(start) - 1 : -1]
        of_tokens = log_probs[range(len(caption.tokens)), caption.tokens.tolist()]
        differences.append(np.abs(of_tokens.numpy() - caption.log_probs).max())
    print(f"largest difference of the log-probabilities: {max(differences):.1g}")

# %% [markdown]
# ## What next
#
# - The full pipeline: `blip-jax bootstrap --config shapes --workdir runs/shapes`, a quarter of an
#   hour on two CPU cores.
# - Your own data: `blip-jax prepare`, then the same cells, or `blip-jax capfilt`.
# - TPU pods: `launch/README.md`. On a TPU or GPU use `models.load(…, dtype="bfloat16")`.
#
# What is shown here is small: pictures of 32 pixels with one object, and a VQA model that knows
# three forms of questions, because each model is trained in a minute.

# %%
print(f"{(time.time() - started) / 60:.1f} minutes")
