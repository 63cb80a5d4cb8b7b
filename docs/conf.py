"""Sphinx makes the site of these pages, of the README, of the examples and of the docstrings: `make docs`.

The pages are those that one reads in the repository, with the same links. So the root of the sources is the repository,
and the README is the first page. Nothing is fetched: the theme has fonts of the system and its own scripts.
"""

from __future__ import annotations

import re
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from einsearch_cli.version import __version__  # noqa: E402

project = "einsearch"
author = "The einsearch maintainers"
version = release = __version__

root_doc = "README"
include_patterns = ["README.md", "CHANGELOG.md", "docs/**.md", "examples/*/README.md"]
exclude_patterns = [".*", "build", "data", "runs", "einsearch_cli", "tests", "benchmarks"]
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]

myst_heading_anchors = 4
default_role = "code"
smartquotes = False  # -- is the start of an option
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
copybutton_prompt_text = "$ "

html_theme = "furo"
html_title = "einsearch"
html_static_path = ["site"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_copy_source = False
templates_path: list[str] = []

PARTS = {"Learn": ["tutorial", "guide"], "Look up": ["reference"], "Understand": ["explanation", "design"]}
"""Headings of the menu and the folders below each."""
TREE = "\n```{{toctree}}\n:hidden:\n{caption}{pages}\n```\n"
LINK = re.compile(r"\]\(([^):#]+)\.md\)")


def add_menu(_: Any, page: str, source: list[str]) -> None:
    """Put into the menu, below the first page, all parts; below an index page, the pages that it links to, in its order."""
    if page == root_doc:
        for caption, folders in PARTS.items():
            more = ["CHANGELOG"] if caption == "Look up" else []
            source[0] += TREE.format(
                caption=f":caption: {caption}\n", pages="\n".join([*(f"docs/{name}/index" for name in folders), *more])
            )
    elif page.endswith("/index"):
        linked = dict.fromkeys(LINK.findall(source[0]))
        pages = [name for name in linked if not (name.startswith("../") and name.endswith("/index"))]  # another part
        source[0] += TREE.format(caption="", pages="\n".join(pages))


def start_sentence(_app: Any, what: str, _name: str, _object: object, _options: object, lines: list[str]) -> None:
    """Keep a colon in the docstring of a field a colon: napoleon takes the words before it for a type."""
    if what in ("attribute", "property", "data") and lines:
        lines.insert(0, "")


SECTIONS = ("Args", "Raises", "Returns", "Yields", "Source")


def mark_code(_app: Any, _what: str, _name: str, _object: object, _options: object, lines: list[str]) -> None:
    """Make blocks of code of what stands indented under a paragraph; the docstrings show them without `::`."""
    done: list[str] = []
    above = ""  # the last line that is not indented
    is_code = False
    for line in lines:
        if line and not line.startswith(" "):
            above, is_code = line, False
        elif line.startswith("    ") and done and not done[-1] and not is_code and _is_prose(above):
            done += [".. code-block:: text", ""]
            is_code = True
        done.append(line)
    lines[:] = done


def _is_prose(line: str) -> bool:
    return not (
        line.rstrip(":") in SECTIONS or line.startswith(("- ", "* ", ">>>", "...", "..")) or line.endswith("::")
    )


def load_names(_: Any) -> None:
    """Load what the packages load on first use: autodoc looks at what is there."""
    for path in (ROOT / "docs" / "reference" / "python").glob("*.md"):
        for name in re.findall(r"automodule:: (\S+)", path.read_text(encoding="utf-8")):
            module = import_module(name)
            for each in getattr(module, "__all__", ()):
                getattr(module, each)


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.connect("source-read", add_menu)
    app.connect("builder-inited", load_names)
    app.connect("autodoc-process-docstring", mark_code, priority=300)
    app.connect("autodoc-process-docstring", start_sentence, priority=400)  # napoleon has 500
