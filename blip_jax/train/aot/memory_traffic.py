"""Bytes that a compiled program reads and writes in HBM, and FLOPs of its matrix products.

A fusion counts as one pass over its operands and results. Arrays that XLA keeps on the chip (memory
space S(1) and up) do not count.
"""

import math
import re
from collections import Counter

from blip_jax.train.aot.hlo import Array, HloModule, Instruction
from blip_jax.train.aot.program_parts import ProgramParts

# Instructions without traffic: they only name existing arrays, or are counted at their -start.
NO_TRAFFIC = {
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional",
    "call", "async-start", "after-all", "partition-id", "replica-id", "opt-barrier",
}  # fmt: skip
SLICES = {"dynamic-slice", "slice", "gather"}
ALLOCATION = 'custom_call_target="AllocateBuffer"'  # of an array that others write


def kernel_estimate(x: Instruction, name: str) -> int | None:
    """Returns what a kernel states as "flops" or "bytes_accessed"; None: it states nothing."""
    match = re.search(rf'"cost_estimate":\{{[^{{}}]*"{name}":"(\d+)"', x.attributes)
    return int(match[1]) if match and x.opcode == "custom-call" else None


def hbm_bytes_by_part(module: HloModule, default_trip_count: int = 1) -> dict[str, int]:
    """Returns the bytes that one run moves from and to HBM, by part (program_parts.py), most first.

    The padding of layouts does not count. A slice counts the bytes that it reads, an in-place
    update the bytes that it writes.

    Args:
      default_trip_count: iterations of loops whose number is not in the text.
    """
    counts: Counter = Counter()
    parts = ProgramParts(module)
    for name, times in module.execution_counts(default_trip_count, fusions=False).items():
        computation = module.computations[name]
        for x in computation.values():
            if moved := times * instruction_bytes(module, computation, x):
                counts[parts.part_of(name, x)] += moved
    return dict(counts.most_common())


def instruction_bytes(
    module: HloModule, computation: dict[str, Instruction], x: Instruction
) -> int:
    """Returns the HBM bytes of one run of one instruction."""
    if (
        x.opcode in NO_TRAFFIC
        or x.opcode.endswith(("-done", "-update"))
        or ALLOCATION in x.attributes
    ):
        return 0
    operands = [computation[name].results for name in x.operands]
    if x.opcode == "fusion":
        return fusion_bytes(module, fused_computation(module, x), operands, x.results)
    if x.opcode in SLICES:  # either side may be on the chip
        spaces = (operands[0][0].space, x.results[0].space)
        return x.results[0].bytes * spaces.count(0)
    if x.opcode == "dynamic-update-slice":
        return 2 * bytes_in_hbm(operands[1])
    if x.opcode == "slice-start":  # its results begin with the whole operand
        moved = x.results[1]
        return moved.bytes * (operands[0][0].space, moved.space).count(0)
    if x.opcode == "copy-start":
        return bytes_in_hbm(operands[0]) + bytes_in_hbm(x.results[:1])
    results = x.results[len(operands) :] if x.opcode.endswith("-start") else x.results
    arrays = [array for operand in operands for array in operand] + list(results)
    whole = bytes_in_hbm(arrays)
    stated = kernel_estimate(x, "bytes_accessed")
    if stated is None:
        return whole
    # A kernel may read a part of an operand in HBM; those on the chip it reads whole.
    on_chip = sum(array.bytes for array in arrays) - whole
    return min(whole, max(0, stated - on_chip))


def fusion_bytes(
    module: HloModule,
    body: dict[str, Instruction],
    operands: list[tuple],
    results: tuple[Array, ...],
) -> int:
    """Returns the HBM bytes of a fusion; only its parameters and its root touch memory."""
    total = 0
    for number, arrays in enumerate(operands):
        if array_bytes := bytes_in_hbm(arrays):
            total += bytes_read(module, body, parameter(body, number), array_bytes)
    root = root_of(body)
    while root.opcode == "fusion":
        body = fused_computation(module, root)
        root = root_of(body)
    names = root.operands if root.opcode == "tuple" else (root.name,)
    if len(names) != len(results):  # one instruction with several results, e.g. a sort
        return total + bytes_in_hbm(results)
    for name, array in zip(names, results, strict=True):
        total += bytes_in_hbm((array,)) and bytes_written(module, body, name, array.bytes)
    return total


def bytes_read(module: HloModule, body: dict[str, Instruction], name: str, array_bytes: int) -> int:
    """Returns the bytes that a fusion reads of its parameter `name`: its slices, or all of it."""
    total = 0
    for x in body.values():
        for position, operand in enumerate(x.operands):
            if operand != name:
                continue
            if x.opcode == "bitcast" and not x.root:
                total += bytes_read(module, body, x.name, array_bytes)
            elif x.opcode == "fusion":
                inner = fused_computation(module, x)
                total += bytes_read(module, inner, parameter(inner, position), array_bytes)
            elif x.opcode in SLICES and position == 0:
                total += sum(array.bytes for array in x.results)
            elif x.opcode != "dynamic-update-slice" or position:  # the updated array is not read
                return array_bytes
    return min(total, array_bytes)


def bytes_written(
    module: HloModule, body: dict[str, Instruction], name: str, array_bytes: int
) -> int:
    """Returns the bytes that a fusion writes as its result `name`; in place, only the update's."""
    x = body[name]
    if x.opcode == "bitcast":
        return bytes_written(module, body, x.operands[0], array_bytes)
    if x.opcode == "dynamic-update-slice":
        return sum(array.bytes for array in body[x.operands[1]].results)
    if x.opcode == "fusion" and len(x.results) == 1:
        inner = fused_computation(module, x)
        return bytes_written(module, inner, root_of(inner).name, array_bytes)
    return array_bytes


def fused_computation(module: HloModule, fusion: Instruction) -> dict[str, Instruction]:
    return module.computations[next(name for name, _ in module.called_computations(fusion, 1))]


def root_of(body: dict[str, Instruction]) -> Instruction:
    return next(x for x in body.values() if x.root)


def parameter(body: dict[str, Instruction], number: int) -> str:
    """Returns the name of a computation's parameter."""
    return next(
        x.name for x in body.values() if x.opcode == "parameter" and int(x.literal) == number
    )


def bytes_in_hbm(arrays: tuple[Array, ...]) -> int:
    """Returns the bytes of the arrays that are in HBM."""
    return sum(x.bytes for x in arrays if x.space == 0)


def matrix_flops(module: HloModule, default_trip_count: int = 1) -> int:
    """Returns the FLOPs of all matrix products, two per multiply-add.

    On TPUs matrix products are written as convolutions. Kernels state their FLOPs.

    Args:
      default_trip_count: iterations of loops whose number is not in the text.
    """
    total = 0
    for name, times in module.execution_counts(default_trip_count).items():
        computation = module.computations[name]
        for x in computation.values():
            if x.opcode in ("convolution", "dot"):
                shapes = [computation[operand].results[0].shape for operand in x.operands]
                count = convolution if x.opcode == "convolution" else dot
                total += times * count(x, *shapes)
            else:
                total += times * (kernel_estimate(x, "flops") or 0)
    return total


def dot(x: Instruction, left: tuple[int, ...], right: tuple[int, ...]) -> int:
    axes = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", x.attributes)[1]
    contracted = math.prod(left[int(axis)] for axis in axes.split(",") if axis)
    return 2 * math.prod(x.results[0].shape) * contracted


def convolution(x: Instruction, left: tuple[int, ...], right: tuple[int, ...]) -> int:
    """Returns the FLOPs of a convolution; products with padding or dilation do not count.

    XLA writes batched products as convolutions whose batch is a dilated spatial axis, so that each
    output meets one of the kernel's positions.
    """
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", x.attributes)
    left_labels, right_labels, output_labels = labels.groups()
    output = x.results[0].shape
    match = re.search(r"batch_group_count=(\d+)", x.attributes)
    groups = int(match[1]) if match else 1
    batch = left[left_labels.index("b")] // groups
    count = right[right_labels.index("i")] * output[output_labels.index("f")] * batch
    window = re.search(r"window=\{([^}]*)\}", x.attributes)
    options = dict(part.split("=") for part in window[1].split()) if window else {}
    for axis, label in enumerate(sorted(set(output_labels) - set("bf"))):

        def option(name: str, default: int, axis: int = axis) -> int:
            return int(options[name].split("x")[axis]) if name in options else default

        padding = int(options["pad"].split("x")[axis].split("_")[0]) if "pad" in options else 0
        stride = option("stride", 1)
        left_dilation, right_dilation = option("lhs_dilate", 1), option("rhs_dilate", 1)
        input_size = left[left_labels.index(label)]
        products = 0  # along this axis
        for output_position in range(output[output_labels.index(label)]):
            for kernel_position in range(right[right_labels.index(label)]):
                dilated = output_position * stride - padding + kernel_position * right_dilation
                position, remainder = divmod(dilated, left_dilation)
                products += not remainder and 0 <= position < input_size
        count *= products
    return 2 * count
