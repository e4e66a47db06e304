"""The arms of a bootstrap run: what each pre-training of the comparison trains on."""

from __future__ import annotations

import dataclasses

from blip_jax.nn.configs import SHARING
from blip_jax.runtime.errors import UserError

WEB, BOTH = ("web",), ("web", "synthetic")


@dataclasses.dataclass(frozen=True)
class Arm:
    """The texts that a pre-training sees in addition to the human pairs, and how it is trained.

    Attributes:
      origins: of the texts, "web" and "synthetic".
      filtered: whether only texts that the filter keeps.
      random_subset: of these origins as many texts as the filter keeps of them, chosen at random.
      perfect: true and full texts of all web images in place of others; Shapes datasets alone.
      bases: the arms whose pre-trainings captioner and filter start from. "none" alone is the
        paper's; an arm that CapFilt gave its texts makes this a second round. Of several, each
        gives a captioner, which all write, and a filter, whose mean P(match) decides.
      web_half: 0 or 1, the half of the web pairs that an arm of origin "web" without scores trains
        on; -1: all.
      cross_fitted: whether an image's texts are written by the captioner, and kept by the filter,
        of the base that was not trained on its pair: `bases` are trained on the halves 0 and 1.
      decoding_methods: as in CapFiltConfig, how the captioner writes; "": as the config says.
      perturbed_share: `task.itm.perturbed_share` of the filter: texts with a word exchanged are its
        negatives too. Not in the paper.
      shared: whether one model, fine-tuned on all losses, is both captioner and filter.
      continues: the arm whose weights the training starts from; "": from scratch.
      sharing: `med.sharing` of the pre-trained model; "": as the config says.
    """

    origins: tuple[str, ...] = BOTH
    filtered: bool = True
    random_subset: bool = False
    perfect: bool = False
    bases: tuple[str, ...] = ("none",)
    web_half: int = -1
    cross_fitted: bool = False
    decoding_methods: str = ""
    perturbed_share: float = 0.0
    shared: bool = False
    continues: str = ""
    sharing: str = ""

    def __post_init__(self):
        if self.sharing and self.sharing not in SHARING:
            raise UserError(f"sharing is {self.sharing!r}; it must be one of {', '.join(SHARING)}")

    @property
    def needs_scores(self) -> bool:
        """Whether a filter's scores decide what it trains on."""
        return self.filtered or self.random_subset or "synthetic" in self.origins

    def model_folder(self, role: str, base: str) -> str:
        """Returns the name of the folder of the "captioner" or "filter"; arms may share them."""
        name = "captioner_and_filter" if self.shared else role
        perturbed = "-perturbed" * (name != "captioner" and self.perturbed_share > 0)
        return name + _base_suffix(base) + perturbed

    @property
    def scores_suffix(self) -> str:
        """The suffix of the scored dataset's folder; arms that share it have one."""
        methods = self.decoding_methods.replace("*", "x").replace(",", "+")
        several = len(self.bases) > 1
        bases = f"-{'+'.join(self.bases)}" if several else _base_suffix(self.bases[0])
        perturbed = "-perturbed" * (self.perturbed_share > 0)
        return bases + perturbed + "-shared" * self.shared + f"-{methods}" * bool(methods)


def _base_suffix(base: str) -> str:
    return "" if base == "none" else f"-{base}"


ARMS = {
    # The paper's comparison.
    "none": Arm(WEB, filtered=False),
    "filter": Arm(WEB),
    "captioner": Arm(BOTH, filtered=False),
    "both": Arm(BOTH),
    # The effect of fewer texts alone, and of none.
    "random": Arm(WEB, filtered=False, random_subset=True),
    "human": Arm((), filtered=False),
    # The bound that no captioner and filter can pass.
    "perfect": Arm((), filtered=False, perfect=True),
    # The paper's other ablations: beam search, one model for both roles, training continued, and
    # the sharing of layers between text encoder and decoder.
    "both_beam": Arm(BOTH, decoding_methods="beam"),
    "both_shared": Arm(BOTH, shared=True),
    "both_continued": Arm(BOTH, continues="none"),
    "share_all": Arm(WEB, filtered=False, sharing="all"),
    "share_all_but_cross_attention": Arm(
        WEB, filtered=False, sharing="all_but_cross_attention"
    ),
    "share_none": Arm(WEB, filtered=False, sharing="none"),
    # What the paper leaves for later: several captions an image, and a second round, which starts
    # from a model that CapFilt gave its texts.
    "both_three": Arm(BOTH, decoding_methods="nucleus*3"),
    "filter_round2": Arm(WEB, bases=("filter",)),
    "both_round2": Arm(BOTH, bases=("both",)),
    "both_beam_round2": Arm(BOTH, bases=("both_beam",), decoding_methods="beam"),
    # Captioners and filters of three pre-trainings.
    "both_ensemble": Arm(
        BOTH, bases=("none", "filter", "both_beam"), decoding_methods="beam"
    ),
    # Models that judge pairs that they were not trained on.
    "first_half": Arm(WEB, filtered=False, web_half=0),
    "second_half": Arm(WEB, filtered=False, web_half=1),
    "both_beam_cross_fitted": Arm(
        BOTH, bases=("first_half", "second_half"), cross_fitted=True, decoding_methods="beam"
    ),
    # A filter that learned from texts with a word exchanged.
    "filter_perturbed": Arm(WEB, perturbed_share=0.5),
    "both_perturbed": Arm(BOTH, perturbed_share=0.5),
    "both_beam_perturbed": Arm(BOTH, decoding_methods="beam", perturbed_share=0.5),
    "both_three_perturbed": Arm(BOTH, decoding_methods="nucleus*3", perturbed_share=0.5),
    "both_beam_perturbed_round2": Arm(
        BOTH, bases=("both_beam_perturbed",), decoding_methods="beam", perturbed_share=0.5
    ),
}  # fmt: skip
