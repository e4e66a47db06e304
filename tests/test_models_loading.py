"""What loads, and as what; what does not, and why."""

import os
import pathlib
from types import SimpleNamespace

import jax
import numpy as np
import pytest
import tiny_dataset
from network_calls import FILES, refused

from blip_jax import checkpoints, models, nn

SHORT = {"max_length": 14, "min_length": 2, "num_beams": 1}


def texts(model, count):
    """Texts of captions of the first images."""
    return [caption.text for caption in model.caption(FILES[:count], **SHORT)]


@pytest.fixture(scope="module")
def workdir(world, tmp_path_factory):
    """A captioner's, with a prompt."""
    found = tiny_dataset.trained(world, 4, tiny_dataset.PROMPT, "captioner")
    return tiny_dataset.save(found, str(tmp_path_factory.mktemp("workdir")))


@pytest.mark.parametrize("form", [str, pathlib.Path])
def test_a_workdir_is_the_model_that_was_trained(world, workdir, form):
    wanted = tiny_dataset.trained(world, 4, tiny_dataset.PROMPT, "captioner")
    found = models.load(form(workdir))
    assert (found.model_type, found.prompt, found.max_length) == (
        "captioner",
        tiny_dataset.PROMPT,
        24,
    )
    assert found.config == wanted.config and found.image_size == 16
    assert found.tokenizer.ids.vocab_size == world.tokenizer.ids.vocab_size
    jax.tree.map(np.testing.assert_array_equal, found.params, wanted.params)
    if form is str:
        assert texts(found, 3) == texts(wanted, 3)


def test_loading_at_another_size(world, workdir):
    small, large = (models.load(workdir, image_size=size) for size in (None, 32))
    assert (small.image_size, large.image_size) == (16, 32)
    before, after = (np.asarray(x.params["vit"]["position"]) for x in (small, large))
    np.testing.assert_array_equal(after, nn.resize_position_embedding(before, 17))
    assert before.shape == (1, 5, 16)
    for name, leaf in large.params["vit"].items():
        if name != "position":
            jax.tree.map(np.testing.assert_array_equal, leaf, small.params["vit"][name])
    assert len(large.caption(FILES[:2], **SHORT)) == 2
    assert "image_size 20 is not a multiple of patch_size 8" in refused(
        models.load, workdir, image_size=20
    )


def test_loading_with_a_dtype_and_quirks(workdir):
    found = models.load(workdir, dtype="bfloat16", quirks=["cls_for_enc"])
    assert (found.config.dtype, found.config.quirks) == ("bfloat16", ("cls_for_enc",))
    assert {leaf.dtype for leaf in jax.tree.leaves(found.params)} == {np.dtype("float32")}
    half = found.caption(FILES[:3], **SHORT)
    whole = models.load(workdir).caption(FILES[:3], **SHORT)
    pairs = [(one.log_probs[0], two.log_probs[0]) for one, two in zip(half, whole)]
    assert all(0 < abs(one - two) < 0.1 for one, two in pairs)
    assert "'cls'" in refused(models.load, workdir, quirks=["cls"])


def test_a_checkpoint_of_the_original(world, model, tmp_path):
    """Written and loaded: the same captions, and the tokenizer that is given."""
    captioner = model("captioner")
    params = jax.tree.map(np.asarray, captioner.params)
    checkpoint = checkpoints.Checkpoint("captioner", captioner.config, params, prompt="a ")
    checkpoints.write(checkpoint, str(tmp_path / "model.safetensors"), "original")
    found = models.load(tmp_path / "model.safetensors", tokenizer=f"{world.folder}/tokenizer")
    assert (found.model_type, found.prompt) == ("captioner", "a ")
    given = dict(SHORT, prompt="", batch_size=8)
    texts = [[str(x) for x in m.caption(FILES[:3], **given)] for m in (found, captioner)]
    assert texts[0] == texts[1]
    unknown = models.load(tmp_path / "model.safetensors")
    assert "tokenizer=" in refused(unknown.caption, FILES[:3])


def test_a_tokenizer_of_another_vocabulary_is_refused(world, workdir, tmp_path):
    folder = tmp_path / "other"
    folder.mkdir()
    words = pathlib.Path(world.folder, "tokenizer", "vocab.txt").read_text("utf-8").split("\n")
    (folder / "vocab.txt").write_text("\n".join(words[:-3]), "utf-8")
    message = refused(models.load(workdir, tokenizer=str(folder)).caption, FILES[:1])
    size = world.tokenizer.ids.vocab_size
    assert message.startswith(f"the tokenizer {folder} has {size - 2} tokens, the model {size};")
    given = type(world.tokenizer).load(str(folder))
    message = refused(models.load(workdir, tokenizer=given).caption, FILES[:1])
    assert message.startswith(f"the tokenizer has {size - 2} tokens, the model {size};")


def test_what_is_no_model(tmp_path, workdir):
    missing = str(tmp_path / "model.pth")
    assert refused(models.load, missing) == f"{missing} does not exist"
    for name in ("text.pth", "text.safetensors", "text.bin"):
        file = tmp_path / name
        file.write_text("not a checkpoint")
        assert str(file) in refused(models.load, file)
    (tmp_path / "empty").mkdir()
    assert str(tmp_path / "empty") in refused(models.load, tmp_path / "empty")
    os.makedirs(tmp_path / "untrained" / "checkpoints")
    assert str(tmp_path / "untrained") in refused(models.load, tmp_path / "untrained")
    assert "no-such/model-id" in refused(models.load, "no-such/model-id")


@pytest.mark.parametrize("online", [True, False])
def test_a_hugging_face_id(world, model, tmp_path, monkeypatch, online):
    """Of two formats of the same weights one is fetched; offline, what was fetched before."""
    import huggingface_hub

    own = model("captioner")
    written = checkpoints.Checkpoint("captioner", own.config, own.params, tokenizer=world.tokenizer)
    checkpoints.write(written, str(tmp_path / "snapshot"), "hf")
    asked = []

    def model_info(self, name, **options):
        if not online:
            raise huggingface_hub.errors.OfflineModeIsEnabled("offline")
        files = "config.json", "model.safetensors", "pytorch_model.bin"
        siblings = [SimpleNamespace(rfilename=file, size=9) for file in files]
        return SimpleNamespace(siblings=siblings, sha="0" * 40)

    def download(name, allow_patterns, ignore_patterns=None, local_files_only=False, revision=None):
        asked.append((name, "*.safetensors" in allow_patterns, ignore_patterns, local_files_only))
        return str(tmp_path / "snapshot")

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", model_info)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    found = models.load("team/captioner")
    assert asked == [("team/captioner", True, ["*.bin"] if online else None, not online)]
    assert texts(found, 2) == texts(own, 2)


@pytest.mark.parametrize(
    "error, message",
    [
        ("GatedRepoError", "access to team/nothing is restricted"),
        ("RepositoryNotFoundError", "team/nothing is neither a local path nor a model on"),
        (
            "OfflineModeIsEnabled",
            "team/nothing is not a local path, and Hugging Face cannot be reached",
        ),
    ],
)
def test_a_hugging_face_id_that_cannot_be_loaded(monkeypatch, error, message):
    import huggingface_hub
    from huggingface_hub import errors

    kind = getattr(errors, error)

    def model_info(self, name, **options):
        raise kind.__new__(kind)  # its arguments differ among versions

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", model_info)
    assert refused(models.load, "team/nothing").startswith(message)


def test_a_bare_name_suggests_a_published_model():
    assert "did you mean Salesforce/blip-vqa-base?" in refused(models.load, "blip-vqa-bas")
