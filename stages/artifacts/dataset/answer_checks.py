"""Every verifier of an answer by name. Those of `compressors/data`, and those that need a process of their own to be safe."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from attar.compressors.catalogue import build
from attar.compressors.data.verifiers.catalogue import VERIFIERS, Verifier
from attar.stages.artifacts.dataset.rows import Row
from attar.stages.runtime.bounded_call import SHARED_CALLS, BoundedCalls, TookTooMuch
from attar.stages.runtime.sandbox import PassesTests, is_text


@dataclass(frozen=True)
class MatchesPattern:
    """The whole answer matches the reference, a regular expression, within a second. Spaces at its ends aside."""

    calls: BoundedCalls = field(default=SHARED_CALLS, repr=False)

    def __call__(self, rewrite: str, reference: str, choices: Sequence[str]) -> str | None:
        return _verdict(self.calls, "MatchesPattern", rewrite, reference)

    def value(self, text: str, choices: Sequence[str]) -> str | None:
        return None  # two texts that match one pattern are not the same answer

    def reference_fault(self, reference: str, choices: Sequence[str]) -> str | None:
        return _fault(self.calls, "MatchesPattern", reference)


@dataclass(frozen=True)
class FitsSchema:
    """The answer is JSON that fits the reference, a JSON schema (draft 2020-12). It is bare or in one fenced block.

    A $ref leads into the schema itself: nothing is fetched and no file is read.
    """

    calls: BoundedCalls = field(default=SHARED_CALLS, repr=False)

    def __call__(self, rewrite: str, reference: str, choices: Sequence[str]) -> str | None:
        return _verdict(self.calls, "FitsSchema", rewrite, reference)

    def value(self, text: str, choices: Sequence[str]) -> str | None:
        try:
            return self.calls.call("attar.compressors.data.verifiers.structure:json_value", text)
        except (TookTooMuch, RuntimeError):
            return None

    def reference_fault(self, reference: str, choices: Sequence[str]) -> str | None:
        return _fault(self.calls, "FitsSchema", reference)


ANSWER_CHECKS: dict[str, type[Verifier]] = {
    **VERIFIERS,
    "pattern": MatchesPattern,
    "json_schema": FitsSchema,
    "unit_tests": PassesTests,
}


def check_reference(verifier: str, reference: str, choices: Sequence[str]) -> str | None:
    """Return why a row's answers cannot be checked against its reference, in a few words; None when they can."""
    if not is_text(reference):
        return "half a character, which no file can hold"
    return build(ANSWER_CHECKS, verifier).reference_fault(reference, choices)


def refuse_unusable_references(rows: Iterable[Row], source: str) -> None:
    """Raise ValueError, with the first rows and why, where answers to rows with a verifier could never pass. They would count as wrong."""
    faults = []
    num_checked = 0
    for row in rows:
        num_checked += bool(row.question)
        reason = row.question and check_reference(row.verifier, row.reference or row.answer, row.choices)
        if reason:
            faults.append(f"row {row.id} ({row.verifier}: {reason})")
    if faults:
        raise ValueError(
            f"{source}: {len(faults)} of {num_checked} references cannot be checked against: {', '.join(faults[:3])}; "
            "accepted: a reference that fits the verifier, or verifier none for such rows"
        )


def _verdict(calls: BoundedCalls, check: str, rewrite: str, reference: str) -> str | None:
    try:
        return calls.call("attar.compressors.data.verifiers.structure:verdict", check, rewrite, reference)
    except TookTooMuch as reason:
        return f"wrong answer (its check took {reason})"
    except RuntimeError as error:
        return f"wrong answer (it cannot be checked: {error})"


def _fault(calls: BoundedCalls, check: str, reference: str) -> str | None:
    try:
        return calls.call("attar.compressors.data.verifiers.structure:reference_fault", check, reference)
    except TookTooMuch as reason:
        return f"reading it took {reason}"
    except RuntimeError as error:
        return f"it cannot be read: {error}"
