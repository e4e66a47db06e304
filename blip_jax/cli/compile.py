"""The verb `compile`: what a config needs of TPUs, found out without one."""

import argparse
import sys
from typing import TYPE_CHECKING

from blip_jax.cli import config_verb
from blip_jax.runtime.errors import UserError
from blip_jax.runtime.suggestions import hint

if TYPE_CHECKING:
    from blip_jax.train.config import TrainConfig

DESCRIPTION = """\
Compiles the step that `train` runs, and CapFilt's two programs with the same network (64 images,
one chip), and prints what they need. Exit status 1: something does not fit."""
PROGRAMS = ("step", "captioner", "matcher")
UNITS = {"GiB": 2**30, "GB": 10**9, "MB": 10**6, "TFLOP": 10**12}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the verb."""
    parser.add_argument(
        "--topology", metavar="NAME", default="",
        help="generation and chips along each axis, v5p:2x4x4; or a machine type, v5p-64 "
        "[config.topology]",
    )  # fmt: skip
    parser.add_argument(
        "--programs", type=_names, default=list(PROGRAMS), metavar="LIST",
        help=f"by commas, of {','.join(PROGRAMS)} [all]",
    )  # fmt: skip
    parser.add_argument(
        "--sweep", action="store_true", help="also try other batch sizes and remat policies"
    )
    parser.add_argument(
        "--batches", type=_sizes, default=[], metavar="LIST",
        help="batch sizes of the sweep, by commas [half, once, twice, four times the config's]",
    )  # fmt: skip


def _names(text: str) -> list[str]:
    for name in text.split(","):
        if name not in PROGRAMS:
            raise argparse.ArgumentTypeError(f"no program {name!r}; {hint(name, PROGRAMS)}")
    return text.split(",")


def _sizes(text: str) -> list[int]:
    if not all(size.isdecimal() for size in text.split(",")):
        raise argparse.ArgumentTypeError(f"{text!r} is not whole numbers with commas between")
    return [int(size) for size in text.split(",")]


def run(argv: list[str]) -> int:
    """Compiles and prints tables.

    Returns: 1 if something does not fit, else 0.

    Raises:
      UserError: an unknown topology or program, no TPU compiler, or a config that does not fit the
        topology.
    """
    from blip_jax.train.aot import topology

    topology.prepare()  # before jax is imported
    from blip_jax.train.config import TrainConfig

    verb = config_verb.ConfigVerb(
        "compile", DESCRIPTION, (TrainConfig,), shown="pretrain", workdir=False,
        add_arguments=add_arguments, required=False,
    )  # fmt: skip
    call = config_verb.parse(verb, argv)
    if call is None:
        return 0
    config, arguments = call
    where = arguments.topology or config.topology
    if not where:
        raise UserError("--topology NAME is missing, and config.topology is empty")
    where = topology.resolve(where)
    topology.devices(where)  # refuses what cannot be, before anything is printed
    print(f"{where}, {topology.chips(where)} chips", file=sys.stderr)
    fits = programs(config, where, arguments.programs)
    if arguments.sweep:
        fits = sweep(config, where, arguments.batches) and fits
    return 0 if fits else 1


def programs(config: "TrainConfig", where: str, names: list[str]) -> bool:
    """Compiles and prints them one by one. Returns: whether all fit."""
    from blip_jax.reports import tables
    from blip_jax.train.aot import compile

    rows, missing = [], []
    for name in names:
        announce(name)
        try:
            rows.append(row(compile.PROGRAMS[name](config, where), config, where))
        except compile.OutOfMemory as error:
            missing.append(error)
            rows.append({"program": name, "fits": "no", "peak GiB": error.peak / UNITS["GiB"]})
    print(tables.plain(transposed(rows)))
    for error in missing:
        print(f"\n{error.program} {advice(error, config, where)}", file=sys.stderr)
    return not missing


def announce(what: str) -> None:
    """Each takes minutes."""
    print(f"-- compiling: {what}", file=sys.stderr, flush=True)


def row(found, config: "TrainConfig", where: str) -> dict[str, object]:
    """What a program needs, of one chip unless it says otherwise."""
    from blip_jax.train.aot import topology

    chip, _ = topology.parse(where)
    roof = found.roofline
    values = {
        "program": found.program,
        "chips": found.chips,
        "batch, all chips": found.batch,
        "fits": "yes",
        "arguments GiB": found.arguments / UNITS["GiB"],
        "temporaries GiB": found.temporaries / UNITS["GiB"],
        "peak GiB": found.peak / UNITS["GiB"],
        "of HBM GiB": float(chip.hbm),
        "TFLOP, by formula": found.flops / UNITS["TFLOP"],
        "TFLOP, as compiled": found.compiled / UNITS["TFLOP"],
        "HBM traffic GB": found.hbm / UNITS["GB"],
        **{f"{kind} MB": size / UNITS["MB"] for kind, size in sorted(found.ici.items())},
        "ms compute": 1e3 * roof.compute,
        "ms HBM": 1e3 * roof.hbm,
        "ms ICI": 1e3 * roof.ici,
        "limit": roof.limit,
        "images/s, at best": round(found.rate),
    }
    if found.program == "step":
        values[f"hours for {config.steps:,} steps"] = config.steps * roof.seconds / 3600
    return values


def transposed(rows: list[dict[str, object]]) -> list[dict[str, str]]:
    """A column a program, a line a quantity."""
    from blip_jax.reports import tables

    names = [name for name in tables.columns_of(rows) if name != "program"]
    return [{"a chip": name, **{x["program"]: shown(x.get(name)) for x in rows}} for name in names]


def shown(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}" if value < 1000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def advice(error, config: "TrainConfig", where: str) -> str:
    """That it does not fit, and what to change."""
    from blip_jax.train.aot import topology

    chip, _ = topology.parse(where)
    text = f"does not fit: {error.peak / UNITS['GiB']:.1f} GiB or more, of {chip.hbm:.0f}"
    if error.program != "step":
        return f"{text}; no field of the config changes that"
    policies = ("none", "dots", "full")
    stronger = policies[policies.index(config.model.remat) + 1 :]
    ways = [f"--config.model.remat={policy}" for policy in stronger]
    ways.append(f"--config.mesh.fsdp={max(2, 2 * config.mesh.fsdp)}")
    ways.append(f"--config.accumulate_steps={2 * config.accumulate_steps}")
    return f"{text}; try {', '.join(ways)}, or more chips"


def sweep(config: "TrainConfig", where: str, sizes: list[int]) -> bool:
    """Tries batch sizes and remat policies and prints what fits best.

    A policy that did not fit is not tried with a larger batch, nor one that computes more again
    than one that fits. Returns: whether any fits.
    """
    from blip_jax.reports import tables
    from blip_jax.runtime.config import replace
    from blip_jax.train.aot import compile

    batch = config.batch_size
    sizes = sorted(sizes or [batch // 2, batch, 2 * batch, 4 * batch])
    rows, best, failed = [], None, set()
    for size in sizes:
        for policy in ("none", "dots", "full"):
            if policy in failed:
                continue
            trial = replace(config, batch_size=size, **{"model.remat": policy})
            given = {"batch": size, "remat": policy}
            announce(f"step, batch {size}, remat {policy}")
            try:
                found = compile.step(trial, where)
            except UserError as error:
                rows.append({**given, "fits": str(error)})
                break
            except compile.OutOfMemory as error:
                failed.add(policy)
                peak = shown(error.peak / UNITS["GiB"])
                rows.append({**given, "fits": "no", "peak GiB": peak})
                continue
            made = {"peak GiB": shown(found.peak / UNITS["GiB"]), "limit": found.roofline.limit}
            rows.append({**given, "fits": "yes", **made, "images/s": round(found.rate)})
            if best is None or found.rate > best[0]:
                best = found.rate, given
            break
    print(f"\n{tables.plain(rows)}\n")
    if best is None:
        print("nothing fits; try --config.mesh.fsdp, or more chips", file=sys.stderr)
        return False
    print(
        f"best: --config.batch_size={best[1]['batch']} --config.model.remat={best[1]['remat']} "
        f"({best[0]:,.0f} images/s at most)"
    )
    return True
