"""A model writes its own coding tasks: snippet to concepts, concepts to an instruction, instruction to a solution with tests.

https://arxiv.org/abs/2410.24198. The wordings and the examples are ours.
"""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

FENCE = re.compile(r"```(?:python|py)?[^\S\n]*\n(.*?)```", re.DOTALL)
CATEGORIES = ("a function", "another function", "a class", "a short program")
DIFFICULTIES = ("easy", "medium", "hard")


@dataclass(frozen=True)
class Shot:
    """One worked example of the first two steps."""

    snippet: str
    concepts: str
    category: str
    difficulty: str
    instruction: str


SHOTS = (
    Shot(
        "def mean(values):\n    return sum(values) / len(values)",
        "lists, averages, division by zero",
        "a function",
        "easy",
        "Write a function `running_mean(values)` that returns the mean of the first 1, 2, 3, ... values as a list.",
    ),
    Shot(
        "with open(path) as stream:\n    lines = [line.strip() for line in stream if line]",
        "text files, list comprehensions, stripping white space",
        "a function",
        "medium",
        "Write a function `clean_lines(text)` that returns the lines of a text without blank ones and outer white space.",
    ),
    Shot(
        "class Stack:\n    def __init__(self):\n        self.items = []",
        "classes, last in first out, empty containers",
        "a class",
        "medium",
        "Write a class `Stack` with `push`, `pop` and `peek`; `pop` and `peek` raise IndexError on an empty stack.",
    ),
    Shot(
        "for a in range(n):\n    for b in range(a):\n        if a * b == n:\n            print(a, b)",
        "nested loops, divisors, early exit",
        "another function",
        "hard",
        "Write a function `divisor_pairs(n)` that returns all pairs (a, b) with a <= b and a * b == n, without testing every b.",
    ),
)


@dataclass(frozen=True)
class Solved:
    """A response split in two: what solves the task, and the Python that tests it."""

    solution: str
    tests: str


def concepts_prompt(snippet: str, shots: Sequence[Shot]) -> str:
    """Return the question for the ideas behind a snippet, as one line."""
    examples = [f"Snippet:\n{shot.snippet}\nConcepts: {shot.concepts}" for shot in shots]
    return "\n\n".join(
        ["Name the programming concepts in the last snippet.", *examples, f"Snippet:\n{snippet}\nConcepts:"]
    )


def instruction_prompt(concepts: str, category: str, difficulty: str, shots: Sequence[Shot]) -> str:
    """Return the question for a task about some ideas."""
    examples = [
        f"Concepts: {shot.concepts}\nKind: {shot.category}, {shot.difficulty}\nTask: {shot.instruction}"
        for shot in shots
    ]
    request = f"Concepts: {concepts}\nKind: {category}, {difficulty}\nTask:"
    return "\n\n".join(["Write one self-contained Python task about the concepts.", *examples, request])


def response_prompt(instruction: str) -> str:
    """Return the question for a solution and its tests, each in a fenced block."""
    return (
        f"{instruction}\n\nReply with two fenced Python blocks: first the solution, "
        "then tests of it that use assert and need no import of the solution."
    )


def solved(response: str) -> Solved | None:
    """Return solution and tests of a response; None where one is missing, or nothing is asserted."""
    blocks = FENCE.findall(response)
    if len(blocks) < 2 or not blocks[0].strip() or not re.search(r"\bassert\b", blocks[-1]):
        return None
    return Solved("\n".join(blocks[:-1]), blocks[-1])


def property_of(seed: int, number: int) -> tuple[str, str]:
    """Return (category, difficulty) of a task: all combinations in turn, in an order that the seed shuffles."""
    every = list(itertools.product(CATEGORIES, DIFFICULTIES))
    random.Random(seed).shuffle(every)
    return every[number % len(every)]
