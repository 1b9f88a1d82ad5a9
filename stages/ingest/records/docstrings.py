"""Functions of installed packages as questions and answers. What a docstring says, and the code that does it; nothing is imported or run."""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path

from attar.stages.ingest.records.record_sources import Record

NAME = re.compile(r"[A-Za-z_]\w*")
# Of a docstring's first paragraph: what says something, and is no page.
MIN_WORDS, MAX_WORDS = 4, 60
# Of the code: one statement does little, and thousands of characters are beyond what an encoder reads.
MIN_STATEMENTS, MAX_CHARS = 2, 4000
# Files that are written by programs have thousands of functions alike.
MAX_FILE_BYTES = 400_000


def read_docstrings(rest: str, source: str, question: str, answer: str) -> Iterator[Record]:
    """Yield a record a function of the packages: first paragraph of its docstring, its code without it. The packages mixed, by a hash.

    Raises ValueError for a package that is not installed.
    """
    functions: dict[str, tuple[str, str]] = {}
    texts: set[str] = set()
    for name in package_names(rest):
        for path, text, code in _functions(_root(name)):
            if text not in texts and code not in texts:
                functions[f"{name}/{path}"] = (text, code)
                texts |= {text, code}
    order = sorted(functions, key=lambda key: hashlib.sha256(key.encode()).digest())
    for index, key in enumerate(order):
        text, code = functions[key]
        yield f"{source} row {index}", {question: text, answer: code}


def package_names(rest: str) -> list[str]:
    """Return the packages of a source line. Raises ValueError for a name that is none."""
    names = rest.split(",")
    if wrong := [name for name in names if not NAME.fullmatch(name)]:
        raise ValueError(f"docstrings: {wrong[0]!r} is no package's name; accepted: docstrings:PACKAGE[,PACKAGE]")
    return names


def packages_digest(rest: str) -> str:
    """Return the versions of the packages, so that another version is another source. Of one that names none, nothing."""
    names = package_names(rest)
    owners = importlib.metadata.packages_distributions()
    pairs = ((name, owner) for name in names for owner in sorted(set(owners.get(name, []))))
    return ";".join(f"{name}={importlib.metadata.version(owner)}" for name, owner in pairs)


def _root(name: str) -> Path:
    spec = importlib.util.find_spec(name)  # of a top-level package this reads no code of it
    locations = list(spec.submodule_search_locations or []) if spec is not None else []
    if not locations:
        raise ValueError(f"docstrings: no package {name!r} is installed here; accepted: the import name of one")
    return Path(locations[0])


def _functions(root: Path) -> Iterator[tuple[str, str, str]]:
    """Yield (file and name, first paragraph, code) of each function that says in words what it does."""
    for path in sorted(root.rglob("*.py")):
        if path.stat().st_size > MAX_FILE_BYTES:
            continue
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, ValueError, RecursionError):  # a template, or a test of wrong source
            continue
        for node in ast.walk(tree):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            text = _first_paragraph(node)
            if text and len(node.body) > MIN_STATEMENTS:
                code = _code(node)
                if len(code) <= MAX_CHARS:
                    yield f"{path.relative_to(root)}:{node.name}:{node.lineno}", text, code


def _first_paragraph(node: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    docstring = ast.get_docstring(node) or ""
    text = " ".join(docstring.split("\n\n")[0].split())
    is_words = MIN_WORDS <= len(text.split()) <= MAX_WORDS and text.isascii() and text[:1].isalpha()
    return text if is_words else ""


def _code(node: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    first, *rest = node.body
    node.body = rest
    try:
        return ast.unparse(node)
    except RecursionError:
        return "#" * (MAX_CHARS + 1)
    finally:
        node.body = [first, *rest]
