"""How a plug-in of CapFilt is named, and what it may return."""

import numpy as np
import pytest

from blip_jax.capfilt import plugins
from blip_jax.capfilt.plugins import Plugin
from blip_jax.runtime.errors import UserError


@pytest.mark.parametrize(
    ("entry", "name", "options"),
    [
        ("a.b:make", "b", {}),
        ("x=a:make", "x", {}),
        ("x=a:make?n=3&t=0.5&on=true&off=False&s=\"7\"", "x",
         {"n": 3, "t": 0.5, "on": True, "off": False, "s": "7"}),
        ("a:make?model=org/name-1&list=a%2Cb", "a", {"model": "org/name-1", "list": "a,b"}),
    ],
)  # fmt: skip
def test_names_and_options(entry, name, options):
    found = plugins.parse(entry)
    assert (found.name, found.options) == (name, options)


@pytest.mark.parametrize("entry", ["runs/a", "x=runs/a", "gs://a/b", "org/name", "m.pth", "a:b/c"])
def test_models_are_no_plugins(entry):
    assert plugins.parse(entry) is None


IMAGES = [np.zeros((2, 3, 3), np.uint8)] * 2
KEYS = ["one", "two"]
TEXTS = [["a"], ["b", "c"]]
CALLS = {
    "captioner": lambda plugin: plugin.captions(KEYS, IMAGES),
    "filter": lambda plugin: plugin.scores(KEYS, IMAGES, TEXTS),
    "extra score": lambda plugin: plugin.image_scores(KEYS, IMAGES),
}


@pytest.mark.parametrize(
    ("role", "result", "message"),
    [
        ("captioner", ["a"], "gave 1 results for 2 images; return one per image"),
        ("captioner", "ab", "gave a value of type str; return a list with one entry per image"),
        ("captioner", None, "gave a value of type NoneType; return a list"),
        ("captioner", ["a", 3], "gave a value of type int for image 'two'; return a string or"),
        ("captioner", [["a"], [b"b"]], "gave a value of type bytes for image 'two'"),
        ("filter", [[0.5], [0.5]], "gave 1 scores for the 2 texts of image 'two'; return a list"),
        ("filter", [0.5, 0.5], "gave 1 scores for the 1 texts of image 'one'; return a list"),
        ("filter", [[0.5], [0.5, 1.5]], "gave a text of image 'two' the score 1.5; return numbers"),
        ("filter", [[0.5], [0.5, "x"]], "gave a value of type str for image 'two'; return numbers"),
        ("filter", [[np.nan], [0.5, 0]], "gave nan for image 'one'; return finite numbers"),
        ("extra score", [1, np.inf], "gave inf for image 'two'; return finite numbers"),
        ("extra score", [[1, 2], [1, 2]], "gave a value of type list for image 'one'; return num"),
        ("extra score", {1: 2, 2: 3}, "gave a value of type dict; return a list with one entry"),
    ],
)
def test_results_that_cannot_be(role, result, message):
    plugin = Plugin(role, "x", "m:f", lambda *unused: result)
    with pytest.raises(UserError) as error:
        CALLS[role](plugin)
    assert str(error.value).startswith(f"{role} plug-in 'x' (m:f) {message}")


def test_numbers_of_any_library_are_taken():
    found = [np.float32([0.25]), iter([np.float64(0.5), 1])]
    plugin = Plugin("filter", "x", "m:f", lambda *unused: [found[0], list(found[1])])
    assert CALLS["filter"](plugin) == [[0.25], [0.5, 1.0]]
    plugin = Plugin("extra score", "x", "m:f", lambda *unused: np.array([-3, 700]))
    assert CALLS["extra score"](plugin) == [-3.0, 700.0]
