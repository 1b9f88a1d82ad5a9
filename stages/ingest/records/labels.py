"""Which choice an answer names. Its text, its label, a letter, or its number, decided by what a whole file says."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal

from attar.stages.artifacts.dataset.cells import is_blank, text_cell
from attar.stages.ingest.records.choices import Choices, shortened

AnswerForm = Literal["auto", "text", "index", "number"]
# How unlikely it has to be that no answer among many names the first choice before the count from 0 is doubted.
DOUBTFUL = 1e-3
# No question has so many choices.
MAX_COUNT = 10_000
# What a boolean answer may be called in words.
WORDS_OF = {True: ("true", "yes"), False: ("false", "no")}


@dataclass(frozen=True)
class Labelled:
    """An answer beside its choices, and where both come from."""

    where: str
    answer: Any
    choices: Choices


def answer_indices(rows: Sequence[Labelled], form: AnswerForm) -> list[int]:
    """Return which choice each answer of a file names, counted from 0.

    The forms are told apart by the whole file, not row by row. Raises ValueError, naming the row, for an answer that names none
    or that two forms read as different choices.
    """
    readings = [_readings(row) for row in rows]
    if form == "auto" and readings and all("label" in reading for reading in readings):
        return [reading["label"] for reading in readings]
    base = _base(rows, readings, form)
    answers = [_allowed(reading, form, base) for reading in readings]
    whole = {name for name in ("label", "text", "letter", "digit") if all(name in reading for reading in answers)}
    indices = []
    for row, reading in zip(rows, answers, strict=True):
        if not reading:
            raise ValueError(f"{row.where} {_shown(row)}")
        if len({*reading.values()}) > 1 and len(whole) != 1:
            ways = ", ".join(f"as {_WAYS[name]} choice {index}" for name, index in sorted(reading.items()))
            raise ValueError(
                f"{row.where} answer {shortened(row.answer)} is ambiguous ({ways}, from 0); accepted: answer_form: text, index or number"
            )
        indices.append(reading[next(iter(whole & {*reading} or {*reading}))])
    return indices


_WAYS = {"text": "its text", "letter": "a letter", "digit": "a count", "label": "a label"}


def _readings(row: Labelled) -> dict[str, int]:
    """Return every way to read an answer, with the choice it names; `zero` and `one` count from there.

    Where a choice is marked as right, only what names that one: a blank answer does, by the mark alone.
    """
    marked = row.choices.marked_index
    if marked is not None and is_blank(row.answer):
        return {"mark": marked}
    readings = _plain_readings(row)
    return {name: index for name, index in readings.items() if marked is None or index == marked}


def _plain_readings(row: Labelled) -> dict[str, int]:
    """Return every way to read an answer, whatever is marked."""
    texts = [text.strip() for text in row.choices.texts]
    if isinstance(row.answer, bool):
        words = [text.casefold() for text in texts]
        return next(({"text": words.index(word)} for word in WORDS_OF[row.answer] if word in words), {})
    # a table with an empty cell somewhere holds its whole numbers as floats
    is_whole = isinstance(row.answer, (float, Decimal)) and abs(row.answer) < MAX_COUNT and row.answer % 1 == 0
    try:
        text = text_cell(
            int(row.answer) if is_whole and isinstance(row.answer, float) else row.answer, "answer", takes_numbers=True
        ).strip()
    except ValueError as error:
        raise ValueError(f"{row.where} {error}") from error
    count = str(int(row.answer)) if is_whole else text
    readings = {}
    if text in row.choices.labels:
        readings["label"] = row.choices.labels.index(text)
    if text in texts:
        readings["text"] = texts.index(text)
    if re.fullmatch("[A-Z]", text) and ord(text) - ord("A") < len(texts):
        readings["letter"] = ord(text) - ord("A")
    if re.fullmatch("[0-9]{1,4}", count):
        readings |= {"zero": int(count)} if int(count) < len(texts) else {}
        readings |= {"one": int(count) - 1} if 0 < int(count) <= len(texts) else {}
    return readings


def _base(rows: Sequence[Labelled], readings: Sequence[Mapping[str, int]], form: AnswerForm) -> str:
    """Return whether the file's counts begin at `zero` or `one`. Raises ValueError, naming a row, where nothing tells."""
    if form != "auto":
        return {"index": "zero", "number": "one", "text": ""}[form]
    counted = [
        index for index, reading in enumerate(readings) if {"zero", "one"} & {*reading} and "text" not in reading
    ]
    if not counted:
        return "zero"
    begins = any("one" not in readings[index] for index in counted)
    ends = any("zero" not in readings[index] for index in counted)
    cure = "accepted: answer_form: index where the first choice is 0, number where it is 1"
    if any("letter" in reading and "text" not in reading for reading in readings):
        # in a file of letters "1" may well be the first choice; a number of JSON is the index that the docs ask for
        is_told = begins != ends or not (begins or any(isinstance(rows[index].answer, str) for index in counted))
        if not is_told:
            raise ValueError(
                f"{rows[counted[0]].where} answer {shortened(rows[counted[0]].answer)} is a count in a file of letters, and no answer "
                f"tells whether the first choice is 0 or 1; {cure}"
            )
        return "one" if ends else "zero"
    no_first = math.prod(1.0 - 1.0 / len(rows[index].choices.texts) for index in counted)
    if not begins and not ends and no_first < DOUBTFUL:
        raise ValueError(
            f"{rows[counted[0]].where} answer {shortened(rows[counted[0]].answer)} is a count, and none of {len(counted)} answers is 0; {cure}"
        )
    return "zero"


def _allowed(reading: Mapping[str, int], form: AnswerForm, base: str) -> dict[str, int]:
    """Return the ways that the form allows, the count as `digit`. What is marked as right needs no form."""
    if "mark" in reading:
        return dict(reading)
    ways = {name: reading[name] for name in ("label", "text", "letter") if name in reading}
    if form == "text":
        return {name: index for name, index in ways.items() if name == "text"}
    if base in reading:
        ways["digit"] = reading[base]
    if form in ("index", "number") and "digit" in ways:
        return {"digit": ways["digit"]}
    return ways


def _shown(row: Labelled) -> str:
    choices = ", ".join(shortened(text) for text in row.choices.texts[:6])
    more = ", ..." if len(row.choices.texts) > 6 else ""
    marked = row.choices.marked_index
    if marked is not None:
        return (
            f"answer {shortened(row.answer)} does not name {shortened(row.choices.texts[marked])}, which its choices {choices}{more} mark as "
            "right; accepted: that one, or no answer"
        )
    return (
        f"answer {shortened(row.answer)} is not one of its choices {choices}{more}; "
        "accepted: a choice's text, its letter, or its index from 0 (from 1 with answer_form: number)"
    )
