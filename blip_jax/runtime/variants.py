"""Variants of config files: names after the colon, as in `--config retrieval:flickr30k,vit_l`."""

from collections.abc import Iterable

from blip_jax.runtime.errors import UserError
from blip_jax.runtime.suggestions import hint


def choose(config: str, variant: str, *groups: Iterable[str]) -> list[str]:
    """Returns a name of each group: the one that `variant` names, or else the group's first.

    Args:
      config: name of the config file, for messages.
      variant: names with commas between, in any order, at most one of each group; "": none.
      groups: the names of the variants, no name in two groups.

    Raises:
      UserError: a name is in no group, or two are in one.
    """
    lists = [list(group) for group in groups]
    chosen: dict[int, str] = {}
    for name in variant.split(",") if variant else ():
        number = next((i for i, names in enumerate(lists) if name in names), None)
        if number is None:
            known = [name for names in lists for name in names]
            raise UserError(f"config {config} has no variant {name!r}; {hint(name, known)}")
        if number in chosen:
            raise UserError(
                f"config {config} cannot be both {chosen[number]!r} and {name!r}; give one of them"
            )
        chosen[number] = name
    return [chosen.get(number, names[0]) for number, names in enumerate(lists)]
