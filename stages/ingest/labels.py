"""Which choice an answer names. Its text, its label, a letter, or its number, decided by what a whole file says."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal

from attar.stages.artifacts.dataset.cells import is_blank, json_of, plain, text_cell

AnswerForm = Literal["auto", "text", "index", "number"]
# How unlikely it has to be that no answer among many names the first choice before the count from 0 is doubted.
DOUBTFUL = 1e-3
# No question has so many choices.
MAX_COUNT = 10_000
# What a boolean answer may be called in words.
WORDS_OF = {True: ("true", "yes"), False: ("false", "no")}


@dataclass(frozen=True)
class Choices:
    """The choices of one question: their texts as written, and the labels that the data gives them, if any."""

    texts: tuple[str, ...]
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class Labelled:
    """An answer beside its choices, and where both come from."""

    where: str
    answer: Any
    choices: Choices


def choices_of(cell: Any, name: str) -> Choices | None:
    """Return the choices in a cell, None for an open question (null, NaN, blank or an empty list).

    A list of texts, `{text: [...], label: [...]}`, a list of `{text, label}`, or any of these as JSON text. Raises ValueError for all else.
    """
    if isinstance(cell, str) and cell.strip()[:1] in ("[", "{"):
        try:
            cell = json_of(cell)
        except ValueError as error:
            raise ValueError(f"{name} is text that is no JSON list; {_ACCEPTED}") from error
    if is_blank(cell) or cell == []:
        return None
    texts, labels = _parts(cell, name)
    if not texts:
        return None
    choices = Choices(
        tuple(_choice(text, f"{name}[{index}]") for index, text in enumerate(texts)),
        tuple(_choice(label, f"label {index} of {name}") for index, label in enumerate(labels)),
    )
    if len(choices.texts) == 1:
        raise ValueError(f"{name} has one choice alone; accepted: two or more, or none for an open question")
    _refuse_equal(choices.texts, name)
    _refuse_equal(choices.labels, f"the labels of {name}")
    return choices


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
                f"{row.where} answer {_short(row.answer)} is ambiguous ({ways}, from 0); accepted: answer_form: text, index or number"
            )
        indices.append(reading[next(iter(whole & {*reading} or {*reading}))])
    return indices


_ACCEPTED = "accepted: a list of texts, {text: [...], label: [...]}, or either as JSON text"
_WAYS = {"text": "its text", "letter": "a letter", "digit": "a count", "label": "a label"}


def _parts(cell: Any, name: str) -> tuple[list[Any], list[Any]]:
    """Return (texts, labels) of a cell, not yet looked at one by one."""
    if isinstance(cell, Mapping):
        texts, labels = cell.get("text"), cell.get("label")
        if not isinstance(texts, list) or not isinstance(labels, list) or len(texts) != len(labels):
            raise ValueError(f"{name} is a mapping without text and label of one length; {_ACCEPTED}")
        return texts, labels
    if not isinstance(cell, list):
        raise ValueError(f"{name} is {'one text' if isinstance(cell, str) else 'no list'}; {_ACCEPTED}")
    if all(isinstance(item, Mapping) for item in cell):
        if not all({"text", "label"} <= {*item} for item in cell):
            raise ValueError(f"{name} holds mappings without text and label; {_ACCEPTED}")
        return [item["text"] for item in cell], [item["label"] for item in cell]
    return cell, []


def _choice(value: Any, name: str) -> str:
    """Return a choice's text; that of a boolean is the English word."""
    return ("True" if value else "False") if isinstance(value, bool) else text_cell(value, name, takes_numbers=True)


def _refuse_equal(texts: Sequence[str], name: str) -> None:
    first: dict[str, int] = {}
    for index, text in enumerate(texts):
        if text.strip() in first:
            raise ValueError(f"{name} has the same text twice, {first[text.strip()]} and {index}: {_short(text)}")
        first[text.strip()] = index


def _readings(row: Labelled) -> dict[str, int]:
    """Return every way to read an answer, with the choice it names; `zero` and `one` count from there."""
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
                f"{rows[counted[0]].where} answer {_short(rows[counted[0]].answer)} is a count in a file of letters, and no answer "
                f"tells whether the first choice is 0 or 1; {cure}"
            )
        return "one" if ends else "zero"
    no_first = math.prod(1.0 - 1.0 / len(rows[index].choices.texts) for index in counted)
    if not begins and not ends and no_first < DOUBTFUL:
        raise ValueError(
            f"{rows[counted[0]].where} answer {_short(rows[counted[0]].answer)} is a count, and none of {len(counted)} answers is 0; {cure}"
        )
    return "zero"


def _allowed(reading: Mapping[str, int], form: AnswerForm, base: str) -> dict[str, int]:
    """Return the ways that the form allows, the count as `digit`."""
    float_nodes = {name: reading[name] for name in ("label", "text", "letter") if name in reading}
    if form == "text":
        return {name: index for name, index in float_nodes.items() if name == "text"}
    if base in reading:
        float_nodes["digit"] = reading[base]
    if form in ("index", "number") and "digit" in float_nodes:
        return {"digit": float_nodes["digit"]}
    return float_nodes


def _shown(row: Labelled) -> str:
    choices = ", ".join(_short(text) for text in row.choices.texts[:6])
    more = ", ..." if len(row.choices.texts) > 6 else ""
    return (
        f"answer {_short(row.answer)} is not one of its choices {choices}{more}; "
        "accepted: a choice's text, its letter, or its index from 0 (from 1 with answer_form: number)"
    )


def _short(value: Any) -> str:
    """Return a value for a message: at most 40 characters of JSON."""
    if isinstance(value, str):
        return f"'{value[:40]}'"
    return json.dumps(plain(value), ensure_ascii=False)[:40]
