"""The cases by group: what is asked, and how an answer is checked. Refusals, format and answer positions from files, the rest made from seeds."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from attar.stages.artifacts.dataset.rows import Row

SHIPPED = Path(__file__).parent / "shipped"
NUM_MADE = 24
SEED = 20
NAMES = (
    "Maria Lopez",
    "Jonas Weber",
    "Aiko Tanaka",
    "Peter Novak",
    "Fatima Haddad",
    "Lena Olsen",
    "Samuel Okoye",
    "Ines Duarte",
)
CITIES = ("Lisbon", "Krakow", "Osaka", "Tampere", "Valencia", "Ghent", "Porto", "Leipzig")
THINGS = ("boxes", "lamps", "chairs", "bottles", "maps", "coats", "wheels", "books")
PAIRS = {"(": ")", "[": "]", "{": "}"}


def shipped_cases(name: str) -> list[Row]:
    """Return the cases of a file that comes with Attar."""
    rows = []
    for index, line in enumerate((SHIPPED / f"{name}.jsonl").read_text().splitlines()):
        entry = json.loads(line)
        if "choices" in entry:
            row = Row(f"{name}-{index}", entry["question"], choices=entry["choices"], answer_index=entry["answer"])
        else:
            row = Row(f"{name}-{index}", entry["question"], entry["answer"], verifier=entry["verifier"])
        rows.append(row)
    return rows


def copying_cases() -> list[Row]:
    """Return questions whose answer, a name or a number, stands in the text before them."""
    draw, rows = random.Random(SEED), []
    for index in range(NUM_MADE):
        first, second = draw.sample(NAMES, 2)
        city, thing = draw.choice(CITIES), draw.choice(THINGS)
        count, order = draw.randrange(12, 990), f"{draw.choice('ABCDEF')}{draw.randrange(1000, 9999)}"
        text = (
            f"{first} from {city} ordered {count} {thing} under order number {order}. {second} packed them on a Friday "
            f"and sent them on Monday."
        )
        question, answer, verifier = (
            (f"How many {thing} were ordered?", str(count), "number"),
            ("Who packed the order?", second, "contains"),
            ("What is the order number?", order, "contains"),
            (f"Who ordered the {thing}?", first, "contains"),
        )[index % 4]
        rows.append(Row(f"copying-{index}", f"{text}\n{question} Answer in a few words.", answer, verifier=verifier))
    return rows


def arithmetic_cases() -> list[Row]:
    """Return sums, differences and products of small numbers."""
    draw, rows = random.Random(SEED), []
    kinds: tuple[tuple[str, Callable[[int, int], int]], ...] = (
        ("plus", lambda a, b: a + b),
        ("minus", lambda a, b: a - b),
        ("times", lambda a, b: a * b),
    )
    for index in range(NUM_MADE):
        word, result = kinds[index % 3]
        a, b = (
            (draw.randrange(2, 12), draw.randrange(2, 10))
            if word == "times"
            else (draw.randrange(20, 90), draw.randrange(2, 20))
        )
        question = f"What is {a} {word} {b}? Answer with the number alone."
        rows.append(Row(f"arithmetic-{index}", question, str(result(a, b)), verifier="number"))
    return rows


def bracket_cases() -> list[Row]:
    """Return lines of brackets, closed rightly or not: is it balanced, yes or no? Half of them are."""
    draw, rows, lines = random.Random(SEED), [], set()
    while len(rows) < NUM_MADE:
        index = len(rows)
        opened = [draw.choice("([{") for _ in range(2 + index % 4)]
        closed = [PAIRS[bracket] for bracket in reversed(opened)]
        is_balanced = index % 2 == 0
        if not is_balanced:
            wrong = draw.randrange(len(closed))
            closed[wrong] = draw.choice([bracket for bracket in PAIRS.values() if bracket != closed[wrong]])
        line = " ".join([*opened, *closed])
        if line in lines:
            continue
        lines.add(line)
        question = (
            f"Is every bracket in this line closed by its own kind, in the right order? {line}\nAnswer yes or no."
        )
        choices = ["yes", "no"]
        rows.append(Row(f"brackets-{index}", question, choices=choices, answer_index=int(not is_balanced)))
    return rows


# group -> its cases; `position` is asked in every order of its choices
GROUPS: Mapping[str, Callable[[], list[Row]]] = {
    "refusals": lambda: shipped_cases("refusals"),
    "format": lambda: shipped_cases("format"),
    "copying": copying_cases,
    "arithmetic": arithmetic_cases,
    "brackets": bracket_cases,
    "position": lambda: shipped_cases("position"),
}
POSITION, ENDING, VERBATIM = "position", "ending", "verbatim"


def turned(choices: Sequence[str], by: int) -> list[str]:
    """Return choices in the order that begins with the one at `by`."""
    return [*choices[by:], *choices[:by]]
