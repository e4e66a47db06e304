"""Caption metrics with the reference implementations of the COCO caption challenge."""

import importlib
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from blip_jax.data.text import clean_caption, has_other_scripts, split_units, unicode_caption
from blip_jax.metrics import uncertainty
from blip_jax.metrics.uncertainty import Estimate
from blip_jax.runtime.errors import UserError
from blip_jax.runtime.extras import check_installed

# Punctuation that the COCO challenge's PTB tokenizer drops and the original's clean-up keeps.
_PUNCTUATION = re.compile(r"[,?`]|(?<!\w)['-]+|['-]+(?!\w)")
_OTHER_PUNCTUATION = re.compile("[、・،؛؟՞…]")  # the same of other scripts
_NO_LIMIT = 10_000  # words; so large that captions are not truncated before they are scored

Score = Callable[[list[str], list[list[str]]], dict[str, float]]


def caption_scores(hypotheses: list[str], references: list[list[str]]) -> dict[str, Estimate]:
    """Returns corpus BLEU-4, CIDEr and ROUGE-L in percent, as in papers.

    Tokens are the words of the cleaned lower-case text without punctuation. The challenge uses
    the PTB tokenizer (Java); it differs in contractions, so expect the last digit to move. In
    scripts without blanks between words (Chinese, Japanese, Thai …) each grapheme is a word, as in
    sacreBLEU's tokenizer for Chinese and in papers on Chinese captions.
    CIDEr weights words by how rare they are in the references of all images: it is 0 for one
    image, and values can be compared on the same test set only.

    The examples of standard errors are images. CIDEr and ROUGE-L are means over images; for CIDEr's
    standard error the weights of words are taken as fixed. BLEU-4 is a function of counts summed
    over images, and has its standard error from resampling them.

    Args:
      hypotheses: one caption for each image.
      references: one or more captions for each image, in the same order.

    Returns:
      'bleu4', 'cider' and 'rouge_l'; nan each if there are no images. CIDEr can exceed 100.

    Raises:
      UserError: pycocoevalcap is missing, lists of different lengths, an image without references,
        a string where a list belongs.
    """
    bleu_scorer, cider = _scorer("bleu.bleu_scorer", "BleuScorer"), _scorer("cider.cider", "Cider")
    rouge = _scorer("rouge.rouge", "Rouge")
    words, reference_words = tokenized(hypotheses, references)
    if not words:
        return {name: Estimate(np.nan, 0) for name in ("bleu4", "cider", "rouge_l")}
    found = {i: [text] for i, text in enumerate(words)}
    truth = dict(enumerate(reference_words))
    scorer = bleu_scorer(n=4)
    for i, text in enumerate(words):
        scorer += (text, truth[i])
    bleu = uncertainty.of_sums([_bleu_counts(counts) for counts in scorer.ctest], _bleu4)["bleu4"]
    value = scorer.compute_score(option="closest")[0][3]
    return {
        "bleu4": Estimate(100 * value, bleu.n, bleu.standard_error),
        "cider": uncertainty.mean(cider().compute_score(truth, found)[1], scale=100),
        "rouge_l": uncertainty.mean(rouge().compute_score(truth, found)[1], scale=100),
    }


def cider_by_caption(hypotheses: list[str], references: list[list[str]]) -> np.ndarray:
    """Returns CIDEr of each caption, float64 [N]; `caption_scores` has 100 times their mean.

    Raises:
      UserError: as `caption_scores`.
    """
    words, reference_words = tokenized(hypotheses, references)
    if not words:  # a model that writes no captions needs no metrics of them
        return np.zeros(0)
    cider = _scorer("cider.cider", "Cider")
    found = {i: [text] for i, text in enumerate(words)}
    return np.asarray(cider().compute_score(dict(enumerate(reference_words)), found)[1])


def _scorer(module: str, name: str) -> Any:
    """Returns a class of pycocoevalcap; raises a UserError if that is not installed."""
    check_installed("metrics", "pycocoevalcap")
    return getattr(importlib.import_module(f"pycocoevalcap.{module}"), name)


def scores_by_domain(
    score: Score, hypotheses: list[str], references: list[list[str]], domains: Sequence[str]
) -> dict[str, float]:
    """Returns the scores of all images, and of each domain, as for NoCaps.

    Each domain is scored as a test set of its own, so CIDEr's weights are of its own references.

    Args:
      score: such as `caption_scores`.
      hypotheses, references: see there.
      domains: of each image; NoCaps has "in-domain", "near-domain" and "out-domain".

    Returns:
      What `score` returns, and DOMAIN/NAME of each domain, in alphabetical order: 'cider',
      'in-domain/cider'.

    Raises:
      UserError: not one domain for each image; and as `score`.
    """
    if len(domains) != len(hypotheses):
        raise UserError(
            f"{len(hypotheses)} captions, but {len(domains)} domains: give one for each image"
        )
    scores = dict(score(hypotheses, references))
    for domain in sorted(set(domains)):
        rows = [i for i, other in enumerate(domains) if other == domain]
        part = score([hypotheses[i] for i in rows], [references[i] for i in rows])
        scores |= {f"{domain}/{name}": value for name, value in part.items()}
    return scores


def tokenized(
    hypotheses: list[str], references: list[list[str]]
) -> tuple[list[str], list[list[str]]]:
    """Returns captions and references as words separated by single spaces.

    References without a word are left out.

    Raises:
      UserError: lists of different lengths, an image without references, a string where a list
        belongs.
    """
    if isinstance(hypotheses, str) or not all(isinstance(text, str) for text in hypotheses):
        raise UserError("hypotheses must be a list of texts, one for each image")
    for i, texts in enumerate([references] if isinstance(references, str) else references):
        if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
            raise UserError(
                f"the references of image {i} are {texts!r}; give a list of texts for each image"
            )
    if len(hypotheses) != len(references):
        raise UserError(
            f"{len(hypotheses)} captions, but references of {len(references)} images: "
            "give one caption for each image"
        )
    found = [[words for words in map(_words, texts) if words] for texts in references]
    for i, texts in enumerate(found):
        if not texts:
            raise UserError(f"image {i} has no reference caption; remove it or add one")
    return [_words(text) for text in hypotheses], found


def has_words(references: Sequence[str]) -> bool:
    """Returns whether a caption can be compared with a reference: one of them has a word."""
    return any(_words(text) for text in references)


def _words(text: str) -> str:
    if has_other_scripts(text):
        text = " ".join(split_units(unicode_caption(text, max_words=_NO_LIMIT)))
        text = _OTHER_PUNCTUATION.sub(" ", text)
    cleaned = clean_caption(text, max_words=_NO_LIMIT)
    return " ".join(_PUNCTUATION.sub(" ", cleaned).split())


def _bleu_counts(counts: dict) -> list[int]:
    """Returns what an image adds to BLEU's sums.

    They are its n-grams and those found in a reference, for n of 1 to 4, its words, and the words
    of the reference nearest in length, of two the shorter.
    """
    length = counts["testlen"]
    nearest = min(counts["reflen"], key=lambda words: (abs(words - length), words))
    return [*counts["guess"], *counts["correct"], length, nearest]


def _bleu4(sums: np.ndarray) -> dict[str, np.ndarray]:
    """Returns BLEU-4 in percent of sums [B, 10] of `_bleu_counts`."""
    grams, right, length, reference = sums[:, :4], sums[:, 4:8], sums[:, 8], sums[:, 9]
    precision = np.prod(right / np.maximum(grams, 1), axis=1) ** 0.25
    brevity = np.exp(np.minimum(0, 1 - reference / np.maximum(length, 1e-9)))
    return {"bleu4": 100 * precision * brevity}
