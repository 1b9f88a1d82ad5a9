"""What mkdocs calls while it builds: our check first, then generated pages, navigation from the first page, tables of results."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))  # mkdocs loads this file by its path alone

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

from docs.generate.check import mistakes
from docs.generate.pages import DOCS, generated_pages, generated_pictures
from docs.generate.results import with_results


def on_config(config: Any) -> Any:
    """Stop at what the check says, before anything is built; else lay out the navigation."""
    if lines := mistakes():
        raise PluginError("\n".join(["the documentation names what is not there:", *lines]))
    config.nav = navigation((DOCS / "index.md").read_text())
    return config


def on_files(files: Files, config: Any) -> Files:
    """Put the generated pages beside those that people wrote."""
    for path, text in (generated_pages() | generated_pictures()).items():
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put the tables of results where a page names them."""
    return with_results(markdown)


def navigation(index: str) -> list[Any]:
    """Return the navigation that the first page's lists stand for; a folder's page brings the generated pages of that folder."""
    entries: list[Any] = [{"Start": "index.md"}]
    for section in re.split(r"^## ", index, flags=re.MULTILINE)[1:]:
        title, _, body = section.partition("\n")
        links = re.findall(r"^- \[([^\]]+)\]\(([^)]+\.md)\)", body, re.MULTILINE)
        pages = [{name: _with_children(path)} for name, path in links]
        if pages:
            entries.append({title.strip(): pages})
    return entries


def _with_children(path: str) -> Any:
    if not path.endswith("/index.md"):
        return path
    folder = path.removesuffix("index.md")
    children = [page for page in generated_pages() if page.startswith(folder) and page != path]
    return [path, *({_title(page): page} for page in children)]


def _title(page: str) -> str:
    first = generated_pages()[page].partition("\n")[0]
    return first.removeprefix("# ")
