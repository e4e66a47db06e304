"""Executes launch/colab.py as a notebook; as a program writes launch/colab.ipynb with its outputs.

python tests/notebook.py
"""

import os
import pathlib
import tempfile

ROOT = pathlib.Path(__file__).parents[1]
SOURCE = ROOT / "launch" / "colab.py"
NOTEBOOK = SOURCE.with_suffix(".ipynb")


def execute(folder: str, timeout: int = 900):
    """Returns the notebook of SOURCE with the outputs of a fresh kernel.

    Args:
      folder: where the kernel runs and leaves its files.
      timeout: seconds a cell may take.
    """
    import jupytext
    from nbclient import NotebookClient

    notebook = jupytext.read(SOURCE)
    environment = {k: v for k, v in os.environ.items() if k not in ("XLA_FLAGS", "NPROC")}
    paths = [str(ROOT), environment.get("PYTHONPATH", "")]
    environment |= {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "JAX_PLATFORMS": "cpu"}
    client = NotebookClient(
        notebook,
        timeout=timeout,
        kernel_name="python3",
        resources={"metadata": {"path": folder}},
        record_timing=False,
    )
    client.execute(env=environment)
    return without_machine(notebook, folder)


def without_machine(notebook, folder: str):
    """Returns the notebook without paths of this machine and warnings of its packages."""
    for cell in notebook.cells:
        if "outputs" not in cell:
            continue
        cell.outputs = [x for x in cell.outputs if "site-packages" not in x.get("text", "")]
        for output in cell.outputs:
            if "text" in output:
                output.text = output.text.replace(f"{folder}/", "")
    return notebook


if __name__ == "__main__":
    import nbformat

    with tempfile.TemporaryDirectory() as folder:
        nbformat.write(execute(folder), NOTEBOOK)
