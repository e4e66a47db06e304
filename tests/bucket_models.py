"""Models in a bucket: the same captions as from the files they were copied from.

`test_bucket.py` starts it with the bucket's address in the environment, where the libraries look
for it when they are first used.
"""

import sys

import numpy as np
import tiny
from etils import epath

from blip_jax import checkpoints, models
from blip_jax.checkpoints import sources
from blip_jax.data.tokenizer import train_wordpiece
from blip_jax.runtime.errors import UserError


def main(folder: str) -> None:
    words = f"{folder}/words"
    tokenizer = train_wordpiece(["a photo of the colour dog beach"], words, 100)
    config = tiny.config(med={"vocab_size": tokenizer.ids.vocab_size, "max_length": 20})
    params = tiny.init(config, model_type="captioner")
    checkpoint = checkpoints.Checkpoint("captioner", config, params, tokenizer=tokenizer)
    bucket = epath.Path("gs://bucket")
    sources.write(checkpoint, f"{folder}/hf", "hf")
    sources.write(checkpoint, f"{folder}/x.safetensors", "original")
    for file in epath.Path(f"{folder}/hf").iterdir():
        (bucket / "hf" / file.name).write_bytes(file.read_bytes())
    (bucket / "x.safetensors").write_bytes(epath.Path(f"{folder}/x.safetensors").read_bytes())
    sources.write(checkpoint, "gs://bucket/run", "jax")

    image = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    places = [f"{folder}/hf", "gs://bucket/hf", "gs://bucket/x.safetensors", "gs://bucket/run"]
    captions = []
    for source in places:
        own = {"tokenizer": words} if source.endswith(".safetensors") else {}
        (caption,) = models.load(source, **own).caption(image, prompt="a photo")
        captions.append(caption.text)
    assert captions.count(captions[0]) == len(places), captions
    try:
        models.load("gs://bucket/nowhere")
    except UserError as error:
        assert str(error) == "gs://bucket/nowhere does not exist"
    print("equal", captions[0])


if __name__ == "__main__":
    main(sys.argv[1])
