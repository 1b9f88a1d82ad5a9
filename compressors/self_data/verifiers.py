"""Decide whether a rewritten answer says the same as the reference: the check that stands between a rewrite and the training set."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol

NUMBER = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:\s*/\s*\d+)?")
# "A", "(A)", "A." or "answer: A" as a word of its own, upper case: a lower-case "a" is an article
CHOICE = re.compile(r"(?:^|[\s(\[:*])([A-J])(?=$|[\s).\]:,*])")
# Every kind of objection to a rewrite, short and stable: data sets are counted by it
OBJECTIONS = ("wrong answer", "banned phrase", "empty answer", "unfinished", "unusable reference")


# The answer that a text comes to, comparable between texts.
Value = Fraction | int | str


class Verifier(Protocol):
    """Returns None when the rewrite passes, else why not: one of `OBJECTIONS`, with what was seen in brackets behind it."""

    def __call__(self, rewrite: str, reference: str, choices: Sequence[str]) -> str | None: ...

    def value(self, text: str, choices: Sequence[str]) -> Value | None:
        """Return the answer that a text comes to, None when it comes to none."""
        ...


@dataclass(frozen=True)
class SameNumber:
    """The last number of both texts is equal, as exact fractions: 1,000 = 1000.0, and 3/6 = 1/2."""

    def __call__(self, rewrite: str, reference: str, choices: Sequence[str]) -> str | None:
        expected, given = last_number(reference), last_number(rewrite)
        if expected is None:
            return "unusable reference (no number in it)"
        if given is None:
            return "wrong answer (no number)"
        return None if given == expected else f"wrong answer (number {given} is not {expected})"

    def value(self, text: str, choices: Sequence[str]) -> Value | None:
        return last_number(text)


@dataclass(frozen=True)
class SameChoice:
    """The rewrite names the reference's choice, by letter or by its text, and no other."""

    def __call__(self, rewrite: str, reference: str, choices: Sequence[str]) -> str | None:
        expected, given = named_choices(reference, choices), named_choices(rewrite, choices)
        if len(expected) != 1:
            return "unusable reference (it names no single choice)"
        if given == expected:
            return None
        return f"wrong answer (names {sorted(given) or 'no choice'}, not {sorted(expected)})"

    def value(self, text: str, choices: Sequence[str]) -> Value | None:
        named = named_choices(text, choices)
        return named.pop() if len(named) == 1 else None


@dataclass(frozen=True)
class ContainsReference:
    """The reference's final text occurs in the rewrite, case and punctuation aside. For short factual answers."""

    def __call__(self, rewrite: str, reference: str, choices: Sequence[str]) -> str | None:
        found = f" {_words(reference)} " in f" {_words(rewrite)} "
        return None if found else "wrong answer (the reference does not occur in it)"

    def value(self, text: str, choices: Sequence[str]) -> Value | None:
        return None  # two sentences with the same fact in them are not the same text


@dataclass(frozen=True)
class NoCheck:
    """Every rewrite passes: for open questions without a checkable answer."""

    def __call__(self, rewrite: str, reference: str, choices: Sequence[str]) -> str | None:
        return None

    def value(self, text: str, choices: Sequence[str]) -> Value | None:
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
    "none": NoCheck,
}


def last_number(text: str) -> Fraction | None:
    """Return the last number in a text as an exact fraction, or None."""
    found = NUMBER.findall(text)
    if not found:
        return None
    numerator, _, denominator = found[-1].replace(",", "").replace(" ", "").partition("/")
    if denominator and int(denominator) == 0:
        return None
    return Fraction(numerator) / (int(denominator) if denominator else 1)


def named_choices(text: str, choices: Sequence[str]) -> set[int]:
    """Return the indices of the choices that a text names: by their text as whole words, else by letter."""
    words = f" {_words(text)} "
    by_text = {index for index, choice in enumerate(choices) if _words(choice) and f" {_words(choice)} " in words}
    # "New York City" also contains the choice "New York": the longer one is meant
    by_text = {i for i in by_text if not any(i != j and _words(choices[i]) in _words(choices[j]) for j in by_text)}
    if by_text:
        return by_text
    letters = {ord(letter) - ord("A") for letter in CHOICE.findall(text)}
    return {index for index in letters if index < len(choices)}


def _words(text: str) -> str:
    return " ".join(re.findall(r"[a-z0-9]+", text.lower()))
