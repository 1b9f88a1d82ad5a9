"""The shipped cases: each can be checked, none twice, right answers pass and wrong ones do not."""

from __future__ import annotations

import pytest

from attar.compressors.catalogue import build
from attar.stages.artifacts.dataset.answer_checks import ANSWER_CHECKS, check_reference
from attar.stages.artifacts.dataset.rows import Row
from attar.stages.compare.behaviour.cases import GROUPS, PAIRS, turned
from attar.stages.compare.behaviour.flips import GroupDrop, flips_of
from attar.stages.compare.behaviour.outcomes import Outcome


@pytest.mark.parametrize("name", GROUPS)
def test_every_case_can_be_checked_and_stands_once(name: str) -> None:
    rows = GROUPS[name]()
    assert len(rows) >= 16 and len({row.id for row in rows}) == len({row.question for row in rows}) == len(rows)
    for row in rows:
        if row.choices:
            assert 0 <= row.answer_index < len(row.choices) == len({*row.choices})
        else:
            assert check_reference(row.verifier, row.answer, []) is None, row.question
    assert rows == GROUPS[name](), "the same every time"


@pytest.mark.parametrize("name", ["copying", "arithmetic"])
def test_made_cases_pass_their_own_answer_and_not_anothers(name: str) -> None:
    rows = GROUPS[name]()
    for row in rows:
        check = build(ANSWER_CHECKS, row.verifier)
        assert check(f"It is {row.answer}.", row.answer, []) is None
        assert check("It is -7 or nobody.", row.answer, []) is not None
        assert name == "arithmetic" or row.answer in row.question, "what is copied stands in the text"


def test_brackets_are_balanced_where_they_should_be() -> None:
    rows = GROUPS["brackets"]()
    for row in rows:
        line = row.question.split("? ")[1].partition("\n")[0].split()
        opened: list[str] = []
        is_right = True
        for bracket in line:
            if bracket in PAIRS:
                opened.append(bracket)
            else:
                is_right = is_right and PAIRS[opened.pop()] == bracket
        assert is_right == (row.answer_index == 0), line
    assert sum(row.answer_index for row in rows) * 2 == len(rows)


def test_choices_are_turned_to_every_position() -> None:
    assert [turned("abc", by) for by in range(3)] == [["a", "b", "c"], ["b", "c", "a"], ["c", "a", "b"]]


def test_flips_go_both_ways_and_are_counted_with_an_interval() -> None:
    passed, wrong = Outcome(1.0, "yes"), Outcome(0.0, "no", "wrong answer")
    original = {"own": [passed, passed, wrong, wrong]}
    student = {"own": [passed, wrong, passed, wrong]}
    drop = GroupDrop.of(student["own"], original["own"], 0.05)
    assert (drop.lost, drop.won, drop.drop, drop.num_cases) == (1, 1, 0.0, 4) and drop.low < 0 < drop.high
    rows = [Row(f"{index}", f"Question {index}?", "yes", verifier="contains") for index in range(4)]
    flips = flips_of({"own": rows}, [], student, original)
    assert [(flip.flip, flip.question, flip.original, flip.student) for flip in flips] == [
        ("lost", "Question 1?", "yes", "no"),
        ("won", "Question 2?", "no", "yes"),
    ]
    assert all(flip.why == "wrong answer" for flip in flips)
