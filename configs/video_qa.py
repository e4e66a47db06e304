"""Fine-tune for questions about clips, from a VQA run or from a pre-training:

    blip-jax train --config video_qa --workdir runs/video_qa \\
        --config.data.mixture=MIXTURE.json --config.init.run=runs/vqa

The paper only evaluates (`blip-jax evaluate --config evaluate:video_qa`); the settings are those of
VQA at 384 pixels, for MSRVTT-QA.
"""

from blip_jax.train.recipes import video_qa


def get_config():
    return video_qa()
