"""Run a model's code against tests in a process of its own. It can do little harm there and cannot pass by leaving early.

The process writes nothing outside its folder, reaches no socket, starts no other process and is bounded in time, memory, files and
output; where the system cannot give that, code does not run unless ATTAR_UNGUARDED_CODE says so. It passes only if it writes a token
that it has not been told to a pipe that the tested code does not know, after the last test: `sys.exit(0)`, `os._exit(0)`, a print of
"passed" or a hang do not. That stops mistakes and cheap tricks, not a determined attacker, and the code reads what this user can read:
for code of unknown origin run the whole stage in a container.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from attar.stages.runtime.bounded_call import SHARED_CALLS, TookTooMuch
from attar.stages.runtime.code_guard import UNGUARDED, Guard, system_guard
from attar.stages.runtime.watched_process import Limits, run_program

FENCE = re.compile(r"```(?:python|py)?[^\S\n]*\n(.*?)```", re.DOTALL)
VARIABLE = "ATTAR_UNGUARDED_CODE"


@dataclass(frozen=True, kw_only=True)
class PassesTests:
    """The reference is Python that tests the answer: it raises, as `assert` does, unless the answer is right. It runs behind the answer.

    https://arxiv.org/abs/2410.24198
    """

    limits: Limits = field(default_factory=Limits)

    def __call__(self, rewrite: str, reference: str, choices: Sequence[str]) -> str | None:
        if not reference.strip():
            return "unusable reference (no tests)"
        return run_tests(code_of(rewrite), reference, self.limits)

    def value(self, text: str, choices: Sequence[str]) -> str | None:
        return None  # two programs that pass are not the same text

    def reference_fault(self, reference: str, choices: Sequence[str]) -> str | None:
        if not reference.strip():
            return "no tests"
        try:
            return SHARED_CALLS.call("attar.stages.runtime.tested_code:syntax_fault", reference)
        except (TookTooMuch, RuntimeError) as error:
            return f"it cannot be read as Python: {error}"


def code_of(text: str) -> str:
    """Return the code of an answer. Its fenced blocks one after the other, or where there is none the whole text."""
    blocks = FENCE.findall(text)
    return "\n".join(blocks) if blocks else text


def run_tests(answer: str, tests: str, limits: Limits) -> str | None:
    """Return None when the answer passes the tests, else a verdict. Raises ValueError where no guard holds and nobody allowed to do without."""
    if not is_text(tests):
        return "unusable reference (half a character, which no file can hold)"
    if not is_text(answer):
        return "wrong answer (half a character, which no file can hold)"
    guard = required_guard()
    complaint = run_program(guard.command, guard.parts, answer, tests, limits)
    return None if complaint is None else f"wrong answer ({complaint})"


def required_guard() -> Guard:
    """Return the guard that holds here. Raises ValueError where none does, unless ATTAR_UNGUARDED_CODE is `yes`."""
    guard = system_guard()
    if guard is not None:
        return guard
    if os.environ.get(VARIABLE) == "yes":
        return UNGUARDED
    raise ValueError(
        "this system cannot keep a model's code from writing files and opening sockets (it needs Linux with Landlock or user namespaces); "
        f"run on one that can, or set {VARIABLE}=yes to run such code unguarded"
    )


def is_text(text: str) -> bool:
    """Say whether a text can be written as UTF-8: half an emoji cannot."""
    return not any("\ud800" <= character <= "\udfff" for character in text)
