"""What a training of image-text pairs learns, and how, as one frozen value."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Objectives:
    """What is learned and how.

    Attributes:
      names: of "itc", "itm", "lm"; their losses are summed with weight 1.
      momentum: of the momentum encoder, a step.
      queue: pairs kept; 0 for none.
      queue_random_start: start with random unit vectors as negatives, as the original does.
      alpha: weight of ITC's soft targets; rises linearly from 0 over `alpha_steps`.
      positives: which pairs are positives of each other in ITC and no negatives in ITM: "pair"
        (only itself, as in pre-training), "image" (the same image, as in retrieval), "text"
        (the same caption).
      negative_group: hard negatives are drawn among so many neighbouring pairs of the batch (the
        original: among those of one GPU). It divides the batch and every micro-batch.
      negative_floor: see `losses.draw_hard_negatives`.
      smoothing: label smoothing of LM.
      prompt_length: tokens of the prompt that LM does not learn, [DEC] counted.
      teacher_dropout: the momentum encoder runs with dropout, as in the original.
    """

    names: tuple[str, ...]
    momentum: float = 0.995
    queue: int = 57600
    queue_random_start: bool = False
    alpha: float = 0.4
    alpha_steps: int = 0
    positives: str = "pair"
    negative_group: int = 64
    negative_floor: float = 1e-4
    smoothing: float = 0.1
    prompt_length: int = 0
    teacher_dropout: bool = True

    @property
    def group(self) -> int:
        """Neighbouring pairs that must stay in one micro-batch."""
        return self.negative_group if "itm" in self.names else 1

    @property
    def contrast(self) -> bool:
        """Whether features are compared, and so whether there is a momentum encoder."""
        return "itc" in self.names or "itm" in self.names
