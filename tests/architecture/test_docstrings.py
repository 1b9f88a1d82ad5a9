"""A function's docstring begins with what it does: a verb, as ruff's D401 wants it where it knows the word."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("pipelines", "stages", "compressors", "registry", "attar", "benchmarks", "docs", "docker", "examples")
# Decorators under which a function is named and described as a value.
VALUES = ("property", "cached_property")
# A verb that is not here is one more word here; a noun, an article or `True` is a sentence to write anew.
LISTED = """
abort add adopt advance align allocate allow announce answer append apply ask assert attach average begin bind bound bring build cache
calibrate call cancel carry change check choose claim clean clear clip close collate collect combine come compare complete compose compress
compute confine connect continue convert copy correct count cover create cut decide decode delete deliver demand describe destroy detach
divide do download draft drain draw drop emit empty encode end ensure enter enumerate erase estimate evaluate examine exchange execute
expand explain export extend extract feed fetch fill filter find finish fit fix flatten flush fold follow forbid forecast forget fork format
free freeze fuse gate gather generate get give go grade group guard guide halve hand handle hang hash hear help hide hold ignore import
index ingest initialise insert inspect install iterate join judge keep kill know label launch learn leave let limit link list listen load
lock log look lower make map mark mask match measure merge mix multiply mount move mute name narrow normalise note notify open order pack
pad pair parse pass patch pause pick plan plot poll post predict prefer prepare print probe produce profile promote prove prune publish pull
push put quantize raise rank read rebuild receive recompute record redraw reduce refit refuse register release reload remember remove rename
render repair repeat replace reply report request require reset reshape resolve restart restore resume retry return rewrite rotate round run
sample save say scale scan schedule score seal search see select send serve set shard share shift show shuffle shut silence simplify skip
slice sleep sort speak split spread stand start stop store stream strip submit suggest sum supervise swap switch tag take tell test tie time touch
trace track train translate trigger trim truncate try turn undo unfreeze unpack unwrap update upload use validate verify wait walk warn
watch weigh weight withdraw work wrap write yield
"""
VERBS = frozenset(LISTED.split())


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Yield the functions that do something: no property and no method without a docstring of its own."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and ast.get_docstring(node):
            decorators = [ast.unparse(decorator).rpartition(".")[2] for decorator in node.decorator_list]
            if not set(decorators) & set(VALUES):
                yield node


@pytest.mark.parametrize("package", PACKAGES)
def test_a_function_says_first_what_it_does(package: str) -> None:
    # attar/ holds links to the other packages: its own files alone
    paths = (ROOT / package).glob("*.py") if package == "attar" else (ROOT / package).rglob("*.py")
    wrong = []
    for path in sorted(paths):
        for node in functions(ast.parse(path.read_text())):
            sentence = (ast.get_docstring(node) or "").splitlines()[0]
            if sentence.split()[0].strip(",:;.").lower() not in VERBS:
                wrong.append(f"{path.relative_to(ROOT)}:{node.lineno} {node.name}: {sentence}")
    assert not wrong, "\n".join(wrong)


def test_a_noun_is_seen_and_a_property_is_none() -> None:
    source = """
def loss():
    "Mean of the loss."
def told():
    "Return, by name, the loss."
class Part:
    @property
    def value(self):
        "The value."
    @functools.cached_property
    def other(self):
        "The other."
"""
    first = [(ast.get_docstring(node) or "").split()[0].strip(",").lower() for node in functions(ast.parse(source))]
    assert [word in VERBS for word in first] == [False, True]
