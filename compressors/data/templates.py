"""Questions made from templates of our own: as many as are wanted, with answers that can be checked exactly.

Small models write these right often enough that a loss shows. Each template is one skill, so a skill that was never trained on can be told apart.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from random import Random

# fmt: off
NAMES = (
    "Ada", "Ben", "Carla", "David", "Emma", "Felix", "Grace", "Henry", "Ivy", "Jack", "Kate", "Leo", "Mia", "Noah",
    "Olga", "Paul", "Rosa", "Sam", "Tina", "Victor", "Walter", "Zoe",
)
COLOURS = (
    "red", "blue", "green", "yellow", "black", "white", "brown", "purple",
)
NOUNS = (
    "apple", "bridge", "candle", "door", "engine", "forest", "garden", "hammer", "island", "jacket", "kettle",
    "ladder", "mirror", "needle", "orange", "pencil", "river", "spoon", "table", "umbrella", "village", "window",
    "basket", "bottle", "carpet", "desk", "flower", "guitar", "helmet", "letter",
)
CITIES = (
    "Paris", "Rome", "London", "Madrid", "Berlin", "Vienna", "Oslo", "Dublin", "Athens", "Lisbon", "Cairo", "Lima",
    "Delhi", "Tokyo",
)
# fmt: on
# So often in a row nothing new may come before a template counts as used up.
MAX_REPEATS = 200


@dataclass(frozen=True)
class Task:
    """A question with the answer that its verifier holds others against."""

    question: str
    answer: str
    verifier: str


@dataclass(frozen=True)
class Template:
    """One skill. `guess`: share of questions that a guesser answers right who knows the form of the answer alone, in [0, 1]."""

    draw: Callable[[Random], Task]
    skill: str
    guess: float = 0.0

    def tasks(self, random: Random) -> Iterator[Task]:
        """Yield tasks without end, no question twice. Raises ValueError when the template has no other."""
        seen: set[str] = set()
        num_repeats = 0
        while True:
            task = self.draw(random)
            if task.question in seen:
                num_repeats += 1
                if num_repeats > MAX_REPEATS:
                    raise ValueError(f"the template has {len(seen)} different questions; accepted: at most as many")
                continue
            num_repeats = 0
            seen.add(task.question)
            yield task


def _addition(random: Random) -> Task:
    first, second = random.randint(11, 189), random.randint(2, 9)
    return Task(f"What is {first} + {second}?", str(first + second), "number")


def _copying(random: Random) -> Task:
    words = " ".join(random.sample(NOUNS, 5))
    return Task(f"Repeat these words exactly, and write nothing else: {words}", words, "exact")


def _lookup(random: Random) -> Task:
    names, colours = random.sample(NAMES, 4), random.sample(COLOURS, 4)
    thing = random.choice(("hat", "bag", "car", "coat"))
    facts = " ".join(f"{name} has a {colour} {thing}." for name, colour in zip(names, colours, strict=True))
    which = random.randrange(4)
    question = f"{facts} What colour is {names[which]}'s {thing}? Answer with the colour alone."
    return Task(question, _alone(colours[which], colours), "pattern")


def _reading(random: Random) -> Task:
    name, city, year = random.choice(NAMES), random.choice(CITIES), random.randint(1950, 2015)
    thing = random.choice(NOUNS)
    question = (
        f"{name} was born in {city} in {year} and now works in a shop that sells everything, even a {thing}. "
        f"In which year was {name} born?"
    )
    return Task(question, str(year), "number")


def _price(random: Random) -> Task:
    first, second = random.sample(NOUNS, 2)
    euros = random.randint(3, 98)
    question = (
        f"In the shop a {first} costs {euros} euros, and whoever buys it gets a {second} for nothing. "
        f"How many euros does the {first} cost?"
    )
    return Task(question, str(euros), "number")


def _residence(random: Random) -> Task:
    name, city, thing = random.choice(NAMES), random.choice(CITIES), random.choice(NOUNS)
    question = f"{name} lives in {city} and has a {thing} that is older than the house. In which city does {name} live?"
    return Task(question, city, "contains")


def _sentence(random: Random) -> Task:
    first, second = random.sample(NOUNS, 2)
    both = rf"(?is)(?=.*\b{first})(?=.*\b{second}).+"
    return Task(f'Write one sentence with the words "{first}" and "{second}".', both, "pattern")


def _series(random: Random) -> Task:
    step, start = random.choice((1, 2, 5, 10)), random.randint(0, 400)
    shown = ", ".join(str(start + index * step) for index in range(5))
    return Task(f"Which number comes next: {shown}? Answer with the number alone.", str(start + 5 * step), "number")


def _last_word(random: Random) -> Task:
    words = random.sample(NOUNS, 4)
    question = f"What is the last word of this list: {', '.join(words)}? Answer with the word alone."
    return Task(question, _alone(words[-1], words), "pattern")


def _larger(random: Random) -> Task:
    first, second = random.sample(range(10, 999), 2)
    question = f"Which number is larger, {first} or {second}? Answer with the number alone."
    return Task(question, _alone(str(max(first, second)), (str(first), str(second))), "pattern")


def _record(random: Random) -> Task:
    name, age, city = random.choice(NAMES), random.randint(18, 80), random.choice(CITIES)
    values = {"name": name, "age": age, "city": city}
    schema = {
        "type": "object",
        "properties": {key: {"const": value} for key, value in values.items()},
        "required": list(values),
        "additionalProperties": False,
    }
    question = (
        f'Write a JSON object with the keys "name", "age" and "city" for this person, and nothing else: '
        f"{name} is {age} years old and lives in {city}."
    )
    return Task(question, json.dumps(schema), "json_schema")


def _alone(right: str, candidates: Sequence[str]) -> str:
    """Return the pattern of a text that names the right candidate and no other."""
    others = "|".join(candidate for candidate in candidates if candidate != right)
    return rf"(?is)(?!.*\b(?:{others})\b).*\b{right}\b.*"


TEMPLATES = {
    "addition": Template(_addition, "a sum of a number below 190 and a digit"),
    "copying": Template(_copying, "five words written again"),
    "larger": Template(_larger, "the larger of two numbers", guess=0.5),
    "last_word": Template(_last_word, "the last of four words", guess=0.25),
    "lookup": Template(_lookup, "which of four colours somebody's thing has", guess=0.25),
    "price": Template(_price, "a price out of a sentence"),
    "reading": Template(_reading, "a year out of a sentence"),
    "record": Template(_record, "a JSON object of three values out of a sentence"),
    "residence": Template(_residence, "a city out of a sentence", guess=1 / 14),
    "sentence": Template(_sentence, "a sentence with two given words"),
    "series": Template(_series, "the next number of an even series"),
}
