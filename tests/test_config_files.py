"""Config files: found by path and by name, from a checkout and from an installed package."""

import os
import pathlib
import subprocess
import sys

import pytest

from blip_jax.cli import config_files
from blip_jax.runtime.errors import UserError

ROOT = pathlib.Path(__file__).parents[1]
FILE = '''"""A config
of a test."""
import dataclasses
from typing import Literal


@dataclasses.dataclass(frozen=True)
class Config:
    name: Literal["", "small"] = ""


def get_config(name=""):
    return Config(name)
'''


def test_a_file_with_a_variant_gives_its_config_and_docstring(tmp_path):
    path = tmp_path / "some.py"
    path.write_text(FILE)
    config, docstring = config_files.load(f"{path}:small")
    assert config.name == "small" and docstring == "A config\nof a test."
    path.write_text(FILE.replace("small", "tiny").replace("A config", "Another"))
    config, docstring = config_files.load(str(path))  # nothing stays from call to call
    assert config.name == "" and docstring == "Another\nof a test."


def test_names_are_those_of_the_files():
    assert config_files.names() == sorted(path.stem for path in (ROOT / "configs").glob("*.py"))
    assert config_files.find("prepare") == ROOT / "configs" / "prepare.py"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("nowhere/some.py", "config file nowhere/some.py does not exist"),
        ("some.py:small", "config file some.py does not exist"),
        ("nowhere/some", "config file nowhere/some does not exist"),
        ("prepar:x", "there is no config 'prepar'; did you mean 'prepare'?"),
        ("capfilt:x", "config file capfilt has no variants; leave out :x"),
        ("prepare:vqa", "config prepare has no variant 'vqa'; did you mean 'vqa_v2'?"),
    ],
)
def test_what_there_is_not_is_one_line(spec, message):
    with pytest.raises(UserError) as error:
        config_files.load(spec)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("x = 1\n", "gives no config: module 'blip_jax_config_file' has no attribute 'get_config'"),
        ("def get_config(:\n", "gives no config: invalid syntax"),
        ("import nothing_of_this_name\n", "gives no config: No module named 'nothing_of_this_name"),
        ("def get_config():\n    raise ValueError('first\\nsecond')\n", "gives no config: second"),
        ("def get_config():\n    raise KeyError\n", "gives no config: KeyError"),
        ("from blip_jax.runtime.errors import UserError\n\n\ndef get_config():\n"
         "    raise UserError('there is no machine x; give y')\n", "there is no machine x; give y"),
    ],
)  # fmt: skip
def test_a_file_that_gives_none_is_one_line(tmp_path, content, message):
    (tmp_path / "broken.py").write_text(content)
    with pytest.raises(UserError) as error:
        config_files.load(str(tmp_path / "broken.py"))
    assert message in str(error.value) and "\n" not in str(error.value)


def test_the_built_package_holds_the_configs(tmp_path):
    """As a wheel does; setup.py maps configs/ into it."""
    build = [sys.executable, "setup.py", "-q", "build_py", "--build-lib", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    code = "from blip_jax.cli import config_files as f; print(f.find('pretrain'), *f.names())"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    out = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True, text=True,
        stdout=subprocess.PIPE,
    ).stdout.split()  # fmt: skip
    assert out == [f"{tmp_path}/blip_jax/configs/pretrain.py", *config_files.names()]
    assert list(tmp_path.glob("blip_jax/reports/templates/*.j2"))
