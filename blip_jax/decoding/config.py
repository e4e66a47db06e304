"""How texts are written: the options of decoding."""

import dataclasses
import math

from blip_jax.runtime.errors import UserError

METHODS = ("nucleus", "greedy", "beam")


@dataclasses.dataclass(frozen=True)
class Decoding:
    """How texts are written; the defaults are CapFilt's (the author, BLIP issues).

    Attributes:
      method: "nucleus" draws, "greedy" takes the likeliest token, "beam" searches for the
        likeliest text.
      top_p: nucleus: the likeliest tokens that together reach this probability.
      top_k: nucleus: only so many of the likeliest tokens; 0 for all. Top-k sampling is
        `top_k=50, top_p=1`.
      temperature: divides the logits of "nucleus".
      repetition_penalty: makes tokens less likely that the text holds already, the prompt counted
        (`process.process`).
      min_length: tokens of a text at least, [DEC] and prompt counted.
      max_length: tokens of a text at most, [DEC] and prompt counted.
      max_new_tokens: if above 0, a text ends so many tokens behind its own prompt, and
        `max_length` says nothing.
      num_beams: beam: texts that are followed at a time; 1 is greedy.
      length_penalty: beam: a text's log-probability is divided by its length to this power.
      early_stopping: beam: end once `num_beams` texts have ended, though a better one may come.
      num_captions: texts an image; beam gives its best, greedy has but one.
      prompt_in_length: beam: score as transformers 4.25, with which the original was published:
        the length counts the prompt and not the end token. False as transformers 5: the length
        counts the end token and not the prompt, and a search ends by its open texts alone.
    """

    method: str = "nucleus"
    top_p: float = 0.9
    top_k: int = 0
    temperature: float = 1.0
    repetition_penalty: float = 1.1
    min_length: int = 5
    max_length: int = 20
    max_new_tokens: int = 0
    num_beams: int = 3
    length_penalty: float = 1.0
    early_stopping: bool = False
    num_captions: int = 1
    prompt_in_length: bool = True

    def __post_init__(self):
        if self.method not in METHODS:
            raise UserError(f"decoding method {self.method!r} is unknown: {', '.join(METHODS)}")
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
            raise UserError(
                f"num_captions is {self.num_captions}; method {self.method!r} with "
                f"num_beams={self.num_beams} gives at most {self.max_captions}: "
                "take more beams, or method 'nucleus'"
            )

    @property
    def max_captions(self) -> float:
        """Different texts that the method can give for one image."""
        return {"nucleus": math.inf, "greedy": 1, "beam": self.num_beams}[self.method]

    @property
    def uses_beam_search(self) -> bool:
        """Whether several beams are followed; a single one is greedy, as in the library."""
        return self.method == "beam" and self.num_beams > 1

    def room(self, prompt_tokens: int) -> int:
        """T: positions that tokens and cache need behind prompts of up to so many tokens."""
        if self.max_new_tokens:
            return prompt_tokens + self.max_new_tokens
        return max(prompt_tokens, self.max_length)
