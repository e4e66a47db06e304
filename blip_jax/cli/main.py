"""The command line.

blip-jax VERB --config FILE.py [--config.FIELD=VALUE …] --workdir DIR   for runs
blip-jax VERB ARGUMENTS …                                               for files

train, capfilt and evaluate run on many hosts as well, by the same command on each of them.
"""

import importlib
import sys
import traceback

import blip_jax
from blip_jax.cli import environment
from blip_jax.cli.exit_status import report_error
from blip_jax.runtime import malloc
from blip_jax.runtime.command_line import called_with
from blip_jax.runtime.errors import UserError
from blip_jax.runtime.suggestions import hint

# Help text by verb. The verb's module has the same name and is imported when the verb is called.
RUNS = {
    "bootstrap": "run the full pipeline: pre-train, CapFilt, pre-train again, evaluate",
    "compare": "fine-tune tasks from a pre-training, from scratch, without images; a table",
    "train": "train one task; resumes from the newest checkpoint in the workdir",
    "capfilt": "caption every image of a dataset, score all texts, and write a mixture to train on",
    "assemble": "choose from stored scores the texts to train on; describe and show them",
    "evaluate": "measure a trained model on a dataset; writes metrics.json",
    "prepare": "import images and texts as a dataset, or build the synthetic Shapes dataset",
}
COMMANDS = {
    "caption": "write captions for image files",
    "match": "score how well texts describe image files",
    "answer": "answer a question about image files",
    "serve": "serve models over HTTP, until SIGTERM",
    "demo": "try models on a web page",
    "export": "write the images and texts of a mixture for other programs",
    "convert": "convert a checkpoint to another format, or to programs (StableHLO, ONNX)",
    "compile": "compile a config for TPUs without one: memory, time, communication",
    "completion": "print a script with which bash, zsh or fish completes commands",
}
VERBS = RUNS | COMMANDS


# Verbs that compute with networks, on this machine's CPU if it has no other device.
RUN_NETWORKS = {
    "bootstrap", "compare", "train", "capfilt", "evaluate", "caption", "match", "answer", "serve",
    "demo",
}  # fmt: skip


def usage() -> str:
    """Returns the text of `blip-jax --help`."""
    runs, commands = (
        [f"  {name:10} {what}" for name, what in verbs.items()] for verbs in (RUNS, COMMANDS)
    )
    return "\n".join([
        "usage: blip-jax VERB --config FILE.py [--config.FIELD=VALUE ...] --workdir DIR",
        "", *runs, "",
        "       blip-jax VERB ARGUMENTS ...",
        "", *commands, "",
        "       blip-jax VERB --help   lists the arguments of a verb, and the fields of its config",
        "       blip-jax --version",
    ])  # fmt: skip


def command() -> int:
    """Runs the verb of this process's arguments; may first start the process again.

    Returns: the exit status, as `main`.
    """
    if RUN_NETWORKS.intersection(sys.argv[1:2]):
        malloc.use_huge_pages()
    return main()


def main(argv: list[str] | None = None) -> int:
    """Runs one verb.

    Returns: the exit status: 0; 1 where files were left out, each named on stderr; 2 for bad
      input, reported in one line on stderr; 130 after Ctrl-C. SIGTERM, which clouds send before
      they take a machine back, ends training and CapFilt with 0: what was done is saved, and
      rerunning the same command resumes.
    """
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(usage())
        return 0
    if argv[0] in ("-V", "--version", "version"):
        print(f"blip-jax {blip_jax.__version__}")
        return 0
    verb = argv[0]
    try:
        if verb not in VERBS:
            raise UserError(f"unknown verb {verb!r}; {hint(verb, VERBS)}")
        with called_with(argv):
            return _run(verb, argv[1:])
    except (Exception, KeyboardInterrupt) as error:
        if "--debug" in argv:
            traceback.print_exc()
        status = report_error(verb, error)
        if status is None:
            raise
        return status
    except SystemExit as end:  # raised by argparse after --help
        return end.code or 0


def _run(verb: str, argv: list[str]) -> int:
    malloc.keep_freed_memory()
    environment.use_one_blas_thread()
    if "--verbose" not in argv:
        environment.silence_libraries()
    if verb != "compile":  # its programs do not run on this machine
        environment.cache_compiled_programs()
    return importlib.import_module(f"blip_jax.cli.{verb}").run(argv)
