"""Several rewrites of one answer: which one stands, and how hard the question was."""

from __future__ import annotations

import pytest

from attar.compressors.catalogue import build
from attar.compressors.data.choose import CHOOSERS, Candidate, Decision, decide
from attar.compressors.data.verifiers.catalogue import VERIFIERS, BannedPhrases


def decide_on(
    chooser: str, candidates: list[Candidate], reference: str = "#### 42", verifier: str = "number"
) -> Decision:
    return decide(candidates, reference, [], build(VERIFIERS, verifier), BannedPhrases(), build(CHOOSERS, chooser))


RIGHT_UNLIKELY = Candidate("It makes 42.", True, -2.0)
RIGHT_LIKELY = Candidate("So 42 it is.", True, -1.0)
WRONG = Candidate("That gives 41.", True, -0.1)
WRONG_TOO = Candidate("We find 41.", True, -0.2)
CUT = Candidate("First 42", False, -0.01)
BANNED = Candidate("The reference answer says 42.", True, -0.01)


@pytest.mark.parametrize("chooser", CHOOSERS)
def test_one_candidate_is_the_plain_rule(chooser: str) -> None:
    decision = decide_on(chooser, [RIGHT_LIKELY])
    assert (decision.verdict.source, decision.verdict.answer, decision.pass_rate) == ("rewrite", "So 42 it is.", 1.0)
    fallen = decide_on(chooser, [WRONG])
    assert (fallen.verdict.source, fallen.verdict.answer, fallen.pass_rate) == ("reference", "#### 42", 0.0)


@pytest.mark.parametrize("chooser", CHOOSERS)
def test_nothing_that_fails_is_ever_kept(chooser: str) -> None:
    decision = decide_on(chooser, [WRONG, CUT, BANNED, WRONG_TOO])
    assert decision.verdict.source == "reference" and decision.verdict.reason


@pytest.mark.parametrize("chooser", CHOOSERS)
def test_of_two_that_pass_the_likelier_stands(chooser: str) -> None:
    for order in ([RIGHT_UNLIKELY, RIGHT_LIKELY, CUT], [RIGHT_LIKELY, RIGHT_UNLIKELY, CUT]):
        decision = decide_on(chooser, order)
        assert order[decision.chosen_index] is RIGHT_LIKELY


def test_one_right_answer_among_many_is_enough_for_best_of_but_no_majority() -> None:
    candidates = [WRONG, RIGHT_UNLIKELY, WRONG_TOO]
    assert decide_on("best_of", candidates).verdict.answer == "It makes 42."
    assert decide_on("majority", candidates).verdict.source == "reference"
    assert decide_on("majority", [*candidates, RIGHT_LIKELY, RIGHT_LIKELY]).verdict.answer == "So 42 it is."


def test_pass_rate_counts_what_ended_and_passes_whatever_is_chosen() -> None:
    candidates = [WRONG, RIGHT_UNLIKELY, CUT, BANNED]
    for chooser in CHOOSERS:
        # the banned one is right and ended: its wording is wrong, not its answer
        assert decide_on(chooser, candidates).pass_rate == 2 / 4


def test_without_an_answer_to_vote_on_the_likeliest_stands() -> None:
    candidates = [Candidate("One view.", True, -3.0), Candidate("Another view.", True, -1.0)]
    assert decide_on("majority", candidates, "Open.", "none").chosen_index == 1
    assert decide_on("majority", [Candidate("a", True), Candidate("b", True)], "Open.", "none").chosen_index == 0


def test_a_tied_vote_goes_to_the_likelier_answer() -> None:
    assert decide_on("majority", [RIGHT_LIKELY, WRONG]).verdict.source == "reference"
    assert decide_on("majority", [RIGHT_LIKELY, Candidate("41", True, -5.0)]).verdict.source == "rewrite"


@pytest.mark.parametrize("name", VERIFIERS)
def test_texts_with_the_same_value_pass_alike(name: str) -> None:
    verifier, choices = build(VERIFIERS, name), ["red", "dark blue"]
    texts = ["It is 7, dark blue.", "dark blue 7.0", "red, 8", "nothing"]
    for reference in ("7 dark blue", "8 red"):
        verdicts = {(verifier.value(text, choices), verifier(text, reference, choices) is None) for text in texts}
        valued = [value for value, _ in verdicts if value is not None]
        assert len(valued) == len(set(valued)), "one value, one verdict"
