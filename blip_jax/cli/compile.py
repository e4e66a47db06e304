"""The verb `compile`: what a config needs of TPUs, found out without one."""

import sys

from absl import flags as absl_flags
from ml_collections import ConfigDict

from blip_jax.cli import flags
from blip_jax.runtime.errors import UserError

HELP = """\
usage: blip-jax compile --config FILE.py[:STRING] [--config.field=value ...] [options]

Compiles the step that `train` runs, and CapFilt's two programs with the same network (64 images,
one chip), and prints what they need. Exit status 1: something does not fit.

  --topology NAME    generation and chips along each axis: v5p:2x4x4; or a machine type as in
                     v5p-64. Default: the config's, if its file names one.
  --programs LIST    of step,captioner,matcher; default: all
  --sweep            also tries other batch sizes and remat policies
  --batches LIST     of the sweep; default: half, once, twice, four times the config's
"""
UNITS = {"GiB": 2**30, "GB": 10**9, "MB": 10**6, "TFLOP": 10**12}


def define(values: absl_flags.FlagValues) -> None:
    """The verb's flags beside --config."""
    absl_flags.DEFINE_string("topology", "", "What to compile for.", flag_values=values)
    absl_flags.DEFINE_list(
        "programs", ["step", "captioner", "matcher"], "What to compile.", flag_values=values
    )
    absl_flags.DEFINE_bool("sweep", False, "Try batch sizes and policies.", flag_values=values)
    absl_flags.DEFINE_list("batches", [], "Batch sizes of the sweep.", flag_values=values)


def run(argv: list[str]) -> int:
    """Compiles and prints tables.

    Returns: 1 if something does not fit, else 0.

    Raises:
      UserError: an unknown topology or program, no TPU compiler, or a config that does not go
        with the topology.
    """
    if {"-h", "--help"} & set(argv):
        print(HELP, end="")
        return 0
    from blip_jax.train.aot import topology

    topology.prepare()  # before the config's file imports jax
    values = flags.parse("compile", argv, define, required=())
    config, where = values.config, values.topology or values.config.get("topology", "")
    if "task" not in config:
        raise UserError("the config is of no training; compile takes one that `train` takes")
    if not where:
        raise UserError("--topology NAME is missing, and the config names none")
    where = topology.resolve(where)
    from blip_jax.train.aot import compile

    unknown = sorted(set(values.programs) - set(compile.PROGRAMS))
    if unknown:
        known = ", ".join(compile.PROGRAMS)
        raise UserError(f"--programs has no {unknown[0]!r}; known: {known}")
    if not all(size.isdecimal() for size in values.batches):
        raise UserError(f"--batches is {','.join(values.batches)!r}; give whole numbers")
    topology.devices(where)  # refuses what cannot be, before anything is printed
    print(f"{where}, {topology.chips(where)} chips", file=sys.stderr)
    fits = programs(config, where, values.programs)
    if values.sweep:
        sizes = [int(size) for size in values.batches]
        fits = sweep(config, where, sizes) and fits
    return 0 if fits else 1


def programs(config: ConfigDict, where: str, names: list[str]) -> bool:
    """Compiles and prints them one by one. Returns: whether all fit."""
    from blip_jax.reports import tables
    from blip_jax.train.aot import compile

    rows, missing = [], []
    for name in names:
        announce(name)
        try:
            rows.append(row(compile.PROGRAMS[name](config, where), config, where))
        except compile.DoesNotFit as error:
            missing.append(error)
            rows.append({"program": name, "fits": "no", "peak GiB": error.peak / UNITS["GiB"]})
    print(tables.plain(transposed(rows)))
    for error in missing:
        print(f"\n{error.program} {advice(error, config, where)}", file=sys.stderr)
    return not missing


def announce(what: str) -> None:
    """Each takes minutes."""
    print(f"-- compiling: {what}", file=sys.stderr, flush=True)


def row(found, config: ConfigDict, where: str) -> dict[str, object]:
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


def advice(error, config: ConfigDict, where: str) -> str:
    """That it does not fit, and what would mend it."""
    from blip_jax.train.aot import topology

    chip, _ = topology.parse(where)
    text = f"does not fit: {error.peak / UNITS['GiB']:.1f} GiB or more, of {chip.hbm:.0f}"
    if error.program != "step":
        return f"{text}; no option of the config mends it"
    policies = ("none", "dots", "full")
    stronger = policies[policies.index(config.model.remat) + 1 :]
    ways = [f"--config.model.remat={policy}" for policy in stronger]
    ways.append(f"--config.mesh.fsdp={max(2, 2 * config.mesh.fsdp)}")
    ways.append(f"--config.accumulate={2 * config.accumulate}")
    return f"{text}; try {', '.join(ways)}, or more chips"


def sweep(config: ConfigDict, where: str, sizes: list[int]) -> bool:
    """Tries batch sizes and remat policies and prints what fits best.

    A policy that did not fit is not tried with a larger batch, nor one that computes more again
    than one that fits. Returns: whether any fits.
    """
    from blip_jax.reports import tables
    from blip_jax.train.aot import compile

    batch = config.batch_size
    sizes = sorted(sizes or [batch // 2, batch, 2 * batch, 4 * batch])
    rows, best, failed = [], None, set()
    for size in sizes:
        for policy in ("none", "dots", "full"):
            if policy in failed:
                continue
            trial = config.copy_and_resolve_references()
            trial.update(batch_size=size)
            trial.model.remat = policy
            given = {"batch": size, "remat": policy}
            announce(f"step, batch {size}, remat {policy}")
            try:
                found = compile.step(trial, where)
            except UserError as error:
                rows.append({**given, "fits": str(error)})
                break
            except compile.DoesNotFit as error:
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
