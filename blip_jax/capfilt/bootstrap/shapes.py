"""The Shapes datasets of a bootstrap run to which no datasets are given."""

from blip_jax.capfilt.bootstrap.config import BootstrapConfig
from blip_jax.data.synthetic.builder import ShapesConfig
from blip_jax.data.synthetic.scenes import World


def shapes_settings(config: BootstrapConfig, name: str, seed: int) -> ShapesConfig:
    """Returns the settings of a dataset; no two splits share the seed of a scene.

    Args:
      name: "human", "web", "test", or "perfect": the images of "web" with true, full texts.
    """
    world = config.world
    scenes = World(
        image_size=world.image_size,
        cells=world.cells,
        max_objects=world.max_objects,
        shapes=world.shapes,
        colours=world.colours,
        jitter=world.jitter,
    )
    web = {"kind": "web", "train": world.web_images}
    shares = {"noise_share": world.noise_share, "short_share": world.short_share}
    test = {
        config.evaluation.split: world.test_images,
        "captions_per_image": world.test_captions,
    }
    own = {
        "human": {"train": world.human_images, "captions_per_image": world.human_captions},
        "web": web | shares,
        # A scene is drawn before what the shares decide, so that the images are those of "web".
        "perfect": web | dict.fromkeys(shares, 0.0),
        "test": test,
    }[name]
    common = {"kind": "human", "world": scenes, "seed": seed, "language": world.language}
    sizes = {"train": 0, "val": 0, "test": 0}
    return ShapesConfig(**{**common, **sizes, **own})
