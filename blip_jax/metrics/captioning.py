"""Caption metrics with the reference implementations of the COCO caption challenge."""

import re

from blip_jax.data.text import clean_caption
from blip_jax.runtime.errors import UserError

# Punctuation that the COCO challenge's PTB tokenizer drops and the original's clean-up keeps.
_PUNCTUATION = re.compile(r"[,?`]|(?<!\w)['-]+|['-]+(?!\w)")
_NO_LIMIT = 10_000  # words; so large that captions are not truncated before they are scored


def caption_scores(hypotheses: list[str], references: list[list[str]]) -> dict[str, float]:
    """Returns corpus BLEU-4, CIDEr and ROUGE-L in percent, as in papers.

    Tokens are the words of the cleaned lower-case text without punctuation. The challenge uses
    the PTB tokenizer (Java); it differs in contractions, so expect the last digit to move.
    CIDEr weights words by how rare they are in the references of all images: it is 0 for one
    image, and values can be compared on the same test set only.

    Args:
      hypotheses: one caption for each image.
      references: one or more captions for each image, in the same order.

    Returns:
      'bleu4', 'cider' and 'rouge_l'; nan each if there are no images. CIDEr can exceed 100.

    Raises:
      UserError: pycocoevalcap is missing, lists of different lengths, an image without references,
        a string where a list belongs.
    """
    try:
        from pycocoevalcap.bleu.bleu import Bleu
        from pycocoevalcap.cider.cider import Cider
        from pycocoevalcap.rouge.rouge import Rouge
    except ImportError as error:
        raise UserError(
            f"caption metrics need pycocoevalcap ({error}); pip install blip_jax[metrics]"
        ) from error
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
    if not hypotheses:
        return dict.fromkeys(("bleu4", "cider", "rouge_l"), float("nan"))
    found = {i: [_words(text)] for i, text in enumerate(hypotheses)}
    truth = {}
    for i, texts in enumerate(references):
        truth[i] = [words for words in map(_words, texts) if words]
        if not truth[i]:
            raise UserError(f"image {i} has no reference caption; remove it or add one")
    bleu = Bleu(4).compute_score(truth, found, verbose=0)[0][3]
    cider = Cider().compute_score(truth, found)[0]
    rouge = Rouge().compute_score(truth, found)[0]
    return {"bleu4": 100 * float(bleu), "cider": 100 * float(cider), "rouge_l": 100 * float(rouge)}


def _words(text: str) -> str:
    cleaned = clean_caption(text, max_words=_NO_LIMIT)
    return " ".join(_PUNCTUATION.sub(" ", cleaned).split())
