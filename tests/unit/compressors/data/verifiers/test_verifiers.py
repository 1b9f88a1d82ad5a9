"""Verifiers and the keep-or-fall-back rule: a wrong rewrite never reaches the training set."""

from __future__ import annotations

import pytest

from attar.compressors.catalogue import build
from attar.compressors.data.keep import keep_or_fall_back, reason_kind
from attar.compressors.data.verifiers.catalogue import OBJECTIONS, VERIFIERS, BannedPhrases, SameNumber
from attar.compressors.data.verifiers.named_choices import named_choices

COLORS = ["red", "blue", "green", "dark blue"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The answer is (B).", {1}),
        ("B", {1}),
        ("It is a green one.", {2}),
        ("dark blue", {3}),
        ("a red or a blue one", {0, 1}),
        ("I do not know", set()),
        ("Z", set()),
    ],
)
def test_named_choices(text: str, expected: set[int]) -> None:
    assert named_choices(text, COLORS) == expected


@pytest.mark.parametrize(
    ("verifier", "rewrite", "reference", "passes"),
    [
        ("number", "So it is 42.", "#### 42", True),
        ("number", "So it is 41.", "#### 42", False),
        ("number", "No idea.", "#### 42", False),
        ("choice", "I choose blue.", "blue", True),
        ("choice", "I choose red, not blue.", "blue", False),
        ("contains", "The capital is Paris!", "paris", True),
        ("contains", "The capital is Parisian.", "Paris", False),
        ("exact", "Paris.", "paris", True),
        ("exact", "The capital is Paris.", "Paris", False),
        ("exact", "apple door", "door apple", False),
        ("none", "Whatever", "else", True),
    ],
)
def test_verifier_decides(verifier: str, rewrite: str, reference: str, passes: bool) -> None:
    reason = build(VERIFIERS, verifier)(rewrite, reference, COLORS)
    assert (reason is None) is passes, reason


@pytest.mark.parametrize(
    ("rewrite", "is_finished", "provenance"),
    [
        ("It makes 42.", True, "rewritten"),
        ("It makes 41.", True, "kept: wrong answer"),
        ("No idea.", True, "kept: wrong answer"),
        ("It makes 42.", False, "kept: unfinished"),
        ("The reference answer says 42.", True, "kept: banned phrase"),
        ("   ", True, "kept: empty answer"),
    ],
)
def test_keep_or_fall_back(rewrite: str, is_finished: bool, provenance: str) -> None:
    verdict = keep_or_fall_back(rewrite, "#### 42", [], SameNumber(), BannedPhrases(), is_finished)
    assert reason_kind(verdict.reason) == provenance
    assert verdict.source == ("rewrite" if provenance == "rewritten" else "reference")
    assert verdict.answer == ("It makes 42." if provenance == "rewritten" else "#### 42")


@pytest.mark.parametrize("name", VERIFIERS)
@pytest.mark.parametrize("rewrite", ["41", "", "red or blue", "(B)", "nothing"])
@pytest.mark.parametrize("reference", ["42", "green", "no number and no choice"])
def test_every_objection_is_of_a_known_kind(name: str, rewrite: str, reference: str) -> None:
    reason = build(VERIFIERS, name)(rewrite, reference, COLORS)
    assert reason is None or reason_kind(reason) in OBJECTIONS


def test_a_reference_that_cannot_be_checked_is_said_so() -> None:
    verdict = keep_or_fall_back("It makes 42.", "many", [], SameNumber(), BannedPhrases(), True)
    assert verdict.reason == "kept: unusable reference (no number in it)"
