"""What clients send and get, as JSON: checked here, and described by OpenAPI."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, create_model

from blip_jax.decoding import Decoding
from blip_jax.runtime.config import field_help, field_types

MAX_CHARACTERS = 2000  # of a text
# Beyond these, numbers overflow float32 or int32 on their way to a token. `Decoding` checks the
# rest.
_BOUNDS = {"ge": 0, "le": 10_000}
BOUNDS = {
    "temperature": {"ge": 0.01, "le": 100},
    "repetition_penalty": {"ge": 0.01, "le": 100},
    "length_penalty": {"ge": -10, "le": 10},
    "top_k": {"ge": 0, "le": 2**31 - 1},
}


def _encodable(text: str) -> str:
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise ValueError("half of a surrogate pair is no character")
    return text


Text = Annotated[str, Field(min_length=1, max_length=MAX_CHARACTERS), AfterValidator(_encodable)]
Image = Annotated[
    str,
    Field(
        min_length=1,
        description="An image file in base64, also as a data: URL; or a URL, where the server "
        "allows its prefix.",
        examples=["iVBORw0KGgo…"],
    ),
]
Images = Annotated[list[Image], Field(min_length=1)]


class Strict(BaseModel):
    """Requests: no other fields, no numbers in strings, no NaN."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class _CaptionRequest(Strict):
    images: Images
    prompt: Annotated[
        str | None,
        Field(
            max_length=MAX_CHARACTERS, description="What captions begin with; null: the model's own"
        ),
        AfterValidator(lambda text: text and _encodable(text)),
    ] = None
    seed: Annotated[int, Field(ge=0, le=2**32 - 1, description="Of sampling")] = 0


def _option(name: str, annotation: Any) -> tuple[Any, Any]:
    bounds = BOUNDS.get(name, _BOUNDS if annotation is int else {})
    return annotation | None, Field(None, description=field_help(Decoding, name), **bounds)


# `length_rule` is left out: it is compiled into programs, and only one is.
OPTIONS = {
    name: Literal["sample", "greedy", "beam"] if name == "method" else annotation
    for name, annotation in field_types(Decoding).items()
    if name != "length_rule"
}
CaptionRequest = create_model(
    "CaptionRequest",
    __base__=_CaptionRequest,
    **{name: _option(name, annotation) for name, annotation in OPTIONS.items()},
)


class Caption(BaseModel):
    text: str
    score: Annotated[
        float, Field(description="Of beam search the log-probability over length, else their sum")
    ]


class CaptionResponse(BaseModel):
    captions: Annotated[list[list[Caption]], Field(description="Of each image, in its order")]


class MatchRequest(Strict):
    images: Images
    texts: Annotated[list[Text], Field(min_length=1)]


class MatchResponse(BaseModel):
    probability: Annotated[
        list[list[float]], Field(description="P(match) of each image with each text (ITM)")
    ]
    cosine: Annotated[list[list[float]], Field(description="Of their aligned features (ITC)")]


class AnswerRequest(Strict):
    images: Images
    question: Text
    candidates: Annotated[
        list[Text] | None,
        Field(min_length=1, description="Answers to choose from; null: one is generated"),
    ] = None


class Answer(BaseModel):
    text: str
    score: Annotated[
        float, Field(description="Log-probability, of a generated answer over its length")
    ]


class AnswerResponse(BaseModel):
    answers: Annotated[list[Answer], Field(description="Of each image, in its order")]


class EmbedRequest(Strict):
    images: list[Image] = []
    texts: list[Text] = []


class EmbedResponse(BaseModel):
    images: Annotated[list[list[float]], Field(description="Unit vectors, aligned with the texts'")]
    texts: list[list[float]]


class ErrorResponse(BaseModel):
    error: Annotated[str, Field(description="One line: what is wrong, then what to do")]
