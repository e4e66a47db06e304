"""Writes the API reference, HTML pages of the docstrings, and checks their links.

    pip install -e ".[docs]"
    python tests/api_reference.py public/

Prints each link to a page or name that does not exist, and then exits with 1.
"""

import pathlib
import re
import sys
import warnings
from urllib.parse import unquote, urldefrag, urljoin

# What notebooks and tasks of one's own import; the command line has --help.
MODULES = tuple(
    f"blip_jax.{name}"
    for name in ("models", "nn", "losses", "decoding", "checkpoints", "metrics", "tasks", "train")
)
LINK = re.compile(r'<a [^>]*href="([^"]+)"')
NAME = re.compile(r'\bid="([^"]+)"')
# What has links of no page: scripts, and pdoc's lists of what a class has from abstract ones.
LEFT_OUT = re.compile(r'<script\b.*?</script>|<div class="inherited">.*?</dl>', re.DOTALL)
FLAX = (".apply", ".init")  # named by Flax's docstring of `setup`, which pdoc repeats


def write(folder: pathlib.Path) -> None:
    """Writes the pages of MODULES."""
    import pdoc

    pdoc.render.configure(docformat="google")
    with warnings.catch_warnings():  # of annotations of libraries
        warnings.simplefilter("ignore")
        pdoc.pdoc(*MODULES, output_directory=folder)


def broken_links(folder: pathlib.Path) -> list[str]:
    """Returns "PAGE: LINK" of each link to a page or a name that does not exist."""
    pages = sorted(folder.rglob("*.html"))
    texts = {path: LEFT_OUT.sub("", path.read_text("utf-8")) for path in pages}
    names = {path.as_uri(): set(NAME.findall(text)) for path, text in texts.items()}
    found = []
    for path, text in texts.items():
        for link in LINK.findall(text):
            if "://" in link or link.endswith(FLAX):
                continue
            page, name = urldefrag(urljoin(path.as_uri(), link))
            if page not in names or (name and unquote(name) not in names[page]):
                found.append(f"{path.relative_to(folder)}: {link}")
    return found


def main() -> int:
    folder = pathlib.Path(sys.argv[1]).absolute()
    write(folder)
    broken = broken_links(folder)
    print(*broken, sep="\n")
    print(f"{len(list(folder.rglob('*.html')))} pages in {folder}, {len(broken)} broken links")
    return bool(broken)


if __name__ == "__main__":
    sys.exit(main())
