"""False texts made of true ones by exchanging words, and ITM with them as negatives."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from step_fixture import GROUP, PAIRS, STILL, make_batch, make_state, make_task

from blip_jax.data.datasets import open_dataset, to_text
from blip_jax.data.mixture import Component
from blip_jax.data.perturbed_texts import WordClasses
from blip_jax.data.pipeline import train_batches
from blip_jax.data.synthetic.builder import ShapesConfig, prepare
from blip_jax.data.synthetic.languages import LANGUAGES
from blip_jax.data.synthetic.oracle import check
from blip_jax.data.synthetic.scenes import World, describe, sample_scene
from blip_jax.data.text import CLEANUPS
from blip_jax.data.tokenizer import Tokenizer
from blip_jax.data.tokenizer_training import train_tokenizer
from blip_jax.runtime.errors import UserError
from blip_jax.tasks.pairs import ItmConfig
from blip_jax.tasks.pretraining import PretrainingConfig

COLOURS = {"red": "scarlet", "blue": "navy", "green": "emerald"}
THINGS = {"dog": "hound", "cat": "kitten", "cow": "ox"}


def three_texts_each():
    """Each image has two texts in one choice of words, and one in their synonyms."""
    for colours in COLOURS.items():
        for things in THINGS.items():
            for colour, thing in itertools.product((0, 1), repeat=2):
                usual = f"{colours[colour]} {things[thing]}"
                synonyms = f"{colours[1 - colour]} {things[1 - thing]}"
                yield f"a {usual} on grass", f"grass under the {usual}", f"a {synonyms} on grass"


def test_classes_have_other_meanings_and_no_synonyms():
    classes = WordClasses.learn(three_texts_each())
    assert set(classes["red"]) == {"blue", "navy", "green", "emerald"}
    assert set(classes["navy"]) == {"red", "scarlet", "green", "emerald"}
    assert set(classes["dog"]) == {"cat", "kitten", "cow", "ox"}
    # Every text has these words, whatever its image.
    assert not {"a", "on", "under", "grass"} & set(classes)


def test_one_word_is_exchanged_or_two_are_swapped():
    classes = WordClasses({"red": ["blue"], "blue": ["red"], "dog": ["cat", "cow"]})
    rng = np.random.default_rng(0)
    found = {classes.perturb("a red dog and a blue ball", rng) for _ in range(200)}
    assert found == {
        "a blue dog and a blue ball",
        "a red dog and a red ball",
        "a blue dog and a red ball",
        "a red cat and a blue ball",
        "a red cow and a blue ball",
    }
    assert classes.perturb("nothing of it", rng) == ""
    assert classes.perturb("", rng) == ""
    once, again = (classes.perturb("a red dog", np.random.default_rng(3)) for _ in range(2))
    assert once == again


@pytest.mark.parametrize("name", ["english", "japanese"])
def test_perturbed_texts_of_shapes_are_false(name):
    language, world = LANGUAGES[name], World(max_objects=2, shapes=6, colours=8)
    clean = CLEANUPS["blip" if name == "english" else "unicode"].caption
    scenes = [sample_scene(np.random.default_rng([1, n]), world) for n in range(400)]
    texts = [
        [clean(describe(scene, np.random.default_rng([2, n, k]), language=language))
         for k in range(2)]
        for n, scene in enumerate(scenes)
    ]  # fmt: skip
    classes = WordClasses.learn(texts)
    rng = np.random.default_rng(4)
    made = [classes.perturb(first, rng) for first, _ in texts]
    assert all(made)
    judged = [check(text, scene, language) for text, scene in zip(made, scenes, strict=True)]
    assert np.mean([found.true for found in judged]) < 0.02
    if name == "english":  # whole words: the texts stay of the grammar
        complete = np.mean([found.num_claims >= 5 for found in judged])
        assert complete > 0.98


def perturbed_task(**changes):
    return make_task(itm={"group_size": GROUP, "perturbed_share": 0.5}, **changes)


def metrics_of(task):
    """A function of a batch to the metrics of the losses, compiled once."""
    state = jax.tree.map(jnp.asarray, make_state(task, STILL))

    @jax.jit
    def metrics(batch):
        constants, _ = task.prepare(state.params, state.extra, batch, state.step, None)
        return task.loss(state.params, batch, constants, jnp.arange(PAIRS), None)[1]

    return lambda batch: jax.device_get(metrics(batch))


def with_perturbed(batch, rows, ids, mask):
    """The batch with perturbed texts `ids`, `mask` in some rows."""
    given = np.isin(np.arange(PAIRS), rows)[:, None]
    return batch | {"perturbed_ids": ids, "perturbed_mask": mask & given}


def test_a_perturbed_text_takes_the_place_of_a_drawn_one():
    batch, metrics = make_batch(), metrics_of(perturbed_task())
    wanted = metrics_of(make_task())(batch)
    ids, mask = tiny.texts(PAIRS, seed=9)
    # Where no text is perturbed, and where it is the text that would be drawn, nothing changes.
    place = np.arange(PAIRS) // GROUP * GROUP + batch["negative_text"]
    drawn = batch["ids"][place], batch["mask"][place]
    usable = [n for n in range(PAIRS) if n not in (2, 3, 6, 7)]  # these have no drawn negative
    for same in (
        with_perturbed(batch, [], ids, mask),
        with_perturbed(batch, usable, *drawn),
    ):
        found = metrics(same)
        assert {k: pytest.approx(v, abs=1e-6) for k, v in wanted.items()} == found
    found = metrics(with_perturbed(batch, usable, ids, mask))
    assert found["itm"] != pytest.approx(wanted["itm"], abs=1e-4)
    assert found["itc"] == pytest.approx(wanted["itc"], abs=1e-6)
    assert found["lm"] == pytest.approx(wanted["lm"], abs=1e-6)


def test_a_perturbed_text_counts_where_no_other_can_be_drawn():
    """Groups of one pair have no negatives but these; the mean is over two decisions a pair."""
    metrics = metrics_of(make_task(itm={"group_size": 1, "perturbed_share": 1.0}, lm=None))
    batch = make_batch() | {
        "valid": np.ones(PAIRS, bool),
        "group": np.arange(PAIRS, dtype=np.int32),
    }
    own = batch["ids"], batch["mask"]
    # The pair's own text, called a negative: of two decisions on the same logits one is right.
    all_own = metrics(with_perturbed(batch, range(PAIRS), *own))
    assert all_own["itm_accuracy"] == pytest.approx(0.5, abs=1e-6)
    half = metrics(with_perturbed(batch, range(PAIRS // 2), *own))
    none = metrics(with_perturbed(batch, [], *own))
    assert min(all_own["itm"], none["itm"]) < half["itm"] < max(all_own["itm"], none["itm"])


@pytest.fixture(scope="module")
def datasets(tmp_path_factory):
    """Folders of human and web pairs, and of a tokenizer of their texts."""
    folder = tmp_path_factory.mktemp("perturbed")
    human, web = (
        prepare(str(folder), ShapesConfig(kind=kind, train=80, val=0, test=0))
        for kind in ("human", "web")
    )
    texts = [to_text(t) for row in open_dataset(human, "train") for t in row["texts"]]
    train_tokenizer(texts, str(folder / "tokenizer"), 400)
    return human, web, Tokenizer.load(str(folder / "tokenizer"))


def task_on(tokenizer, share):
    config = PretrainingConfig(max_length=20, lm=None, itm=ItmConfig(perturbed_share=share))
    return config.make(tiny.config(med={"vocab_size": 400, "max_length": 24}), tokenizer)


def test_batches_hold_perturbed_texts_for_their_share(datasets):
    human, _, tokenizer = datasets
    components = [Component("human", human, "train")]
    for share, least, most in ((0.5, 0.3, 0.7), (1.0, 1.0, 1.0)):
        task = task_on(tokenizer, share)
        task.read_training_data(components)
        batch = next(train_batches(components, task, 64))
        spec = task.batch_spec(64)
        assert {k: (v.shape, v.dtype) for k, v in spec.items()} == {
            k: (v.shape, v.dtype) for k, v in batch.items() if k != "skip_reason"
        }
        given = batch["perturbed_mask"].any(-1)
        assert least <= given.mean() <= most
        words, others = (
            [text.split() for text in tokenizer.decode(batch[name][given])]
            for name in ("ids", "perturbed_ids")
        )
        for before, after in zip(words, others, strict=True):
            assert len(before) == len(after)
            assert sum(a != b for a, b in zip(before, after, strict=True)) in (1, 2)
    assert "perturbed_ids" not in task_on(tokenizer, 0.0).batch_spec(64)


def test_what_cannot_be_perturbed_is_refused(datasets):
    _, web, tokenizer = datasets
    task = task_on(tokenizer, 0.5)
    with pytest.raises(UserError, match="perturbed_share needs images with several texts"):
        task.read_training_data([Component("web", web, "train")])
    task_on(tokenizer, 0.0).read_training_data([Component("web", web, "train")])
    with pytest.raises(UserError, match="task.itm.perturbed_share is 1.5"):
        task_on(tokenizer, 1.5)
