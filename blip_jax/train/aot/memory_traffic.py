"""Of a compiled program: bytes to and from HBM, and FLOPs of its matrix products.

What XLA fuses is one pass over its operands and results; what it keeps on the chip (memory space
S(1) and up) moves nothing.
"""

import math
import re

from blip_jax.train.aot.hlo import Array, Instruction, Program

# Moves nothing itself: names of what is there, or done where its -start is counted.
FREE = {
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional",
    "call", "async-start", "after-all", "partition-id", "replica-id", "opt-barrier",
}  # fmt: skip
PICKS = {"dynamic-slice", "slice", "gather"}


def hbm_bytes(program: Program, unknown: int = 1) -> int:
    """Bytes that one run reads from and writes to HBM, without the layouts' padding.

    A slice counts as much as it takes, and an update in place as much as it writes.

    Args:
      unknown: turns of loops of which the text does not tell the number.
    """
    total = 0
    for name, times in program.runs(unknown, fusions=False).items():
        computation = program.computations[name]
        total += times * sum(moved(program, computation, x) for x in computation.values())
    return total


def moved(program: Program, computation: dict[str, Instruction], x: Instruction) -> int:
    """Bytes of one run of one instruction."""
    if x.opcode in FREE or x.opcode.endswith(("-done", "-update")):
        return 0
    given = [computation[operand].results for operand in x.operands]
    if x.opcode == "fusion":
        return fused(program, inside(program, x), given, x.results)
    if x.opcode in PICKS:
        return 2 * hbm(x.results)
    if x.opcode == "dynamic-update-slice":
        return 2 * hbm(given[1])
    if x.opcode == "copy-start":
        return hbm(given[0]) + hbm(x.results[:1])
    results = x.results[len(given) :] if x.opcode.endswith("-start") else x.results
    return sum(hbm(arrays) for arrays in given) + hbm(results)


def fused(
    program: Program, body: dict[str, Instruction], given: list[tuple], results: tuple[Array, ...]
) -> int:
    """Bytes of a fusion; of what is in it only parameters and root touch memory."""
    total = 0
    for number, arrays in enumerate(given):
        if whole := hbm(arrays):
            total += taken(program, body, parameter(body, number), whole)
    root = root_of(body)
    while root.opcode == "fusion":
        body = inside(program, root)
        root = root_of(body)
    names = root.operands if root.opcode == "tuple" else (root.name,)
    if len(names) != len(results):  # one instruction of several results, such as a sort
        return total + hbm(results)
    for name, array in zip(names, results, strict=True):
        total += hbm((array,)) and written(program, body, name, array.bytes)
    return total


def taken(program: Program, body: dict[str, Instruction], name: str, whole: int) -> int:
    """Bytes that a fusion reads of its parameter `name`: the parts it picks, or the whole."""
    total = 0
    for x in body.values():
        for place, operand in enumerate(x.operands):
            if operand != name:
                continue
            if x.opcode == "bitcast" and not x.root:
                total += taken(program, body, x.name, whole)
            elif x.opcode == "fusion":
                inner = inside(program, x)
                total += taken(program, inner, parameter(inner, place), whole)
            elif x.opcode in PICKS and place == 0:
                total += sum(array.bytes for array in x.results)
            elif x.opcode != "dynamic-update-slice" or place:  # what is overwritten is not read
                return whole
    return min(total, whole)


def written(program: Program, body: dict[str, Instruction], name: str, whole: int) -> int:
    """Bytes that a fusion writes as its result `name`: of an update in place the update."""
    x = body[name]
    if x.opcode == "bitcast":
        return written(program, body, x.operands[0], whole)
    if x.opcode == "dynamic-update-slice":
        return sum(array.bytes for array in body[x.operands[1]].results)
    if x.opcode == "fusion" and len(x.results) == 1:
        inner = inside(program, x)
        return written(program, inner, root_of(inner).name, whole)
    return whole


def inside(program: Program, fusion: Instruction) -> dict[str, Instruction]:
    return program.computations[next(name for name, _ in program.called(fusion, 1))]


def root_of(body: dict[str, Instruction]) -> Instruction:
    return next(x for x in body.values() if x.root)


def parameter(body: dict[str, Instruction], number: int) -> str:
    """Name of a computation's parameter."""
    return next(
        x.name for x in body.values() if x.opcode == "parameter" and int(x.literal) == number
    )


def hbm(arrays: tuple[Array, ...]) -> int:
    """Bytes of those that lie in HBM."""
    return sum(x.bytes for x in arrays if x.space == 0)


def matrix_flops(program: Program, unknown: int = 1) -> int:
    """FLOPs of all matrix products, two a multiply-add; on TPUs they are written as convolutions.

    Args:
      unknown: turns of loops of which the text does not tell the number.
    """
    total = 0
    for name, times in program.runs(unknown).items():
        computation = program.computations[name]
        for x in computation.values():
            if x.opcode in ("convolution", "dot"):
                shapes = [computation[operand].results[0].shape for operand in x.operands]
                count = convolution if x.opcode == "convolution" else dot
                total += times * count(x, *shapes)
    return total


def dot(x: Instruction, left: tuple[int, ...], right: tuple[int, ...]) -> int:
    inner = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", x.attributes)[1]
    inner = math.prod(left[int(axis)] for axis in inner.split(",") if axis)
    return 2 * math.prod(x.results[0].shape) * inner


def convolution(x: Instruction, left: tuple[int, ...], right: tuple[int, ...]) -> int:
    """Only products count that meet an element of the input, and no padding or dilation.

    Batched products come as convolutions whose batch is a dilated spatial axis, so that each
    output meets one of the kernel's positions.
    """
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", x.attributes)
    lhs, rhs, out = labels.groups()
    result = x.results[0].shape
    groups = int(found[1]) if (found := re.search(r"batch_group_count=(\d+)", x.attributes)) else 1
    count = right[rhs.index("i")] * result[out.index("f")] * (left[lhs.index("b")] // groups)
    window = re.search(r"window=\{([^}]*)\}", x.attributes)
    options = dict(part.split("=") for part in window[1].split()) if window else {}
    for axis, label in enumerate(sorted(set(out) - set("bf"))):

        def option(name: str, default: int, axis: int = axis) -> int:
            return int(options[name].split("x")[axis]) if name in options else default

        low = int(options["pad"].split("x")[axis].split("_")[0]) if "pad" in options else 0
        wide = left[lhs.index(label)]
        stride, dilate = option("stride", 1), option("lhs_dilate", 1)
        spread = option("rhs_dilate", 1)
        met = 0
        for at in range(result[out.index(label)]):
            for k in range(right[rhs.index(label)]):
                place, rest = divmod(at * stride - low + k * spread, dilate)
                met += not rest and 0 <= place < wide
        count *= met
    return 2 * count
