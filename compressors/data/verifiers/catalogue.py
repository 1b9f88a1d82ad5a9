"""Decide whether a rewritten answer says the same as the reference. The check that stands between a rewrite and the training set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol

from attar.compressors.data.verifiers.conduct import KeepsLanguage, KeepsRefusal
from attar.compressors.data.verifiers.final_number import final_number
from attar.compressors.data.verifiers.named_choices import named_choices
from attar.compressors.data.verifiers.normal_forms import occurs_as_sign, sign_form, word_form, word_spans

# Every kind of objection to a rewrite, short and stable: data sets are counted by it
OBJECTIONS = ("wrong answer", "banned phrase", "empty answer", "unfinished", "unusable reference")


# The answer that a text comes to, comparable between texts.
Value = Fraction | int | str


class Verifier(Protocol):
    """Returns None when the rewrite passes, else why not: one of `OBJECTIONS`, with what was seen in brackets behind it.

    Every text ends in a verdict: it raises nothing, and what could take long or much memory is bounded.
    """

    def __call__(self, rewrite: str, reference: str, choices: Sequence[str]) -> str | None: ...

    def value(self, text: str, choices: Sequence[str]) -> Value | None:
        """Return the answer that a text comes to, None when it comes to none."""
        ...

    def reference_fault(self, reference: str, choices: Sequence[str]) -> str | None:
        """Return why no answer can be checked against a reference, in a few words; None when one can."""
        ...


@dataclass(frozen=True)
class SameNumber:
    """The final number of both texts is equal, as exact fractions. 1,000 = 1000.0, 3/6 = 1/2 and 50% = 50 or 0.5.

    Which number of a text that is: see `final_number`.
    """

    def __call__(self, rewrite: str, reference: str, choices: Sequence[str]) -> str | None:
        expected = final_number(reference)
        if expected is None or expected.value is None:
            return f"unusable reference ({self.reference_fault(reference, choices)})"
        given = final_number(rewrite)
        if given is None:
            return "wrong answer (no number)"
        if given.equals(expected):
            return None
        return f"wrong answer (number {_shown(given.value)} is not {_shown(expected.value)})"

    def value(self, text: str, choices: Sequence[str]) -> Value | None:
        number = final_number(text)
        return None if number is None else number.value

    def reference_fault(self, reference: str, choices: Sequence[str]) -> str | None:
        number = final_number(reference)
        if number is None:
            return "no number in it"
        return "its number is no fraction, or longer than 10,000 digits" if number.value is None else None


@dataclass(frozen=True)
class SameChoice:
    """The rewrite names the reference's choice, by letter or by its text, and no other."""

    def __call__(self, rewrite: str, reference: str, choices: Sequence[str]) -> str | None:
        expected, given = named_choices(reference, choices), named_choices(rewrite, choices)
        if len(expected) != 1:
            return f"unusable reference ({self.reference_fault(reference, choices)})"
        if given == expected:
            return None
        return f"wrong answer (names {sorted(given) or 'no choice'}, not {sorted(expected)})"

    def value(self, text: str, choices: Sequence[str]) -> Value | None:
        named = named_choices(text, choices)
        return named.pop() if len(named) == 1 else None

    def reference_fault(self, reference: str, choices: Sequence[str]) -> str | None:
        return None if len(named_choices(reference, choices)) == 1 else "it names no single choice"


@dataclass(frozen=True)
class ContainsReference:
    """The reference's words occur in the rewrite in their order, in any script; case, accents and punctuation aside.

    A reference of signs alone has to stand by itself. For short factual answers.
    """

    def __call__(self, rewrite: str, reference: str, choices: Sequence[str]) -> str | None:
        fault = self.reference_fault(reference, choices)
        if fault:
            return f"unusable reference ({fault})"
        words = word_form(reference)
        if words:
            is_there = next(word_spans(words, word_form(rewrite)), None) is not None
        else:
            is_there = occurs_as_sign(sign_form(reference), sign_form(rewrite))
        return None if is_there else "wrong answer (the reference does not occur in it)"

    def value(self, text: str, choices: Sequence[str]) -> Value | None:
        return None  # two sentences with the same fact in them are not the same text

    def reference_fault(self, reference: str, choices: Sequence[str]) -> str | None:
        return None if sign_form(reference) else "it is empty"


@dataclass(frozen=True)
class SameWords:
    """The rewrite is the reference's words and nothing else; case, accents and punctuation aside. For answers asked for alone."""

    def __call__(self, rewrite: str, reference: str, choices: Sequence[str]) -> str | None:
        fault = self.reference_fault(reference, choices)
        if fault:
            return f"unusable reference ({fault})"
        return None if self.value(rewrite, choices) == self.value(reference, choices) else "wrong answer (other words)"

    def value(self, text: str, choices: Sequence[str]) -> Value | None:
        return " ".join(word_form(text)) or sign_form(text) or None

    def reference_fault(self, reference: str, choices: Sequence[str]) -> str | None:
        return None if sign_form(reference) else "it is empty"


@dataclass(frozen=True)
class NoCheck:
    """Every rewrite passes: for open questions without a checkable answer."""

    def __call__(self, rewrite: str, reference: str, choices: Sequence[str]) -> str | None:
        return None

    def value(self, text: str, choices: Sequence[str]) -> Value | None:
        return None

    def reference_fault(self, reference: str, choices: Sequence[str]) -> str | None:
        return None


@dataclass(frozen=True)
class BannedPhrases:
    """The rewrite does not speak about the reference it was shown, and is not empty. Applied to every row, whatever its verifier."""

    phrases: tuple[str, ...] = (
        "reference answer",
        "the reference",
        "given answer",
        "my own response",
        "your own response",
        "own words",
        "rewritten",
    )

    def __call__(self, rewrite: str, reference: str, choices: Sequence[str]) -> str | None:
        if not rewrite.strip():
            return "empty answer"
        lowered = rewrite.lower()
        return next((f"banned phrase ({phrase!r})" for phrase in self.phrases if phrase in lowered), None)


VERIFIERS: dict[str, type[Verifier]] = {
    "number": SameNumber,
    "choice": SameChoice,
    "contains": ContainsReference,
    "exact": SameWords,
    "refusal": KeepsRefusal,
    "language": KeepsLanguage,
    "none": NoCheck,
}


def _shown(value: Fraction | None) -> str:
    """Return a number as it is shown in an objection: Python refuses to write one of thousands of digits."""
    if value is None:
        return "(no fraction, or too long)"
    num_bits = max(abs(value.numerator), value.denominator).bit_length()
    return str(value) if num_bits <= 128 else f"(one of about {round(num_bits * 0.30103):,} digits)"
