"""What to say after an unknown name: "did you mean …?"."""

import difflib
from collections.abc import Iterable, Mapping

# Names that other programs use for the same thing.
SYNONYMS: Mapping[str, str] = {
    "batch": "batch_size",
    "beams": "num_beams",
    "do_sample": "method",
    "epochs": "steps",
    "grad_clip": "clip_norm",
    "gradient_accumulation_steps": "accumulate_steps",
    "learning_rate": "peak_lr",
    "length": "max_length",
    "lr": "peak_lr",
    "max_grad_norm": "clip_norm",
    "max_steps": "steps",
    "num_return_sequences": "num_captions",
    "num_steps": "steps",
    "num_train_steps": "steps",
    "output_dir": "workdir",
    "precision": "dtype",
    "resolution": "image_size",
}


def nearest(name: str, known: Iterable[str]) -> str:
    """Returns the name among `known` that was most likely meant; "" if none is near."""
    known = list(known)
    if SYNONYMS.get(name) in known:
        return SYNONYMS[name]
    return next(iter(difflib.get_close_matches(name, known, 1, cutoff=0.6)), "")


def hint(name: str, known: Iterable[str]) -> str:
    """Returns "did you mean 'x'?", or the list of what is known."""
    known = list(known)
    near = nearest(name, known)
    return f"did you mean {near!r}?" if near else f"known: {', '.join(known)}"
