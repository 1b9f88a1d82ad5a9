"""All pages of the site: what people wrote, with its tables of results, and what is generated from the code."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import attar
from docs.generate.commands import command_pages
from docs.generate.methods import method_pages
from docs.generate.plots import plot_pages
from docs.generate.recipes import recipe_pages
from docs.generate.results import result_pages
from docs.generate.stages import stage_pages
from docs.generate.tree import tree_pages

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
# Pages beside the site, held to the same checks.
BESIDE = ("README.md", "CONTRIBUTING.md", "SECURITY.md", "benchmarks/README.md", "examples/README.md")
# Pages at the top of the repository that the site shows too.
MOVED = {"CONTRIBUTING.md": "contributing.md", "SECURITY.md": "security.md", "CHANGELOG.md": "changelog.md"}
PYTHON = """# Python

`import attar` is the face for scripts and notebooks. Each part is imported when it is first used. The same stages and recipes as on the command line,
without it.
"""
OPTIONS = "    options: {show_root_heading: true, heading_level: 2, show_root_full_path: false, show_bases: false}"


@cache
def generated_pages() -> dict[str, str]:
    """Return the generated pages by path within the site."""
    makers = (stage_pages, method_pages, recipe_pages, command_pages, result_pages, tree_pages)
    pages = {path: text for make in makers for path, text in make()}
    pages["reference/python.md"] = _python()
    return pages | {page: _moved((ROOT / name).read_text()) for name, page in MOVED.items() if (ROOT / name).is_file()}


@cache
def generated_pictures() -> dict[str, str]:
    """Return the generated pictures by path within the site."""
    return plot_pages()


def written_pages() -> dict[str, str]:
    """Return the pages that people wrote, by path within the site; `../README.md` and the like for those beside it."""
    inside = {path.relative_to(DOCS).as_posix(): path.read_text() for path in sorted(DOCS.rglob("*.md"))}
    beside = {f"../{name}": (ROOT / name).read_text() for name in BESIDE if (ROOT / name).is_file()}
    return inside | beside


def _python() -> str:
    """Return the page of the public face: an entry for each name that it exports, from the module that the name comes from."""
    homes: dict[str, str] = getattr(attar, "HOMES", {})
    entries = [f"::: {homes[name]}.{name}\n{OPTIONS}" for name in getattr(attar, "__all__", ()) if name in homes]
    return "\n\n".join([PYTHON, *(entries or ["::: attar"])])


def _moved(text: str) -> str:
    """Return a page of the top as it stands within the site: its links lead to the site's pages."""
    text = text.replace("](docs/", "](")
    for name, page in MOVED.items():
        text = text.replace(f"]({name}", f"]({page}")
    return text
