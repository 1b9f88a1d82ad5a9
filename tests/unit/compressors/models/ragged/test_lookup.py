"""Drafts: what followed before, no longer than it is likely, none where it never stays."""

from __future__ import annotations

from attar.compressors.models.ragged.lookup import PromptLookup

REFERENCE = [40, 41, 42, 43, 44, 45, 46, 47]


def lookup(prompt: list[int], max_tokens: int = 8, tokens_a_pass: float = 16.0) -> PromptLookup:
    return PromptLookup([prompt], max_tokens, tokens_a_pass)


def test_a_draft_is_what_followed_the_last_tokens_before() -> None:
    drafts = lookup([1, *REFERENCE, 2, 3])
    assert drafts.draft(0, 1, 100) == [], "the prompt's end stands nowhere else"
    drafts.learn(0, 0, [40, 41], 0)
    assert drafts.draft(0, 1, 100) == [*REFERENCE[2:], 2, 3]
    assert lookup([1, *REFERENCE, 40, 41], max_tokens=3).draft(0, 1, 100) == [42, 43, 44]
    assert lookup([1, *REFERENCE, 40, 41]).draft(0, 1, 3) == [42, 43], "the pass itself gives the last token"


def test_the_longest_equal_run_decides_then_the_latest() -> None:
    assert lookup([7, 8, 9, 50, 6, 8, 9, 60, 7, 8, 9]).draft(0, 1, 2) == [50]
    assert lookup([8, 9, 50, 8, 9, 60, 8, 9]).draft(0, 1, 2) == [60]


def test_more_rows_in_a_pass_ask_for_a_likelier_draft() -> None:
    prompt = [1, *REFERENCE, 40, 41]
    alone, among_many = lookup(prompt).draft(0, 1, 100), lookup(prompt).draft(0, 64, 100)
    assert len(alone) > len(among_many) > 0


def test_drafts_that_never_stay_are_given_up_and_others_grow() -> None:
    wrong, right = lookup(REFERENCE * 2), lookup(REFERENCE * 12)
    lengths = []
    for step in range(40):
        draft = wrong.draft(0, 32, 100)
        lengths.append(len(draft))
        # the model goes on with something else, and comes back to a pair that stood before
        wrong.learn(0, len(draft), [200 + step, 40, 41], 0)
    assert lengths[0] > 0 and lengths[-1] == 0
    first = len(right.draft(0, 32, 100))
    for _ in range(10):
        draft = right.draft(0, 32, 100)
        right.learn(0, len(draft), draft, len(draft))
    assert len(right.draft(0, 32, 100)) > first
