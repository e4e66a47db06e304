"""The options of decoding: what users set, and what a compiled program takes of it.

`Decoding` is the only list of options. A program is compiled for a `DecodingShape`; all other
options are `DecodingParams`, arrays with a value an image, so that another temperature or length
compiles nothing and a server can batch requests of different options.
"""

import dataclasses
import math
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from blip_jax.runtime.arguments import check_fields
from blip_jax.runtime.config import field_types
from blip_jax.runtime.errors import UserError
from blip_jax.runtime.suggestions import hint

LENGTH_RULES = ("transformers-4.25", "transformers-5")
LENGTH_BUCKET = 4  # the length of KV caches is a multiple of this
# Options that only sampling or only beam search reads.
SAMPLING_OPTIONS = ("top_p", "top_k", "temperature")
BEAM_OPTIONS = ("num_beams", "length_penalty", "early_stopping", "length_rule")
# Options of transformers' `generate` under other names here.
TRANSFORMERS_OPTIONS = {
    "do_sample": "give top_p, top_k or temperature to sample",
    "num_return_sequences": "use num_captions",
    "min_new_tokens": "use min_length, which counts the prompt",
}


class DecodingShape(NamedTuple):
    """What a program is compiled for.

    Attributes:
      method: sample, greedy or beam.
      num_beams: beams that are followed; 1 unless method is "beam".
      num_captions: texts an image.
      length_rule: of LENGTH_RULES.
      total_length: T, tokens of the texts and of the cache.
    """

    method: str
    num_beams: int
    num_captions: int
    length_rule: str
    total_length: int


class DecodingParams(NamedTuple):
    """What a program takes as arrays [B], a value an image; see `Decoding`.

    Attributes:
      temperature, top_p, repetition_penalty, length_penalty: float32.
      top_k, min_length, max_length, max_new_tokens: int32.
      early_stopping: bool.
    """

    temperature: jax.Array
    top_p: jax.Array
    top_k: jax.Array
    repetition_penalty: jax.Array
    length_penalty: jax.Array
    min_length: jax.Array
    max_length: jax.Array
    max_new_tokens: jax.Array
    early_stopping: jax.Array

    def repeat(self, copies: int) -> "DecodingParams":
        """Returns each image's values `copies` times: arrays [B * copies]."""
        return DecodingParams(*(jnp.repeat(x, copies, axis=0) for x in self))


@dataclasses.dataclass(frozen=True)
class Decoding:
    """How texts are generated; the defaults are CapFilt's (the author, BLIP issues)."""

    # Draw tokens (sample), take the likeliest token (greedy), or search for the likeliest text.
    method: Literal["sample", "greedy", "beam"] = "sample"
    top_p: float = 0.9  # sample from the likeliest tokens that together reach this probability
    top_k: int = 0  # sample from this many of the likeliest tokens; 0: from all
    temperature: float = 1.0  # divides the logits when sampling
    repetition_penalty: float = 1.1  # makes tokens that the text already contains less likely
    min_length: int = 5  # least tokens of a text, [DEC] and prompt counted
    max_length: int = 20  # most tokens of a text, [DEC] and prompt counted
    max_new_tokens: int = 0  # above 0: most tokens after the prompt, instead of max_length
    num_beams: int = 3  # texts that beam search follows; 1: greedy
    length_penalty: float = 1.0  # beam search divides log-probabilities by the length to this power
    early_stopping: bool = False  # end beam search once num_beams texts have ended
    num_captions: int = 1  # texts per image
    # How beam search counts length: with the prompt and without the end token, as the transformers
    # version of the original's release (transformers-4.25), or the reverse (transformers-5).
    length_rule: Literal["transformers-4.25", "transformers-5"] = "transformers-4.25"

    def __post_init__(self):
        check_fields(self)
        if not 0 < self.top_p <= 1:
            raise UserError(f"top_p is {self.top_p}; it must be above 0 and at most 1")
        for name in ("temperature", "repetition_penalty"):
            if not getattr(self, name) > 0:
                raise UserError(f"{name} is {getattr(self, name)}; it must be above 0")
        if not math.isfinite(self.length_penalty):
            raise UserError(f"length_penalty is {self.length_penalty}; it must be finite")
        least = {"top_k": 0, "min_length": 0, "max_new_tokens": 0, "max_length": 1}
        least |= {"num_beams": 1, "num_captions": 1}
        for name, value in least.items():
            if getattr(self, name) < value:
                raise UserError(f"{name} is {getattr(self, name)}; it must be at least {value}")
        if not self.max_new_tokens and self.min_length > self.max_length:
            raise UserError(
                f"min_length is {self.min_length}; it must be at most max_length, {self.max_length}"
            )
        if self.num_captions > self.max_captions:
            beams = f" with num_beams={self.num_beams}" if self.method == "beam" else ""
            raise UserError(
                f"num_captions is {self.num_captions}; method {self.method!r}{beams} gives at "
                f"most {self.max_captions}; use more beams, or sample with top_p"
            )

    @classmethod
    def from_options(cls, **options: Any) -> "Decoding":
        """Returns the decoding that the options imply, for callers that give some of the fields.

        A sampling option (top_p, top_k, temperature) samples, with a repetition penalty of 1.1 and
        from all tokens unless top_p says otherwise; else beam search with 3 beams and no penalty,
        as in the original. None means the default.

        Raises:
          UserError: an unknown option, or options that do not go together.
        """
        options = {name: value for name, value in options.items() if value is not None}
        known = field_types(cls)
        for name in options:
            if name not in known:
                advice = TRANSFORMERS_OPTIONS.get(name) or hint(name, known)
                raise UserError(f"unknown option {name!r}; {advice}")
        sampling = [name for name in SAMPLING_OPTIONS if name in options]
        searching = [name for name in BEAM_OPTIONS if name in options]
        method = options.setdefault("method", "sample" if sampling else "beam")
        if method == "sample" and searching:
            reason = f"with {sampling[0]} (sampling)" if sampling else "with method 'sample'"
            raise UserError(f"{searching[0]} cannot be combined {reason}; leave one of them out")
        if method != "sample" and sampling:
            raise UserError(
                f"{sampling[0]} needs sampling, but method is {method!r}; leave one of them out"
            )
        defaults = {"repetition_penalty": 1.0}
        if method == "sample":
            defaults = {"repetition_penalty": 1.1, "top_p": 1.0}
        return cls(**{**defaults, **options})

    @property
    def max_captions(self) -> float:
        """Returns the number of different texts that the method can give for one image."""
        return {"sample": math.inf, "greedy": 1, "beam": self.num_beams}[self.method]

    @property
    def uses_beam_search(self) -> bool:
        """Returns whether several beams are followed; one beam is greedy, as in transformers."""
        return self.method == "beam" and self.num_beams > 1

    def total_length(self, prompt_tokens: int) -> int:
        """Returns the tokens that texts and cache need for prompts of at most `prompt_tokens`."""
        if self.max_new_tokens:
            return prompt_tokens + self.max_new_tokens
        return max(prompt_tokens, self.max_length)

    def shape(self, prompt_tokens: int, positions: int = 0) -> DecodingShape:
        """Returns what a program is compiled for.

        Args:
          prompt_tokens: P of the prompts.
          positions: of the model: the length is then a multiple of LENGTH_BUCKET, at most this
            many. 0: exactly as long as needed.
        """
        total = self.total_length(prompt_tokens)
        if positions:
            total = max(min(-(-total // LENGTH_BUCKET) * LENGTH_BUCKET, positions), total)
        beam = self.uses_beam_search
        method = self.method if beam or self.method != "beam" else "greedy"
        rule = self.length_rule if beam else LENGTH_RULES[0]
        return DecodingShape(method, self.num_beams if beam else 1, self.num_captions, rule, total)

    def params(self, batch: int) -> DecodingParams:
        """Returns the other options as NumPy arrays [batch]."""
        dtypes = {float: np.float32, int: np.int32, bool: np.bool_}
        types = field_types(Decoding)
        return DecodingParams(
            **{
                name: np.full((batch,), getattr(self, name), dtypes[types[name]])
                for name in DecodingParams._fields
            }
        )
