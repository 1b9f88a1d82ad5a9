"""A fact that its artifact's class declares is read as an attribute, which the type checker sees; by name only where the kind is any."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

from attar.registry.artifacts.handles import KINDS

ROOT = Path(__file__).parents[2]
DECLARED = {entry.name for kind in KINDS.values() for entry in fields(kind.facts_type)}


def read_by_name(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield (line, fact) for `inputs.SLOT.facts["fact"]` and `inputs.SLOT.facts.get("fact", ...)`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Subscript):
            holder, name = node.value, node.slice
        elif (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr == "get"
            and node.args
        ):
            holder, name = node.func.value, node.args[0]
        else:
            continue
        is_declared = isinstance(name, ast.Constant) and name.value in DECLARED
        if is_declared and ast.unparse(holder).startswith("inputs.") and ast.unparse(holder).endswith(".facts"):
            yield node.lineno, str(name.value)  # type: ignore[union-attr]


def test_stages_read_declared_facts_as_attributes() -> None:
    lines = [
        f"{path.relative_to(ROOT)}:{line}: facts.{name}"
        for path in sorted((ROOT / "stages").rglob("*.py"))
        for line, name in read_by_name(ast.parse(path.read_text()))
    ]
    assert not lines, "\n".join(lines)


def test_both_ways_of_reading_by_name_are_seen() -> None:
    source = 'inputs.model.facts["vocab_size"]; inputs.data.facts.get("name", ""); inputs.model.facts["accuracy_arc"]; step.facts["num_blocks"]'
    assert [name for _, name in read_by_name(ast.parse(source))] == ["vocab_size", "name"]
