"""mutmut, made to mutate properties and functions under `no_grad`, `inference_mode`, `contextmanager` too: science stands in them.

It leaves decorated functions alone, since a decorator may register what it is given, copies too. These do not, and each is put on
the switch between the original and its mutants alone. A mutant's tests also run file by file, the quickest file first: most mutants
die there. Called as mutmut is: python benchmarks/mutation/decorated.py run ...
"""

from __future__ import annotations

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
_skip_of_mutmut = file_mutation.MutationVisitor._skip_node_and_children
_arrangement_of_mutmut = file_mutation.function_trampoline_arrangement
_submit_of_mutmut = ForkServerRunner.submit


def main() -> None:
    """Run mutmut with the three changes."""
    file_mutation.MutationVisitor._skip_node_and_children = _is_skipped
    file_mutation.function_trampoline_arrangement = _arrangement
    ForkServerRunner.submit = _submit
    program.cli()


def _is_skipped(self: Any, node: libcst.CSTNode) -> bool:
    if isinstance(node, libcst.FunctionDef) and _has_harmless(node):
        return False
    return _skip_of_mutmut(self, node)


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
    shown = [libcst.Module([]).code_for_node(decorator.decorator) for decorator in function.decorators]
    return bool(shown) and all(name in HARMLESS for name in shown)


if __name__ == "__main__":
    sys.exit(main())
