"""Contamination: a shared run of words is found wherever it lies, a phrase of the prompt's form is not taken for one."""

from __future__ import annotations

import pytest

from attar.compressors.data.contamination import TaskQuestion, find_overlaps

LONG = "a train leaves the old station at nine in the morning and goes north at eighty kilometres an hour until noon"
TASK = TaskQuestion("trains", "000007", LONG, "it has gone two hundred and forty kilometres")


def overlaps(question: str, answer: str = "", **options: int) -> bool:
    by_index = find_overlaps([(question, answer)], [TASK], **options)
    assert all(entry.task == "trains" and entry.row_id == "000007" for entry in by_index.values())
    return bool(by_index)


def run_of(num_words: int, start: int = 2) -> str:
    return " ".join(LONG.split()[start : start + num_words])


@pytest.mark.parametrize("num_words", [8, 13])
def test_exactly_the_stated_number_of_words_is_an_overlap(num_words: int) -> None:
    options = {"ngram_words": num_words, "min_ngram_words": num_words}
    assert overlaps(f"Tell me: {run_of(num_words)} and then?", **options)
    assert not overlaps(f"Tell me: {run_of(num_words - 1)} then?", **options)


def test_the_answer_counts_on_both_sides() -> None:
    assert overlaps("unrelated", run_of(13))
    across = "goes north at eighty kilometres an hour until noon it has gone two hundred"
    assert overlaps("unrelated", across), "question and answer of a task are one text"
    assert not overlaps("unrelated", TASK.answer), "eight words of a long text are no run of thirteen"


def test_case_punctuation_and_lines_do_not_hide_an_overlap() -> None:
    assert overlaps(run_of(13).upper().replace(" ", ",\n"))


def test_a_short_question_is_a_run_itself_down_to_the_least() -> None:
    nine = TaskQuestion("t", "1", "which of these animals can live longest without water", "camel")
    five = TaskQuestion("t", "2", "what is six times seven", "42")
    inside = [("here is one: which of these animals can live longest without water? think", "")]
    assert 0 in find_overlaps(inside, [nine])
    assert not find_overlaps([("so what is six times seven then", "")], [five]), "too short to be sure"
    assert 0 in find_overlaps([("What is six times seven?", "It is 42.")], [five]), "but the same question is"
    assert not find_overlaps([("What is six times eight?", "It is 48.")], [five])


def test_a_phrase_in_many_rows_is_the_prompts_form() -> None:
    form = "choose the right one of the following options and answer with its letter only please"
    task = TaskQuestion("t", "1", f"{form} which is red", "blood")
    rows = [(f"{form} question number {index}", "") for index in range(12)]
    assert not find_overlaps(rows, [task], max_ngram_rows=11)
    assert len(find_overlaps(rows, [task], max_ngram_rows=12)) == 12
    rows.append((task.question, ""))
    assert list(find_overlaps(rows, [task], max_ngram_rows=11)) == [12], "the question itself still is"


def test_rows_without_words_overlap_nothing() -> None:
    assert not find_overlaps([("?!", ""), ("", "")], [TaskQuestion("t", "1", "...", "!")])
