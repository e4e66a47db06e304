"""The endpoints of the server: rows of a request, and the response of their results.

Each endpoint has a model's functions of rows (`functions`, by name), what a request and a response
hold (`Request`, `Response`), and two methods that use no device: `rows` and `response`.

S pixels a side, T tokens, G texts an image, C candidates.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol

import jax
import numpy as np
from scipy.special import softmax

from blip_jax.decoding import Decoding, Generated
from blip_jax.decoding.config import SAMPLING_OPTIONS
from blip_jax.models import Model, functions
from blip_jax.models.model import ANSWER
from blip_jax.models.results import captions_of
from blip_jax.runtime.errors import UserError
from blip_jax.serving import requests
from blip_jax.serving.config import ServeConfig
from blip_jax.serving.programs import (
    BatchFunction,
    Row,
    caption_function,
    image_features_function,
    rank_function,
)

CANDIDATE_TOKENS = 16  # of an answer to choose from, [CLS] and [SEP] counted
# One text is not padded; up to these many candidates or texts are padded to them, and more to as
# many as may be given.
FEW_CANDIDATES, FEW_TEXTS = 8, 4

Named = tuple[str, Row]  # a row, and the name of its function


class Endpoint(Protocol):
    """See above; `path` and `capability` of a model are of the class."""

    path: str
    capability: str
    Request: type
    Response: type
    functions: dict[str, BatchFunction]

    def __init__(self, model: Model, config: ServeConfig): ...

    def rows(self, request: Any, images: list[np.ndarray]) -> list[Named]:
        """Returns the rows of a request; raises a UserError if it asks for what cannot be."""

    def response(self, request: Any, results: list[Any]) -> Any:
        """Returns the response, of the results of the rows in their order."""


def batch_functions(
    model: Model, config: ServeConfig, described: dict[str, tuple[Any, Row]]
) -> dict[str, BatchFunction]:
    """Returns functions of rows, by name, of pairs of a function and an example row."""
    sizes = [size * jax.local_device_count() for size in config.batch_sizes]
    return {
        name: BatchFunction(name, model, function, example, sizes)
        for name, (function, example) in described.items()
    }


def black(model: Model) -> np.ndarray:
    """Returns an image uint8 [S, S, 3] for example rows."""
    return np.zeros((model.image_size, model.image_size, 3), np.uint8)


def encode(model: Model, texts: Sequence[str], length: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Returns ids int32 [G, T] and mask bool [G, T]; T is `length`, or the model's."""
    return model.tokenizer.encode(list(texts), length or model.max_length)


def check_count(name: str, values: Sequence, most: int) -> None:
    """Raises a UserError if there are more than `most`."""
    if len(values) > most:
        raise UserError(f"{len(values)} {name}; give at most {most}")


class CaptionEndpoint:
    """Captions images; sampling and greedy decoding are one program, beam search is another.

    Greedy decoding is sampling from the likeliest token alone.
    """

    path, capability = "/v1/caption", "caption"
    Request, Response = requests.CaptionRequest, requests.CaptionResponse

    def __init__(self, model: Model, config: ServeConfig):
        self._model, self._config = model, config
        self._length = min(config.max_tokens, model.config.med.max_length)
        described = {}
        for name, beams in {"caption sample": 1, "caption beam": config.num_beams}.items():
            if beams > 1 or name == "caption sample":
                example = self._row(black(model), Decoding(), functions.prompt_tokens(model), 0)
                described[name] = caption_function(model, beams, self._length), example
        self.functions = batch_functions(model, config, described)

    def rows(self, request: Any, images: list[np.ndarray]) -> list[Named]:
        decoding = self._decoding(request)
        prompt = self._prompt(request)
        new = decoding.max_new_tokens
        length = prompt.size + new if new else decoding.max_length
        if not prompt.size < length <= self._length:
            raise UserError(
                f"max_length is {length}; it must exceed the prompt's {prompt.size} tokens and be "
                f"at most {self._length}"
            )
        check_count("num_captions", range(decoding.num_captions), self._config.max_captions)
        search = decoding.uses_beam_search
        name = f"caption {'beam' if search else 'sample'}"
        return [
            (name, self._row(image, decoding, prompt, request.seed, index, number))
            for index, image in enumerate(images)
            for number in range(1 if search else decoding.num_captions)
        ]

    def response(self, request: Any, results: list[Any]) -> Any:
        decoding, prompt = self._decoding(request), self._prompt(request)
        generated = Generated(*map(np.stack, zip(*results, strict=True)))
        lengths = np.full(len(results), prompt.size)
        texts = [
            requests.Caption(text=caption.text, score=caption.score)
            for row in captions_of(generated, lengths, self._model.tokenizer)
            for caption in row[: decoding.num_captions]
        ]
        count = decoding.num_captions
        images = [texts[start : start + count] for start in range(0, len(texts), count)]
        return requests.CaptionResponse(captions=images)

    def _decoding(self, request: Any) -> Decoding:
        given = request.model_dump(include=set(requests.OPTIONS), exclude_none=True)
        given.setdefault("max_length", min(Decoding.max_length, self._length))
        beams = self._config.num_beams
        if given.get("method", "beam") == "beam" and not set(SAMPLING_OPTIONS) & set(given):
            given.setdefault("num_beams", beams)
        decoding = Decoding.from_options(**given)
        if decoding.uses_beam_search and decoding.num_beams != beams:
            raise UserError(f"num_beams is {decoding.num_beams}; this server has {beams}, or 1")
        return decoding

    def _prompt(self, request: Any) -> np.ndarray:
        text = self._model.prompt if request.prompt is None else request.prompt
        return self._model.tokenizer.prompt(text)

    def _row(self, image, decoding, prompt, seed, index=0, number=0) -> Row:
        params = decoding.params(1)
        if decoding.method != "sample":
            one = np.ones(1, np.float32)
            params = params._replace(top_k=np.ones(1, np.int32), top_p=one, temperature=one)
        padded = np.full(self._length, self._model.tokenizer.ids.pad, np.int32)
        padded[: len(prompt)] = prompt
        scalars = np.uint32(seed), np.int32(index), np.int32(number)
        options = jax.tree.map(lambda x: x[0], params)
        return (image, *scalars, options, padded, np.int32(len(prompt)))


class MatchEndpoint:
    """Scores texts against images: one text, a few, or up to `max_texts`, are three programs."""

    path, capability = "/v1/match", "match"
    Request, Response = requests.MatchRequest, requests.MatchResponse

    def __init__(self, model: Model, config: ServeConfig):
        self._model, self._most = model, config.max_texts
        self._counts = sorted({1, min(FEW_TEXTS, self._most), self._most})
        function, described = functions.match_function(model), {}
        for count in self._counts:
            example = (black(model), *encode(model, ["a"] * count))
            described[f"match {count}"] = function, example
        self.functions = batch_functions(model, config, described)

    def rows(self, request: Any, images: list[np.ndarray]) -> list[Named]:
        check_count("texts", request.texts, self._most)
        texts = [self._model.tokenizer.cleanup.caption(text) for text in request.texts]
        count = next(count for count in self._counts if count >= len(texts))
        arrays = encode(self._model, texts + texts[-1:] * (count - len(texts)))
        return [(f"match {count}", (image, *arrays)) for image in images]

    def response(self, request: Any, results: list[Any]) -> Any:
        count = len(request.texts)
        logits, cosine = (np.stack(x)[:, :count] for x in zip(*results, strict=True))
        probability = softmax(logits, axis=-1)[..., 1]
        return requests.MatchResponse(probability=probability.tolist(), cosine=cosine.tolist())


class AnswerEndpoint:
    """Answers a question about images: generates, or chooses among candidates."""

    path, capability = "/v1/answer", "answer"
    Request, Response = requests.AnswerRequest, requests.AnswerResponse

    def __init__(self, model: Model, config: ServeConfig):
        self._model, self._most = model, config.max_candidates
        self._decoding = dataclasses.replace(ANSWER, num_beams=config.num_beams)
        self._length = min(CANDIDATE_TOKENS, model.config.med.max_length)
        shape = self._decoding.shape(1, model.config.med.max_length)
        question = [x[0] for x in encode(model, ["a"])]
        row = black(model), *question
        described = {"answer": (functions.answer_function(model, shape), (*row, self._params()))}
        for count in sorted({min(FEW_CANDIDATES, self._most), self._most}):
            example = (*row, *self._candidates(["a"], count))
            described[f"answer {count}"] = rank_function(model, count, self._most // count), example
        self.functions = batch_functions(model, config, described)

    def rows(self, request: Any, images: list[np.ndarray]) -> list[Named]:
        text = self._model.tokenizer.cleanup.question(request.question)
        question = [x[0] for x in encode(self._model, [text])]
        if request.candidates is None:
            return [("answer", (image, *question, self._params())) for image in images]
        check_count("candidates", request.candidates, self._most)
        few = len(request.candidates) <= FEW_CANDIDATES
        count = min(FEW_CANDIDATES, self._most) if few else self._most
        candidates = self._candidates(request.candidates, count)
        return [(f"answer {count}", (image, *question, *candidates)) for image in images]

    def response(self, request: Any, results: list[Any]) -> Any:
        if request.candidates is None:
            generated = Generated(*map(np.stack, zip(*results, strict=True)))
            starts = np.ones(len(results), int)
            rows = captions_of(generated, starts, self._model.tokenizer)
            found = [(row[0].text, row[0].score) for row in rows]
        else:
            found = [(request.candidates[index], float(score)) for index, score in results]
        answers = [requests.Answer(text=text, score=score) for text, score in found]
        return requests.AnswerResponse(answers=answers)

    def _params(self) -> Any:
        return jax.tree.map(lambda x: x[0], self._decoding.params(1))

    def _candidates(self, texts: list[str], count: int) -> Row:
        """Returns ids and mask [C, T], and which are no padding, bool [C]; C is `count`."""
        ids, mask = encode(self._model, texts, self._model.config.med.max_length)
        lengths = mask.sum(-1)
        if lengths.max() > self._length:
            long = int(lengths.argmax())
            raise UserError(
                f"candidates[{long}] has {lengths[long]} tokens; give at most {self._length}"
            )
        padding = ((0, count - len(texts)), (0, 0))
        ids, mask = (np.pad(x[:, : self._length], padding) for x in (ids, mask))
        return ids, mask, np.arange(count) < len(texts)


class EmbedEndpoint:
    """Encodes images and texts to aligned unit vectors."""

    path, capability = "/v1/embed", "encode"
    Request, Response = requests.EmbedRequest, requests.EmbedResponse

    def __init__(self, model: Model, config: ServeConfig):
        self._model, self._most = model, config.max_texts
        described = {
            "embed image": (image_features_function(model), (black(model),)),
            "embed text": (functions.encode_text_function(model), self._text_row("a")),
        }
        self.functions = batch_functions(model, config, described)

    def rows(self, request: Any, images: list[np.ndarray]) -> list[Named]:
        check_count("texts", request.texts, self._most)
        if not images and not request.texts:
            raise UserError("neither images nor texts; give some")
        clean = self._model.tokenizer.cleanup.caption
        rows = [("embed image", (image,)) for image in images]
        return rows + [("embed text", self._text_row(clean(x))) for x in request.texts]

    def response(self, request: Any, results: list[Any]) -> Any:
        vectors, count = [x.tolist() for x in results], len(request.images)
        return requests.EmbedResponse(images=vectors[:count], texts=vectors[count:])

    def _text_row(self, text: str) -> Row:
        return tuple(x[0] for x in encode(self._model, [text]))


ENDPOINTS: tuple[type[Endpoint], ...] = (
    CaptionEndpoint, MatchEndpoint, AnswerEndpoint, EmbedEndpoint,
)  # fmt: skip
