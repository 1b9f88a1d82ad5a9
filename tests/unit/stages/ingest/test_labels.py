"""Which choice an answer names: one reading for a whole file, or a refusal that names the row."""

from __future__ import annotations

from typing import Any

import pytest

from attar.stages.ingest.records.choices import Choices, choices_of
from attar.stages.ingest.records.labels import Labelled, answer_indices

FOUR = ["w", "x", "y", "z"]


def indices(*rows: tuple[Any, list[Any]], form: Any = "auto") -> list[int]:
    labelled = []
    for number, (answer, cell) in enumerate(rows):
        choices = choices_of(cell, "choices")
        assert isinstance(choices, Choices)
        labelled.append(Labelled(f"row {number}", answer, choices))
    return answer_indices(labelled, form)


@pytest.mark.parametrize(
    ("answer", "choices", "index"),
    [
        (True, ["True", "False"], 0),
        (True, ["False", "True"], 1),
        (False, ["yes", "no"], 1),
        (True, ["no", "yes"], 1),
        (True, [True, False], 0),
        (False, [True, False], 1),
        (True, ["False", "yes"], 1),
        ("true", ["false", "true"], 1),
        (" y ", FOUR, 2),
        ("y", [" y", "x "], 0),
        (0, FOUR, 0),
        (3.0, FOUR, 3),
        ("C", FOUR, 2),
        (10, [10, 20], 0),
        (20, [10, 20], 1),
        (1, [0, 1, 2], 1),
        ("7", ["5", "6", "7"], 2),
        ("B", {"text": FOUR, "label": ["A", "B", "C", "D"]}, 1),
        ("2", {"text": FOUR, "label": ["1", "2", "3", "4"]}, 1),
        (2, {"text": ["2", "1"], "label": [1, 2]}, 1),
        ("D", [{"label": "C", "text": "x"}, {"label": "D", "text": "y"}], 1),
        ("y", '["x", "y"]', 1),
    ],
)
def test_one_answer_names_one_choice(answer: Any, choices: Any, index: int) -> None:
    assert indices((answer, choices)) == [index]


def test_booleans_among_choices_become_words() -> None:
    assert choices_of([True, False], "choices") == Choices(("True", "False"))
    assert choices_of([1, 2, "three"], "choices") == Choices(("1", "2", "three"))
    assert choices_of(None, "choices") is None and choices_of([], "choices") is None


@pytest.mark.parametrize(
    ("answer", "choices"),
    [(2, [2, 3, 4]), ("2", ["2", "3", "4"]), ("B", ["B", "A"]), (1, [1, 0]), ("0", ["1", "0"])],
)
def test_what_two_ways_read_otherwise_is_refused_and_one_word_settles_it(answer: Any, choices: list[Any]) -> None:
    with pytest.raises(ValueError, match="row 0 answer .* is ambiguous .* accepted: answer_form"):
        indices((answer, choices))
    assert indices((answer, choices), form="text") == [[str(choice) for choice in choices].index(str(answer))]


def test_another_row_of_the_file_can_settle_it() -> None:
    """No index reads 9, so the file's answers are texts."""
    assert indices((2, [2, 3, 4]), (9, [8, 9])) == [0, 1]
    assert indices(("B", ["B", "A"]), ("Paris", ["Rome", "Paris"])) == [0, 1]


def test_letters_and_counts_in_one_file_are_decided_by_the_file() -> None:
    """ARC's answers: most are letters, some count from 1."""
    assert indices(("A", FOUR), ("1", FOUR), ("4", FOUR), ("D", FOUR)) == [0, 0, 3, 3]
    assert indices(("A", FOUR), ("0", FOUR), ("3", FOUR)) == [0, 0, 3]
    with pytest.raises(ValueError, match="row 1 answer '1' is a count in a file of letters"):
        indices(("A", FOUR), ("1", FOUR), ("2", FOUR))
    with pytest.raises(ValueError, match="row 1 answer '0' is a count in a file of letters"):
        indices(("A", FOUR), ("0", FOUR), ("4", FOUR))
    assert indices(("A", FOUR), ("1", FOUR), form="number") == [0, 0]
    assert indices(("A", FOUR), ("1", FOUR), form="index") == [0, 1]


def test_a_count_past_the_end_is_refused_and_number_is_the_cure() -> None:
    with pytest.raises(ValueError, match=r"row 1 answer 4 is not one of its choices .*from 1 with answer_form: number"):
        indices((1, FOUR), (4, FOUR))
    assert indices((1, FOUR), (4, FOUR), form="number") == [0, 3]


def test_many_counts_without_a_first_choice_are_doubted() -> None:
    """By chance 40 answers over four choices miss the first one in 1 of 100,000 files."""
    rows = [(1 + number % 3, FOUR) for number in range(40)]
    with pytest.raises(ValueError, match="none of 40 answers is 0; accepted: answer_form: index"):
        indices(*rows)
    assert indices(*rows, form="index") == [1 + number % 3 for number in range(40)]
    assert indices(*rows, (0, FOUR)) == [*(1 + number % 3 for number in range(40)), 0]


def test_labels_must_differ() -> None:
    with pytest.raises(ValueError, match="the labels of choices has the same text twice, 0 and 1"):
        choices_of({"text": ["x", "y"], "label": ["A", "A"]}, "choices")


MARKED = [{"text": "x", "is_correct": False}, {"text": "y", "is_correct": True}]
MARKED_BESIDE_LABELS = [{**choice, "label": label} for choice, label in zip(MARKED, "AB", strict=True)]


@pytest.mark.parametrize(
    "cell",
    [
        MARKED,
        MARKED_BESIDE_LABELS,
        [{"text": "x"}, {"text": "y", "correct": 1}],
        {"text": ["x", "y"], "is_correct": [False, True]},
        {"text": ["x", "y"], "label": ["A", "B"], "correct": [0, 1]},
        '[{"text": "x", "is_correct": false}, {"text": "y", "is_correct": true}]',
    ],
)
def test_a_choice_that_the_data_marks_as_right_is_the_answer(cell: Any) -> None:
    assert indices((None, cell), ("y", cell), (1, cell), ("B", cell)) == [1, 1, 1, 1]
    for answer in ("x", "A", 0):
        with pytest.raises(
            ValueError, match="row 0 answer .* does not name 'y', which its choices 'x', 'y' mark as right"
        ):
            indices((answer, cell))


def test_keys_of_choices_that_nothing_reads_are_known() -> None:
    cell = [{"text": "x", "label": "A", "why": "so", "id": None}, {"text": "y", "label": "B", "why": None, "id": None}]
    assert choices_of(cell, "choices") == Choices(("x", "y"), ("A", "B"), unread_keys=frozenset({"why"}))
    both = [{"text": text, "is_correct": text == "y", "correct": text == "x"} for text in "xy"]
    assert choices_of(both, "choices") == Choices(("x", "y"), marked_index=1, unread_keys=frozenset({"correct"}))
    assert choices_of({"text": ["x", "y"], "label": ["A", "B"], "id": [1, 2]}, "choices").unread_keys == {"id"}  # type: ignore[union-attr]


def test_a_mark_settles_what_two_ways_read_otherwise() -> None:
    cell = [{"text": "B", "is_correct": True}, {"text": "A", "is_correct": False}]
    assert indices(("B", cell), ("A", cell)) == [0, 0]
    assert indices(("", cell), form="index") == [0]


@pytest.mark.parametrize(
    ("marks", "message"),
    [
        ([True, True], "choices has 2 choices marked as right; accepted: one"),
        ([False, False], "choices has 0 choices marked as right; accepted: one"),
        (["no", "yes"], r"the mark of choices\[0\] is 'no'; accepted: true or false"),
        ([0.5, 1.0], r"the mark of choices\[0\] is 0.5; accepted: true or false"),
    ],
)
def test_marks_that_tell_nothing_are_refused(marks: list[Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        choices_of([{"text": text, "is_correct": mark} for text, mark in zip("xy", marks, strict=True)], "choices")
