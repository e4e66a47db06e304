"""The pass and the modules of the model that the instructions of a compiled program belong to."""

import functools
import re

from blip_jax.train.aot.hlo import HloModule, Instruction

OP_NAME = re.compile(r'op_name="([^"]*)"')
DERIVATIVE = re.compile(r"\b(?:jvp|transpose)\(([^()]*)\)")
# Parts of an operation's name that are no module or method: control flow, inner functions, einsums.
NO_MODULE = re.compile(
    r"^(while|body|cond|closed_call|eval_jaxpr|checkpoint|rematted_computation|branch_\d+_fun)$|^(jit|vmap|pmap)\(|->"
)
NO_NAME = "copies without a name"


class ProgramParts:
    """The parts of a compiled program."""

    def __init__(self, module: HloModule):
        self._module = module

    def part_of(self, computation: str, x: Instruction) -> str:
        """Returns the part that an instruction belongs to, from its `op_name`.

        For example "backward, recomputed: Blip.encode_image/vit/blocks/mlp_in". A fusion has the
        name of one of its operations. A copy without a name, as of weights that are fetched into
        the chip's memory before their use, has that of what it copies, or of what uses it.

        Args:
          computation: name of the one that the instruction is in.
        """
        name = self._op_name(computation, x)
        if not name:
            return NO_NAME
        passes = "backward" if "transpose(" in name else "forward"
        passes += ", recomputed" if "rematted_computation" in name else ""
        while (inner := DERIVATIVE.sub(r"\1", name)) != name:
            name = inner
        modules = [part for part in name.split("/")[:-1] if not NO_MODULE.search(part)]
        if not modules:
            return "outside of modules (optimizer, moving averages, casts)"
        return f"{passes}: {'/'.join(modules)}"

    def _op_name(self, computation: str, x: Instruction) -> str:
        """Returns the `op_name` of an instruction, an operand, the first user or the caller."""
        instructions = self._module.computations[computation]
        for y in (x, *(instructions[operand] for operand in x.operands)):
            if match := OP_NAME.search(y.attributes):
                return match[1]
        waiting, seen = [x], {x.name}
        while waiting:  # breadth first: the nearest
            for user in self._users.get((computation, waiting.pop(0).name), ()):
                if match := OP_NAME.search(user.attributes):
                    return match[1]
                if user.name not in seen:
                    seen.add(user.name)
                    waiting.append(user)
        caller = self._callers.get(computation)
        return self._op_name(*caller) if caller else ""

    @functools.cached_property
    def _users(self) -> dict[tuple[str, str], list[Instruction]]:
        """Returns the instructions that use a result, by the computation and name of it."""
        found: dict[tuple[str, str], list[Instruction]] = {}
        for name, computation in self._module.computations.items():
            for x in computation.values():
                for operand in x.operands:
                    found.setdefault((name, operand), []).append(x)
        return found

    @functools.cached_property
    def _callers(self) -> dict[str, tuple[str, Instruction]]:
        """Returns the instruction that starts each asynchronous computation, and where it is."""
        return {
            called: (name, x)
            for name, computation in self._module.computations.items()
            for x in computation.values()
            if x.opcode == "async-start"
            for called, _ in self._module.called_computations(x, 1)
        }
