"""What this code computes for the golden files of GradCAM."""

import numpy as np
from golden_file import Golden, image
from golden_outputs import Outputs, network

from blip_jax.models import gradcam_maps


def gradcam(golden: Golden) -> Outputs:
    """Heat maps, with zeros at pads and in the rows of the file, and scores."""
    apply, model = network(golden)
    inputs, layer, target = golden.inputs, golden.cfg["layer"], golden.model_type
    tokens = apply("encode_image", image(inputs["image"]))
    prefix = "question_" if target == "vqa" else ""
    mask = golden.mask(f"{prefix}mask")
    arguments = apply, model, tokens, layer, inputs[f"{prefix}ids"], mask
    if target == "vqa":
        answers = inputs["answer_ids"], golden.mask("answer_mask")
        maps, score = gradcam_maps.answer_maps(*arguments, *answers)
        found = {"log_probability": score}
    elif target == "captioner":
        maps, score = gradcam_maps.caption_maps(*arguments)
        found = {"log_probability": score}
    else:
        maps, _ = gradcam_maps.match_maps(*arguments)
        context = apply("image_context", tokens, "encoder")
        found = {"itm_logits": apply("itm_logits", inputs["ids"], mask, context)}
    maps = np.where(mask[..., None], maps, 0)
    if target == "retrieval":  # the second row is the mean of all words
        words = mask.sum(-1)[:, None] - 2
        mean = maps[:, 1:].cumsum(1)[np.arange(len(mask)), words[:, 0] - 1] / words
        maps = np.concatenate([maps[:, :1], mean[:, None], maps[:, 1:]], axis=1)
    return {"gradcam": maps.reshape(golden.outputs["gradcam"].shape), **found}
