"""The verb `compile`: reports what a config needs of TPUs, without a TPU."""

import argparse
import sys
from typing import TYPE_CHECKING

from blip_jax.cli import config_verb
from blip_jax.runtime.errors import UserError
from blip_jax.runtime.suggestions import hint

if TYPE_CHECKING:
    from blip_jax.train.aot import compile
    from blip_jax.train.config import TrainConfig

DESCRIPTION = """\
Compiles the step that `train` runs, and CapFilt's two programs with the same network (64 images,
one chip), and prints what they need. Exit status 1: a program does not fit into memory."""
REMAT_POLICIES = ("none", "dots", "full")  # each recomputes more than the one before
PROGRAMS = ("step", "captioner", "matcher")
LARGEST_PARTS = 5  # of the HBM traffic that are listed
UNITS = {"GiB": 2**30, "GB": 10**9, "MB": 10**6, "TFLOP": 10**12}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the verb."""
    parser.add_argument(
        "--topology", metavar="NAME", default="",
        help="generation and chips along each axis, as in v5p:2x4x4; or a machine type, as in "
        "v5p-64 [config.topology]",
    )  # fmt: skip
    parser.add_argument(
        "--programs", type=_program_names, default=list(PROGRAMS), metavar="LIST",
        help=f"comma-separated, among {','.join(PROGRAMS)} [all]",
    )  # fmt: skip
    parser.add_argument(
        "--sweep", action="store_true", help="also try other batch sizes and remat policies"
    )
    parser.add_argument(
        "--batches", type=_batch_sizes, default=[], metavar="LIST",
        help="comma-separated batch sizes of the sweep [1/2, 1, 2 and 4 times the config's]",
    )  # fmt: skip

    parser.add_argument(
        "--machine-code", action="store_true",
        help="also generate the machine code, which may take half an hour and is only counted in "
        "the peak",
    )  # fmt: skip


def _program_names(text: str) -> list[str]:
    for name in text.split(","):
        if name not in PROGRAMS:
            raise argparse.ArgumentTypeError(f"no program {name!r}; {hint(name, PROGRAMS)}")
    return text.split(",")


def _batch_sizes(text: str) -> list[int]:
    if not all(size.isdecimal() for size in text.split(",")):
        raise argparse.ArgumentTypeError(f"{text!r} is not a comma-separated list of whole numbers")
    return [int(size) for size in text.split(",")]


def run(argv: list[str]) -> int:
    """Runs the verb `compile`: compiles programs and prints tables.

    Returns: 1 if a program does not fit into memory, else 0.

    Raises:
      UserError: an unknown topology or program, no TPU compiler, or a config that does not fit the
        topology.
    """
    from blip_jax.train.aot import topology

    topology.prepare()  # before jax is imported
    verb = config_verb.ConfigVerb(
        "compile", DESCRIPTION, ("TrainConfig",), shown="pretrain", workdir=False,
        add_arguments=add_arguments, required=False,
    )  # fmt: skip
    parsed = config_verb.parse(verb, argv)
    if parsed is None:
        return 0
    config, arguments = parsed
    topology_name = arguments.topology or config.topology
    if not topology_name:
        raise UserError("--topology NAME is missing, and config.topology is empty")
    topology_name = topology.resolve(topology_name)
    topology.devices(topology_name)  # raises for an unknown topology before anything is printed
    print(f"{topology_name}, {topology.chips(topology_name)} chips", file=sys.stderr)
    machine_code = arguments.machine_code
    fits = compile_programs(config, topology_name, arguments.programs, machine_code)
    if arguments.sweep:
        fits = sweep(config, topology_name, arguments.batches, machine_code) and fits
    return 0 if fits else 1


def compile_programs(
    config: "TrainConfig", topology_name: str, names: list[str], machine_code: bool
) -> bool:
    """Compiles programs and prints a table of what they need. Returns: whether all fit."""
    from blip_jax.reports import tables
    from blip_jax.train.aot import compile

    rows, errors, largest = [], [], []
    for name in names:
        announce(name)
        try:
            cost = compiled_cost(name, config, topology_name, machine_code)
        except compile.OutOfMemory as error:
            errors.append(error)
            peak = error.peak_bytes / UNITS["GiB"]
            rows.append({"program": name, "fits": "no", "peak GiB": peak})
        else:
            rows.append(cost_row(cost, config, topology_name))
            largest += largest_parts(cost)
    print(tables.plain(transposed(rows)))
    if largest:
        print(f"\nthe largest parts of the HBM traffic:\n\n{tables.plain(largest)}")
    for error in errors:
        print(f"\n{error.program} {suggestions(error, config, topology_name)}", file=sys.stderr)
    return not errors


def compiled_cost(
    program: str, config: "TrainConfig", topology_name: str, machine_code: bool
) -> "compile.CompiledCost":
    """Returns what a program needs; see `compile.compile_program`."""
    from blip_jax.train.aot import compile, optimized

    if machine_code:
        return compile.compile_program(program, config, topology_name)
    return optimized.in_child(compile.compile_program, program, config, topology_name, False)


def announce(program: str) -> None:
    """Prints which program is being compiled, as that takes a minute or more."""
    print(f"-- compiling: {program}", file=sys.stderr, flush=True)


def cost_row(
    cost: "compile.CompiledCost", config: "TrainConfig", topology_name: str
) -> dict[str, object]:
    """Returns what a program needs, by name of the quantity; per chip unless the name says all."""
    from blip_jax.train.aot import topology

    chip, _ = topology.parse(topology_name)
    roofline = cost.roofline
    collectives = sorted(cost.ici_bytes.items())
    row = {
        "program": cost.program,
        "chips": cost.chips,
        "batch, all chips": cost.batch_size,
        "fits": "yes",
        "arguments GiB": cost.arguments_bytes / UNITS["GiB"],
        "temporaries GiB": cost.temporaries_bytes / UNITS["GiB"],
        "peak GiB": cost.peak_bytes / UNITS["GiB"],
        "of HBM GiB": float(chip.hbm_gib),
        "TFLOP, by formula": cost.flops / UNITS["TFLOP"],
        "TFLOP, as compiled": cost.compiled_flops / UNITS["TFLOP"],
        "HBM traffic GB": cost.hbm_bytes / UNITS["GB"],
        **{f"{collective} MB": size / UNITS["MB"] for collective, size in collectives},
        "ms compute": 1e3 * roofline.compute_seconds,
        "ms HBM": 1e3 * roofline.hbm_seconds,
        "ms ICI": 1e3 * roofline.ici_seconds,
        "limit": roofline.limit,
        "images/s, at best": round(cost.images_per_second),
    }
    if cost.program == "step":
        row["of HBM traffic GB: update of the state, at least"] = cost.update_bytes / UNITS["GB"]
        row["model.remat"] = cost.remat
        row[f"hours for {config.steps:,} steps"] = config.steps * roofline.seconds / 3600
    return row


def largest_parts(cost: "compile.CompiledCost") -> list[dict[str, object]]:
    """Returns the parts of a program that move the most bytes, a row of a table each."""
    parts = list(cost.hbm_bytes_by_part.items())[:LARGEST_PARTS]
    return [
        {"program": cost.program, "GB": format_value(size / UNITS["GB"]), "part": part}
        for part, size in parts
    ]


def transposed(rows: list[dict[str, object]]) -> list[dict[str, str]]:
    """Returns a table with one column per program and one row per quantity."""
    from blip_jax.reports import tables

    names = [name for name in tables.columns_of(rows) if name != "program"]
    return [
        {"per chip": name, **{row["program"]: format_value(row.get(name)) for row in rows}}
        for name in names
    ]


def format_value(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}" if value < 1000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def suggestions(error: "compile.OutOfMemory", config: "TrainConfig", topology_name: str) -> str:
    """Returns a message about a program that does not fit, with config changes to try."""
    from blip_jax.train.aot import topology

    chip, _ = topology.parse(topology_name)
    peak = error.peak_bytes / UNITS["GiB"]
    message = f"does not fit: needs {peak:.1f} GiB or more of {chip.hbm_gib:.0f}"
    if error.program != "step":
        return f"{message}; no config field changes that"
    policies = {"none": ("dots", "full"), "dots": ("full",)}.get(config.model.remat, ())
    flags = [f"--config.model.remat={policy}" for policy in policies]
    flags.append(f"--config.mesh.fsdp={max(2, 2 * config.mesh.fsdp)}")
    flags.append(f"--config.accumulate_steps={2 * config.accumulate_steps}")
    return f"{message}; try {', '.join(flags)}, or more chips"


def sweep(
    config: "TrainConfig", topology_name: str, batch_sizes: list[int], machine_code: bool
) -> bool:
    """Compiles the step for several batch sizes and remat policies and prints the fastest.

    What recomputes more may be faster, as it moves fewer bytes. A policy that did not fit is not
    tried again with a larger batch.

    Returns: whether any fits.
    """
    from blip_jax.reports import tables
    from blip_jax.runtime.config import replace
    from blip_jax.train.aot import compile

    batch = config.batch_size
    batch_sizes = sorted(batch_sizes or [batch // 2, batch, 2 * batch, 4 * batch])
    rows, best, failed_policies = [], None, set()
    for batch_size in batch_sizes:
        for policy in REMAT_POLICIES:
            if policy in failed_policies:
                continue
            trial = replace(config, batch_size=batch_size, **{"model.remat": policy})
            row = {"batch": batch_size, "remat": policy}
            rows.append(row)
            announce(f"step, batch {batch_size}, remat {policy}")
            try:
                cost = compiled_cost("step", trial, topology_name, machine_code)
            except UserError as error:
                row["fits"] = str(error)
                break
            except compile.OutOfMemory as error:
                failed_policies.add(policy)
                row |= {"fits": "no", "peak GiB": format_value(error.peak_bytes / UNITS["GiB"])}
                continue
            row |= {
                "fits": "yes",
                "peak GiB": format_value(cost.peak_bytes / UNITS["GiB"]),
                "limit": cost.roofline.limit,
                "images/s": round(cost.images_per_second),
            }
            if best is None or cost.images_per_second > best[0]:
                best = cost.images_per_second, batch_size, policy
    print(f"\n{tables.plain(rows)}\n")
    if best is None:
        print("nothing fits; try --config.mesh.fsdp, or more chips", file=sys.stderr)
        return False
    images_per_second, batch_size, policy = best
    print(
        f"best: --config.batch_size={batch_size} --config.model.remat={policy} "
        f"({images_per_second:,.0f} images/s at most)"
    )
    return True
