"""Grades read off digits, and how a judge is held against what is right."""

from __future__ import annotations

import pytest
import torch

from attar.compressors.data.judging import digit_ids, expected_grade, judge_question, selective_accuracy
from attar.stages.ingest.tiny_model import byte_tokenizer


def test_expected_grade_of_uniform_and_certain_digits() -> None:
    digits = [12, 3, 5, 7, 0, 9, 11, 2, 4, 6]
    uniform = torch.zeros(1, 20)
    uniform[0, 15] = 30.0  # mass on other tokens does not count
    assert float(expected_grade(uniform, digits)) == pytest.approx(4.5)
    for grade, token in enumerate(digits):
        certain = torch.full((1, 20), -50.0)
        certain[0, token] = 0.0
        assert float(expected_grade(certain, digits)) == pytest.approx(float(grade), abs=1e-5)


def test_digits_must_be_single_tokens() -> None:
    tokenizer = byte_tokenizer()
    assert [tokenizer.decode([token]) for token in digit_ids(tokenizer)] == list("0123456789")

    class Pairs:
        def __call__(self, text: str, add_special_tokens: bool) -> Pairs:
            self.input_ids = [1, 2] if text == "7" else [10 + int(text)]
            return self

    with pytest.raises(ValueError, match="none for 7"):
        digit_ids(Pairs())


def test_selective_accuracy_rises_on_planted_scores() -> None:
    """A judge that is mostly right: the fewer of its best are kept, the more of them are right."""
    scores = [0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2]
    is_right = [True, True, True, False, True, False, False, False]
    accuracies = selective_accuracy(scores, is_right, (0.25, 0.5, 0.75, 1.0))
    assert accuracies == [1.0, 0.75, 4 / 6, 0.5] and accuracies == sorted(accuracies, reverse=True)
    assert selective_accuracy([-score for score in scores], is_right, (0.25,)) == [0.0]


def test_question_and_answer_stand_as_they_are() -> None:
    prompt = judge_question("What is {answer}?", "a {question}")
    assert "What is {answer}?" in prompt and "a {question}" in prompt
