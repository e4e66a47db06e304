"""What surrounds the code: shell completion, API reference, containers, files on the project."""

import json
import re
import shutil
import subprocess
import tomllib

import api_reference
import documented
import pytest
import yaml

import blip_jax
from blip_jax.cli.completion import options_of, script
from blip_jax.cli.main import VERBS, main

ROOT = documented.ROOT
SETUP = (ROOT / "setup.py").read_text("utf-8")
EXTRAS = set(re.findall(r'^        "(\w+)": ', SETUP, re.MULTILINE))
# Sets what readline would set for a line, and prints what the function answers.
COMPLETE = """
source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(( $# - 1 )); _blip_jax
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def bash_script(tmp_path_factory):
    file = tmp_path_factory.mktemp("completion") / "blip-jax"
    file.write_text(script("bash"))
    return file


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["ca"], {"capfilt", "caption"}),
        (["train", "--config.optimizer.b"], {"--config.optimizer.b1=", "--config.optimizer.b2="}),
        (
            ["train", "--config", "=", "shapes_"],
            {"shapes_ablation", "shapes_gain", "shapes_paper", "shapes_tasks"},
        ),
        (["train", "--config", "video"], {"video_qa"}),
        (["caption", "--top"], {"--top-p", "--top-k"}),
        (["convert", "runs"], {"runs.pth"}),  # a file
        (["convert", "--mod"], set()),  # a word of its help that is no option
    ],
)
def test_bash_completes(words, expected, bash_script, tmp_path):
    (tmp_path / "runs.pth").touch()
    command = ["bash", "-c", COMPLETE, "-", str(bash_script), "blip-jax", *words]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) == expected and not done.stderr


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells(shell, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr("blip_jax.cli.completion.options_of", lambda verb: ["--top-p", "--config="])
    assert main(["completion", shell]) == 0
    printed = capsys.readouterr().out
    assert all(verb in printed for verb in VERBS)
    if shutil.which(shell):
        (tmp_path / "script").write_text(printed)
        subprocess.run([shell, "-n", str(tmp_path / "script")], check=True)


def test_options_are_those_of_help():
    assert {"--to", "--heads", "--debug"} <= set(options_of("convert"))
    assert not any(option.startswith("--config") for option in options_of("convert"))


def test_the_api_reference_has_no_broken_links(tmp_path):
    pytest.importorskip("pdoc")
    api_reference.write(tmp_path)
    assert (tmp_path / "blip_jax" / "models.html").exists()
    assert api_reference.broken_links(tmp_path) == []
    page = tmp_path / "blip_jax" / "losses.html"
    page.write_text(page.read_text() + '<a href="nn.html#Nobody"></a><a href="none.html"></a>')
    assert api_reference.broken_links(tmp_path) == [
        "blip_jax/losses.html: nn.html#Nobody", "blip_jax/losses.html: none.html"
    ]  # fmt: skip


def test_the_citation_is_of_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert citation["version"] == blip_jax.__version__ and citation["license"] == "Apache-2.0"
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    assert citation["preferred-citation"]["year"] == 2022


def test_containers_install_what_there_is():
    """No engine is needed to see that files and extras exist."""
    text = (ROOT / "launch" / "Dockerfile").read_text("utf-8")
    for line in re.findall(r"^COPY (.+)$", text, re.MULTILINE):
        for source in line.split()[:-1]:
            assert (ROOT / source).exists(), source
    for extras in re.findall(r'^ARG EXTRAS="?([\w,]+)', text, re.MULTILINE):
        assert set(extras.split(",")) <= EXTRAS
    container = json.loads((ROOT / ".devcontainer.json").read_text("utf-8"))
    build = container["build"]
    assert (ROOT / build["dockerfile"]).exists() and (ROOT / build["context"]).is_dir()
    assert set(build["args"]["EXTRAS"].split(",")) <= EXTRAS


def test_readme_names_the_extras():
    start = "\n".join((ROOT / "README.md").read_text("utf-8").splitlines()[:25])
    assert "pip install" in start
    named = set(re.findall(r"`(\w+)`", start))
    assert EXTRAS - {"test", "docs"} <= named


def test_types_are_marked():
    assert (ROOT / "blip_jax" / "py.typed").exists() and '"py.typed"' in SETUP
    assert tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
