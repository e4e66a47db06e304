"""METEOR and SPICE of pycocoevalcap, which run in Java."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile

from blip_jax.metrics import uncertainty
from blip_jax.metrics.captioning import tokenized
from blip_jax.metrics.uncertainty import Estimate

# pycocoevalcap downloads them, half a gigabyte, without asking.
_SPICE_JARS = ("stanford-corenlp-3.6.0.jar", "stanford-corenlp-3.6.0-models.jar")
_VERSIONS = {"meteor": "Java 7 or newer", "spice": "Java 8"}
# In a process of its own: what Java prints stays off the terminal, and a Java that dies ends it.
_PROGRAM = """
import importlib, json, sys
module, name, path = sys.argv[1:]
truth, found = json.load(sys.stdin)
scorer = getattr(importlib.import_module(module), name)()
score, scores = scorer.compute_score(truth, found)
with open(path, "w") as file:
    json.dump([float(score), scores], file)
"""


def java_caption_scores(
    hypotheses: list[str], references: list[list[str]]
) -> tuple[dict[str, Estimate], dict[str, str]]:
    """Returns METEOR and SPICE in percent, and of each that could not be computed the reason.

    Java takes ten seconds or more to start. Words are those of `caption_scores`. METEOR is computed
    of statistics over the whole corpus, which the library does not give out, and has no standard
    error; SPICE is a mean over images. SPICE needs Java 8 and Stanford CoreNLP 3.6.0.

    Args:
      hypotheses, references: as for `caption_scores`.

    Returns:
      Scores 'meteor' and 'spice', as far as they could be computed ({} without images), and the
      reasons of the others, one line each.

    Raises:
      UserError: as `captioning.tokenized`.
    """
    words, reference_words = tokenized(hypotheses, references)
    scores: dict[str, Estimate] = {}
    reasons: dict[str, str] = {}
    if not words:
        return scores, reasons
    # "|" separates texts on the way to METEOR. Of equally long keys the order is that of numbers.
    keys = [f"{i:09d}" for i in range(len(words))]
    found = {key: [_without_bars(text)] for key, text in zip(keys, words)}
    truth = {key: list(map(_without_bars, texts)) for key, texts in zip(keys, reference_words)}
    for name in _VERSIONS:
        reason = _missing(name)
        if not reason:
            try:
                scores[name] = _score(name, truth, found)
            except (OSError, ValueError) as error:
                reason = str(error)
        if reason:
            reasons[name] = reason
    return scores, reasons


def _missing(name: str) -> str:
    """Returns what a metric lacks and how to get it; "" if nothing."""
    if shutil.which("java") is None:
        return "java is not on the PATH; install a Java runtime"
    if importlib.util.find_spec("pycocoevalcap") is None:
        return 'pycocoevalcap is missing; pip install "blip-jax[metrics]"'
    if name == "spice":
        folder = importlib.util.find_spec("pycocoevalcap.spice").submodule_search_locations[0]
        for jar in _SPICE_JARS:
            if not os.path.exists(os.path.join(folder, "lib", jar)):
                return (
                    f"{jar} is missing; download it with "
                    "python -m pycocoevalcap.spice.get_stanford_models"
                )
    return ""


def _score(name: str, truth: dict[str, list[str]], found: dict[str, list[str]]) -> Estimate:
    """Returns a metric in percent.

    Raises:
      ValueError: the metric failed; the message holds the line of its output that says most.
    """
    module, scorer = f"pycocoevalcap.{name}.{name}", name.capitalize()
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "scores.json")
        done = subprocess.run(
            [sys.executable, "-c", _PROGRAM, module, scorer, path],
            input=json.dumps([truth, found]),
            capture_output=True,
            text=True,
        )
        if done.returncode or not os.path.exists(path):
            raise ValueError(f"it failed ({_failure(done)}); it needs {_VERSIONS[name]}")
        with open(path) as file:
            score, scores = json.load(file)
    error = None
    if name == "spice":
        error = uncertainty.mean([entry["All"]["f"] for entry in scores], 100).standard_error
    return Estimate(100 * score, len(found), error)


def _failure(done: subprocess.CompletedProcess) -> str:
    """Returns the first line of the output that names an exception of Java, or else the last."""
    lines = [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    named = [line for line in lines if line.startswith("Exception in")]
    return (named or lines[-1:] or [f"status {done.returncode}"])[0]


def _without_bars(text: str) -> str:
    return " ".join(text.replace("|", " ").split())
