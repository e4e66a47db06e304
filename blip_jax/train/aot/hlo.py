"""Reads a compiled program's instructions and communication from its text (`as_text()`).

XLA's own `cost_analysis` counts the body of a loop once. Here it counts once per iteration, so that
twelve scanned layers count twelve times.
"""

import dataclasses
import functools
import math
import re
from collections import Counter
from collections.abc import Iterator

BITS = {
    "pred": 8, "s4": 4, "u4": 4, "s8": 8, "u8": 8, "s16": 16, "u16": 16, "bf16": 16, "f16": 16,
    "s32": 32, "u32": 32, "f32": 32, "s64": 64, "u64": 64, "f64": 64, "c64": 64,
}  # fmt: skip
COLLECTIVES = (
    "all-gather", "all-reduce", "reduce-scatter", "collective-permute", "all-to-all",
    "ragged-all-to-all",
)  # fmt: skip
CALLS = re.compile(r"\b(?:calls|to_apply|body|true_computation|false_computation)=%?([\w.-]+)")


@dataclasses.dataclass(frozen=True)
class Array:
    """One array of an instruction: its dtype, its shape, and its memory space (0: HBM)."""

    dtype: str
    shape: tuple[int, ...]
    space: int = 0

    @property
    def bytes(self) -> int:
        """Returns the bytes, without the padding that the layout adds."""
        return math.prod(self.shape) * BITS.get(self.dtype, 8) // 8


@dataclasses.dataclass(frozen=True)
class Instruction:
    """`%name = type opcode(operands), attributes`; `literal` is the value of a constant."""

    name: str
    opcode: str
    type: str
    operands: tuple[str, ...]
    attributes: str
    literal: str
    root: bool

    @property
    def results(self) -> tuple[Array, ...]:
        """Returns the arrays of the type."""
        return arrays(self.type)


class HloModule:
    """The computations of an HLO module.

    Attributes:
      computations: the instructions of each computation, by name and in order, by its name.
      entry: name of the computation that is run first.
      partitions: number of devices that the module runs on.
    """

    def __init__(self, text: str):
        self.computations: dict[str, dict[str, Instruction]] = {}
        self.entry = ""
        match = re.search(r"num_partitions=(\d+)", text[: text.find("\n")])
        self.partitions = int(match[1]) if match else 1
        current: dict[str, Instruction] = {}
        for line in text.splitlines():
            if line.endswith("{") and (head := re.match(r"(ENTRY )?%?([\w.-]+) \(", line)):
                current = self.computations[head[2]] = {}
                self.entry = head[2] if head[1] else self.entry
            elif line.startswith("  ") and " = " in line:
                instruction = parse_instruction(line)
                for operand in instruction.operands:
                    if "#" in operand and operand not in current:
                        current[operand] = _element(current, operand)
                current[instruction.name] = instruction

    def execution_counts(self, default_trip_count: int = 1, fusions: bool = True) -> dict[str, int]:
        """Returns how often each computation runs.

        Args:
          default_trip_count: iterations of loops whose number is not in the text.
          fusions: count the computations inside fusions too.
        """
        counts: Counter = Counter()

        def visit(name: str, times: int) -> None:
            counts[name] += times
            for instruction in self.computations[name].values():
                if instruction.opcode == "fusion" and not fusions:
                    continue
                for called, count in self.called_computations(instruction, default_trip_count):
                    visit(called, times * count)

        visit(self.entry, 1)
        return dict(counts)

    def called_computations(
        self, instruction: Instruction, default_trip_count: int
    ) -> Iterator[tuple[str, int]]:
        """Yields the computations that an instruction runs, and how often; without reducers."""
        opcode, attributes = instruction.opcode, instruction.attributes
        if opcode == "while":
            yield (
                CALLS.search(attributes)[1],
                self.loop_trip_count(instruction) or default_trip_count,
            )
        elif opcode == "conditional":
            branches = re.search(r"branch_computations=\{([^}]*)\}", attributes)
            names = branches[1].split(",") if branches else CALLS.findall(attributes)
            for name in names:
                yield name.strip(" %"), 1
        elif opcode in ("fusion", "call", "async-start"):
            for name in CALLS.findall(attributes):
                yield name, 1

    def loop_trip_count(self, loop: Instruction) -> int | None:
        """Returns the trip count of a loop that counts from 0 by 1, like scans; None: unknown."""
        if known := re.search(r"known_trip_count\W+n\W+(\d+)", loop.attributes):
            return int(known[1])
        condition = self.computations[re.search(r"condition=%?([\w.-]+)", loop.attributes)[1]]
        root = next(x for x in condition.values() if x.root)
        constants = [x for x in condition.values() if x.opcode == "constant"]
        integers = [x for x in constants if x.results[0].dtype in ("s32", "u32")]
        compares = "direction=LT" in root.attributes or root.opcode == "fusion"
        is_limit = compares and len(integers) == 1 == len(constants)
        return int(integers[0].literal) if is_limit else None

    def collectives(self, default_trip_count: int = 1) -> dict[str, int]:
        """Returns the bytes that one device receives, by collective, assuming ring algorithms.

        With n devices: all-gather (n - 1) x operand, all-reduce 2 (n - 1) / n x operand,
        reduce-scatter and all-to-all (n - 1) / n x operand, collective-permute 1 x operand.
        """
        total: Counter = Counter()
        for name, times in self.execution_counts(default_trip_count).items():
            computation = self.computations[name]
            for instruction in computation.values():
                collective = instruction.opcode.removesuffix("-start")
                if collective not in COLLECTIVES:
                    continue
                size = sum(
                    self.size_in_bytes(computation, operand) for operand in instruction.operands
                )
                n = group_size(instruction.attributes) or self.partitions
                factor = {
                    "all-gather": n - 1, "all-reduce": 2 * (n - 1) / n, "collective-permute": 1,
                }.get(collective, (n - 1) / n)  # fmt: skip
                total[collective] += round(times * size * factor)
        return dict(total)

    def size_in_bytes(self, computation: dict[str, Instruction], name: str) -> int:
        return sum(array.bytes for array in computation[name].results)


def group_size(attributes: str) -> int | None:
    """Returns the number of devices in each group of a collective; None: all devices.

    Groups are written as `{{0,1},{2,3}}`, `[2,2]<=[4]` (groups, members), or by a mesh's axes:
    `mesh['a'=4,'b'=2] {'a'}`, or by a part of an axis, `{'a':(1)2}`.
    """
    text = attributes.partition("replica_groups=")[2]
    if text.startswith("{{"):
        return text[2 : text.index("}")].count(",") + 1
    if match := re.match(r"\[\d+,(\d+)\]", text):
        return int(match[1])
    if match := re.match(r"@?mesh\w*\[([^\]]*)\][^{]*\{([^}]*)\}", text):
        sizes = dict(re.findall(r"'([^']+)'=(\d+)", match[1]))
        axes = re.findall(r"'([^']+)'(?::\(\d+\)(\d+))?", match[2])
        return math.prod(int(part or sizes[axis]) for axis, part in axes)
    return None


def parse_instruction(line: str) -> Instruction:
    """Parses one line of a computation."""
    name, _, rest = line.strip().partition(" = ")
    end = closing_bracket(rest, 0) if rest.startswith("(") else rest.index(" ")
    results, rest = rest[:end], rest[end:].lstrip()
    opcode, _, _ = rest.partition("(")
    end = closing_bracket(rest, len(opcode))
    inside = rest[len(opcode) + 1 : end - 1]
    return Instruction(
        name=name.removeprefix("ROOT ").lstrip("%"),
        opcode=opcode,
        type=results,
        operands=tuple(re.findall(r"%([\w.-]+(?:#\d+)?)", inside)),
        attributes=rest[end:],
        literal=inside if opcode in ("constant", "parameter") else "",
        root=name.startswith("ROOT "),
    )


def _element(computation: dict[str, Instruction], name: str) -> Instruction:
    """Returns the instruction that `%name#index` stands for, as compilers since JAX 0.12 write."""
    of, _, index = name.partition("#")
    depth, parts = 0, [""]
    for character in re.sub(r"/\*.*?\*/", "", computation[of].type)[1:-1]:
        depth += (character in "([{") - (character in ")]}")
        if character == "," and not depth:
            parts.append("")
        else:
            parts[-1] += character
    element = parts[int(index)].strip()
    metadata = re.search(r"metadata=\{.*", computation[of].attributes)
    attributes = f", index={index}, {metadata[0] if metadata else ''}"
    return Instruction(name, "get-tuple-element", element, (of,), attributes, "", False)


def closing_bracket(text: str, start: int) -> int:
    """Returns the position after the bracket that closes the one at `start`."""
    depth = 0
    for bracket in re.finditer(r"[()]", text[start:]):
        depth += 1 if bracket[0] == "(" else -1
        if depth == 0:
            return start + bracket.end()
    raise ValueError(f"no closing bracket in {text[:80]!r}")


@functools.lru_cache(maxsize=65536)
def arrays(text: str) -> tuple[Array, ...]:
    """Parses the arrays of a type: `bf16[12,768]{1,0:T(8,128)S(1)}`, or a tuple of such types."""
    matches = re.findall(r"([a-z]\w*)\[([\d,<=]*)\](\{[^}]*\})?", text)
    return tuple(
        Array(
            dtype,
            tuple(int(size.lstrip("<=")) for size in shape.split(",") if size),
            int(space[1]) if (space := re.search(r"S\((\d+)\)", layout)) else 0,
        )
        for dtype, shape, layout in matches
    )
