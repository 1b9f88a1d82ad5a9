"""Bisecting a chain: the step is found, and few models are asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pytest

from attar.pipelines.bisect.search import find_changes


@dataclass(frozen=True)
class Text:
    text: str

    def is_same(self, other: Text) -> bool:
        return self.text == other.text


class Chain:
    """Models whose answer to a question is the letter of its table at their index; what was asked is counted."""

    def __init__(self, *tables: str) -> None:
        self.tables, self.calls = tables, []

    def __call__(self, index: int, questions: Sequence[int]) -> Mapping[int, Text]:
        self.calls.append((index, tuple(questions)))
        return {question: Text(self.tables[question][index]) for question in questions}


@pytest.mark.parametrize("step", range(1, 16))
def test_a_long_chain_takes_as_many_models_as_its_logarithm(step: int) -> None:
    chain = Chain("a" * step + "b" * (16 - step))
    [change] = find_changes(16, 1, chain)
    assert change.index == step and (change.before.text, change.after.text) == ("a", "b")
    assert len(chain.calls) <= 2 + 4


def test_nothing_changed_asks_the_ends_alone() -> None:
    chain = Chain("aaaaaaaa", "bbbbbbbb")
    assert find_changes(8, 2, chain) == [] and [index for index, _ in chain.calls] == [0, 7]


def test_questions_share_their_models() -> None:
    chain = Chain("aabbbbbb", "aaaaaaab", "aabbbbbb", "cccccccc")
    changes = find_changes(8, 4, chain)
    assert [(change.question, change.index) for change in changes] == [(0, 2), (1, 7), (2, 2)]
    indices = [index for index, _ in chain.calls]
    assert len(indices) == len({*indices}), "no model is opened twice"
    assert all(3 not in questions for _, questions in chain.calls[2:]), "what did not change is asked no more"


def test_of_changes_back_and_forth_a_true_one_is_found() -> None:
    table = "abababab"
    [change] = find_changes(8, 1, Chain(table))
    assert table[change.index - 1] != table[change.index]
    assert (change.before.text, change.after.text) == (table[change.index - 1], table[change.index])


def test_a_chain_of_two_has_a_single_step() -> None:
    [change] = find_changes(2, 1, Chain("ab"))
    assert change.index == 1
