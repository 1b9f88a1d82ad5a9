"""mutmut, made to mutate properties and functions under `no_grad`, `inference_mode`, `contextmanager` too: science stands in them.

It leaves decorated functions alone, since a decorator may register what it is given, copies too. These do not, and each is put on
the switch between the original and its mutants alone. What is no science is left alone in turn: whether `zip` is strict, and what our own
assertions say. A mutant's tests run file by file, the quickest file first: most mutants die there. Called as mutmut is:
python benchmarks/mutation/decorated.py run ...
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Iterable
from typing import Any

import libcst
import mutmut.__main__ as program
from mutmut.mutation import file_mutation
from mutmut.state import state
from mutmut.workers.isolation import ForkServerRunner

HARMLESS = ("property", "torch.no_grad()", "torch.inference_mode()", "contextmanager")
STRICT = re.compile(r",\s*strict=\w+|,\s*(?=\))")
_create_of_mutmut = file_mutation.MutationVisitor._create_mutations
_skip_of_mutmut = file_mutation.MutationVisitor._skip_node_and_children
_arrangement_of_mutmut = file_mutation.function_trampoline_arrangement
_submit_of_mutmut = ForkServerRunner.submit


def main() -> None:
    """Run mutmut with the changes."""
    file_mutation.MutationVisitor._skip_node_and_children = _is_skipped
    file_mutation.MutationVisitor._create_mutations = _create
    file_mutation.function_trampoline_arrangement = _arrangement
    ForkServerRunner.submit = _submit
    program.cli()


def _is_skipped(self: Any, node: libcst.CSTNode) -> bool:
    if isinstance(node, libcst.FunctionDef) and _has_harmless(node):
        return False
    if isinstance(node, libcst.Assert) and node.msg is not None:
        self._ignored_messages = {*getattr(self, "_ignored_messages", ()), id(node.msg)}
    if id(node) in getattr(self, "_ignored_messages", ()) or _is_strict(node):
        return True
    return _skip_of_mutmut(self, node)


def _create(self: Any, node: libcst.CSTNode) -> None:
    """Make a node's mutants but for those that differ in `strict` alone."""
    num_before = len(self.mutations)
    _create_of_mutmut(self, node)
    if isinstance(node, libcst.Call) and any(_is_strict(argument) for argument in node.args):
        plain = STRICT.sub("", _code(node))
        made = self.mutations[num_before:]
        self.mutations[num_before:] = [entry for entry in made if STRICT.sub("", _code(entry.mutated_node)) != plain]


def _is_strict(node: libcst.CSTNode) -> bool:
    return isinstance(node, libcst.Arg) and node.keyword is not None and node.keyword.value == "strict"


def _code(node: libcst.CSTNode) -> str:
    return libcst.Module([]).code_for_node(node)


def _arrangement(function: libcst.FunctionDef, mutants: Iterable[Any], class_name: str | None) -> Any:
    if not _has_harmless(function):
        return _arrangement_of_mutmut(function, mutants, class_name)
    bare = function.with_changes(decorators=[])
    declarations, (switch, *copies), assignments, names = _arrangement_of_mutmut(bare, mutants, class_name)
    assert isinstance(switch, libcst.FunctionDef)
    decorated = switch.with_changes(decorators=[*function.decorators, *switch.decorators])
    return declarations, [decorated, *copies], assignments, names


def _submit(self: Any, mutant_name: str, tests: list[str], *limits: Any) -> None:
    seconds, by_file = state().duration_by_test, Counter[str]()
    for test in tests:
        by_file[test.partition("::")[0]] += seconds[test]  # type: ignore[assignment] - a counter of seconds
    ordered = sorted(tests, key=lambda test: (by_file[test.partition("::")[0]], test))
    _submit_of_mutmut(self, mutant_name, ordered, *limits)


def _has_harmless(function: libcst.FunctionDef) -> bool:
    shown = [_code(decorator.decorator) for decorator in function.decorators]
    return bool(shown) and all(name in HARMLESS for name in shown)


if __name__ == "__main__":
    sys.exit(main())
