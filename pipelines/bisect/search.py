"""Find where an answer changed along a chain of models: by halves, each model asked only what is still open."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar


class Same(Protocol):
    """An answer that says whether another is the same in what matters."""

    def is_same(self, other: Any) -> bool:
        """Say whether nothing changed between the two."""
        ...


A = TypeVar("A", bound=Same)
# Asks the model of an index some questions: returns question index -> answer.
Ask = Callable[[int, Sequence[int]], Mapping[int, A]]


@dataclass(frozen=True)
class Change(Generic[A]):
    """A question whose answer changed: at the model of `index`, whose predecessor in the chain still gave `before`."""

    question: int
    index: int
    before: A
    after: A


def find_changes(num_models: int, num_questions: int, ask: Ask[A]) -> list[Change[A]]:
    """Return the questions that first and last model answer otherwise. Each with a step of the chain at which its answer changed.

    Each is found by halves, in about log2 of the chain's length; a model is asked once for all questions whose middle it is. Where an
    answer changed and changed back, one of the changes is found.
    """
    every = list(range(num_questions))
    first, last = ask(0, every), ask(num_models - 1, every)
    answers = {(0, question): first[question] for question in every}
    answers |= {(num_models - 1, question): last[question] for question in every}
    open_ranges = {question: (0, num_models - 1) for question in every if not first[question].is_same(last[question])}
    while True:
        middles = {question: (low + high) // 2 for question, (low, high) in open_ranges.items() if high - low > 1}
        if not middles:
            break
        [(index, _)] = Counter(middles.values()).most_common(1)
        chosen = [question for question, middle in middles.items() if middle == index]
        for question, answer in ask(index, chosen).items():
            answers[index, question] = answer
            low, high = open_ranges[question]
            open_ranges[question] = (index, high) if answers[low, question].is_same(answer) else (low, index)
    return [
        Change(question, high, answers[low, question], answers[high, question])
        for question, (low, high) in sorted(open_ranges.items())
    ]
