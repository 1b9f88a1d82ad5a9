"""Our own types are never told apart outside the file that defines them: the question is put to the object."""

from __future__ import annotations

import ast
import builtins
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("compressors", "registry", "stages", "pipelines")
# Second arguments that are variables, and why those hold no type of ours.
VARIABLES = {
    ("compressors/catalogue.py", "types"): "the annotations of plain parameters",
    ("compressors/export/block_kinds.py", "PLAIN"): "kinds of plain config values",
    ("compressors/models/adapted.py", "peft.PeftModel"): "PEFT's own, asked without importing PEFT",
    ("registry/artifacts/manifest.py", "kind"): "kinds of JSON values",
    ("registry/tracking/run_record.py", "type(default) | int"): "kinds of JSON values",
}


@cache
def modules() -> dict[str, ast.Module]:
    """Every module of the four packages by its dotted name; read by the worker that asks, not by all who collect this file."""
    files = (path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py")))
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): ast.parse(path.read_text())
        for path in files
    }


@cache
def classes(name: str) -> set[str]:
    """The classes that a module defines."""
    return {node.name for node in ast.walk(modules()[name]) if isinstance(node, ast.ClassDef)}


@cache
def scope_of(name: str) -> Scope:
    return Scope(name)


@pytest.fixture(scope="module", autouse=True)
def forget() -> Iterator[None]:
    """Three million nodes of syntax need not stay."""
    yield
    for cached in (modules, classes, scope_of):
        cached.cache_clear()


class Scope:
    """What the names of one module stand for: (module, class) of our own types, or another module's other names."""

    def __init__(self, name: str) -> None:
        self.name, self.imported = name, {}
        self.assigned: dict[str, ast.expr] = {}
        for node in ast.walk(modules()[name]):
            if isinstance(node, ast.ImportFrom) and node.module:
                for alias in node.names:
                    self.imported[alias.asname or alias.name] = (node.module.removeprefix("attar."), alias.name)
            elif isinstance(node, ast.Import):
                for alias in node.names:
                    self.imported[alias.asname or alias.name.split(".")[0]] = (alias.name.removeprefix("attar."), "")
        for node in modules()[name].body:  # unions and tuples of types under a name of their own
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                self.assigned[node.targets[0].id] = node.value

    def types(self, expression: ast.expr) -> Iterator[tuple[str, str] | None]:
        """Yield (defining module, class) of each type that an expression names; None for one that cannot be told."""
        match expression:
            case ast.Tuple(elts=parts) | ast.List(elts=parts):
                for part in parts:
                    yield from self.types(part)
            case ast.BinOp(left=left, op=ast.BitOr(), right=right):
                yield from self.types(left)
                yield from self.types(right)
            case ast.Constant(value=None):
                yield "builtins", "None"
            case ast.Attribute(value=ast.Name(id=owner), attr=attribute) if owner in self.imported:
                module, inner = self.imported[owner]
                yield from resolved(".".join(part for part in (module, inner) if part), attribute)
            case ast.Attribute(value=ast.Attribute()):
                top = ast.unparse(expression).split(".")[0]
                yield ("", ast.unparse(expression)) if top in self.imported else None
            case ast.Name(id=name) if name in classes(self.name):
                yield self.name, name
            case ast.Name(id=name) if name in self.assigned:
                yield from self.types(self.assigned[name])
            case ast.Name(id=name) if name in self.imported:
                yield from resolved(*self.imported[name])
            case ast.Name(id=name) if isinstance(getattr(builtins, name, None), type):
                yield "builtins", name
            case _:
                yield None


def resolved(module: str, name: str) -> Iterator[tuple[str, str] | None]:
    """Yield the types behind a name of a module, ours or another's."""
    if module not in modules() or name in classes(module):
        yield module, name
    else:
        yield from scope_of(module).types(ast.Name(id=name))


def questions(tree: ast.Module) -> Iterator[tuple[int, ast.expr]]:
    """Yield (line, what the type is held against) of every place where code asks for a type."""
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Name(id="isinstance" | "issubclass"), args=[_, against]):
                yield node.lineno, against
            case ast.Compare(left=ast.Call(func=ast.Name(id="type")), comparators=[against]):
                yield node.lineno, against
            case ast.MatchClass(cls=against):
                yield against.lineno, against


def told_apart(name: str) -> list[str]:
    """Lines of a module that tell apart types of ours which another file defines, or types that cannot be known."""
    path, scope, lines = name.replace(".", "/") + ".py", scope_of(name), []
    for line, against in questions(modules()[name]):
        text = ast.unparse(against)
        for kind in scope.types(against):
            if kind is None:
                if (path, text) not in VARIABLES and not text.startswith("type("):
                    lines.append(f"{path}:{line}: {text}, a variable")
            elif kind[0] in modules() and kind[0] != name:
                lines.append(f"{path}:{line}: {kind[1]} of {kind[0]}")
    return lines


def test_no_type_of_ours_is_told_apart_outside_its_file() -> None:
    assert len(modules()) > 200
    assert [line for name in modules() for line in told_apart(name)] == []


@pytest.mark.parametrize("path", sorted({path for path, _ in VARIABLES}))
def test_every_exception_is_still_there(path: str) -> None:
    questions_asked = {ast.unparse(against) for _, against in questions(ast.parse((ROOT / path).read_text()))}
    assert {text for other, text in VARIABLES if other == path} <= questions_asked


def test_the_count_sees_each_way_of_asking() -> None:
    """Imported under another name, through a module, in a union under a name of its own, by `type`, and in a pattern."""
    source = """
from attar.compressors.distill.losses.composite import Distil as D
from attar.compressors.distill.losses import listwise
from attar.stages.runtime.progress import Event
isinstance(x, D)
isinstance(x, int | listwise.ListwiseDistil)
issubclass(x, (str, D))
isinstance(x, Event)
type(x) is D
match x:
    case D(): pass
isinstance(x, kinds)
isinstance(x, int)
"""
    modules()["stages.invented"] = ast.parse(source)
    try:
        lines = told_apart("stages.invented")
    finally:
        del modules()["stages.invented"]
    assert len(lines) == 9 and sum(": Distil of" in line for line in lines) == 4
    assert {line.split(": ")[1].split(" of ")[0] for line in lines} >= {
        "Progress",
        "Metric",
        "Note",
        "kinds, a variable",
    }
