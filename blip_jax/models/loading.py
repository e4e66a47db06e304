"""Finding a model: workdirs, PyTorch checkpoints, Hugging Face folders and ids."""

import dataclasses
import os
from collections.abc import Mapping, Sequence

from blip_jax.checkpoints import sources
from blip_jax.data.tokenizer import Tokenizer
from blip_jax.models.model import Model
from blip_jax.runtime.arguments import check_arguments


@check_arguments
def load(
    source: str | os.PathLike,
    *,
    image_size: int | None = None,
    dtype: str = "float32",
    tokenizer: Tokenizer | str | None = None,
    quirks: Sequence[str] = (),
    heads: Mapping[str, int] | None = None,
) -> Model:
    """Loads a model to caption, match, answer or embed with.

    Args:
      source: a training's workdir, a checkpoint of the original (`.pth`), or a Hugging Face
        folder, each local or `gs://`; or a Hugging Face id ("Salesforce/blip-itm-base-coco"), which
        may end with a branch, tag or commit ("ORG/NAME@REVISION"). What is fetched is
        printed on stderr and cached; with HF_HUB_OFFLINE=1 nothing is fetched.
      image_size: pixels a side, a multiple of the patch; the position embedding is resized. None:
        the checkpoint's.
      dtype: compute dtype; "bfloat16" halves time and activations on TPUs and GPUs, and gives up
        digits. Parameters stay float32.
      tokenizer: the folder or Hugging Face id of one; None: the checkpoint's own, else
        bert-base-uncased. It is loaded when a text is first read.
      quirks: of `models.QUIRKS`, faults of the original to repeat.
      heads: {"vit": …, "med": …}, attention heads of an original checkpoint of an unusual width.

    Raises:
      UserError: there is no such model, or it is not whole.
    """
    found = sources.read(source, heads=heads, training_state=False)
    found = sources.with_image_size(found, image_size)
    quirks = (*found.config.quirks, *quirks)
    config = dataclasses.replace(found.config, dtype=dtype, quirks=quirks)
    given = found.tokenizer if tokenizer is None else tokenizer
    names = ("model_type", "prompt", "max_length", "trained_on")
    described = {name: getattr(found, name) for name in names}
    return Model(found.params, config, given, **described, name=os.fspath(source))
