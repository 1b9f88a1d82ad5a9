"""Modules import one another in one direction: no circle, imports under TYPE_CHECKING and within functions included."""

from __future__ import annotations

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("pipelines", "stages", "registry", "compressors")


def modules(root: Path) -> dict[str, Path]:
    """Return every module of the source by its dotted name below the repository's root."""
    paths = (path for package in PACKAGES for path in sorted((root / package).rglob("*.py")))
    return {".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): path for path in paths}


def imports_of(path: Path, known: dict[str, Path]) -> set[str]:
    """Return the modules of the source that a file imports, wherever in the file it does."""
    imported: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            imported |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return {name.removeprefix("attar.") for name in imported} & known.keys()


@pytest.fixture(scope="module")
def graph() -> dict[str, set[str]]:
    """Return the modules that each module imports."""
    known = modules(ROOT)
    return {name: imports_of(path, known) - {name} for name, path in known.items()}


def test_no_modules_import_one_another_in_a_circle(graph):
    try:
        order = list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))
    assert len(order) == len(graph) > 300


def test_imports_are_seen_wherever_they_stand(tmp_path):
    text = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import stages.a\ndef f():\n    from attar.stages import b\n"
    path = tmp_path / "module.py"
    path.write_text(text)
    assert imports_of(path, {"stages.a": path, "stages.b": path, "stages.c": path}) == {"stages.a", "stages.b"}
