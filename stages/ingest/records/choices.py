"""What a cell with choices holds: their texts, their labels, and which one the data itself marks as right."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from attar.stages.artifacts.dataset.cells import is_blank, json_of, plain, text_cell

# Keys of a choice that say whether it is the right one.
MARKS = ("is_correct", "correct")


@dataclass(frozen=True)
class Choices:
    """The choices of one question as they were written, with labels, or with a mark at the right one."""

    texts: tuple[str, ...]
    labels: tuple[str, ...] = ()
    marked_index: int | None = None
    # keys beside these that hold something
    unread_keys: frozenset[str] = frozenset()


def choices_of(cell: Any, name: str) -> Choices | None:
    """Return the choices in a cell, None for an open question (null, NaN, blank or an empty list).

    A list of texts, `{text: [...], label: [...]}`, a list of `{text, label}`, or any of these as JSON text; with `is_correct` beside, one
    of them is the right one, and the labels may be left out. Raises ValueError for all else.
    """
    if isinstance(cell, str) and cell.strip()[:1] in ("[", "{"):
        try:
            cell = json_of(cell)
        except ValueError as error:
            raise ValueError(f"{name} is text that is no JSON list; {_ACCEPTED}") from error
    if is_blank(cell) or cell == []:
        return None
    texts, labels, marks = _parts(cell, name)
    if not texts:
        return None
    choices = Choices(
        tuple(_choice(text, f"{name}[{index}]") for index, text in enumerate(texts)),
        tuple(_choice(label, f"label {index} of {name}") for index, label in enumerate(labels)),
        _marked_index(marks, name),
        _unread_keys(cell),
    )
    if len(choices.texts) == 1:
        raise ValueError(f"{name} has one choice alone; accepted: two or more, or none for an open question")
    _refuse_equal(choices.texts, name)
    _refuse_equal(choices.labels, f"the labels of {name}")
    return choices


_ACCEPTED = "accepted: a list of texts, {text: [...], label: [...]}, or either as JSON text"


def _parts(cell: Any, name: str) -> tuple[list[Any], list[Any], list[Any]]:
    """Return (texts, labels, marks) of a cell, not yet looked at one by one."""
    if isinstance(cell, Mapping):
        texts: Any = cell.get("text")
        labels, marks = cell.get("label"), cell.get(_mark_of([cell]))
        beside = [column for column in (labels, marks) if column is not None]
        is_whole = isinstance(texts, list) and all(isinstance(column, list) for column in beside)
        if not is_whole or {len(column) for column in beside} != {len(texts)}:
            raise ValueError(f"{name} is a mapping without text and label of one length; {_ACCEPTED}")
        return texts, labels or [], marks or []
    if not isinstance(cell, list):
        raise ValueError(f"{name} is {'one text' if isinstance(cell, str) else 'no list'}; {_ACCEPTED}")
    if all(isinstance(item, Mapping) for item in cell):
        mark = _mark_of(cell)
        wanted = {"text", "label"} if any("label" in item for item in cell) or not mark else {"text"}
        if not all(wanted <= {*item} for item in cell):
            raise ValueError(f"{name} holds mappings without text and label; {_ACCEPTED}")
        labels = [item["label"] for item in cell] if "label" in wanted else []
        return [item["text"] for item in cell], labels, [item.get(mark) for item in cell] if mark else []
    return cell, [], []


def _mark_of(mappings: Sequence[Mapping[str, Any]]) -> str:
    """Return the key by which choices say that they are right; nothing where none of them says it of any."""
    return next((mark for mark in MARKS if any(item.get(mark) is not None for item in mappings)), "")


def _marked_index(marks: Sequence[Any], name: str) -> int | None:
    """Return which choice is marked as right. Raises ValueError where the marks are no booleans, or not one alone is true."""
    if not marks:
        return None
    for index, mark in enumerate(marks):
        if mark not in (True, False, None):  # 1 and 0 are equal to them
            raise ValueError(f"the mark of {name}[{index}] is {shortened(mark)}; accepted: true or false")
    right = [index for index, mark in enumerate(marks) if mark]
    if len(right) != 1:
        raise ValueError(f"{name} has {len(right)} choices marked as right; accepted: one")
    return right[0]


def _unread_keys(cell: Any) -> frozenset[str]:
    mappings = [item for item in (cell if isinstance(cell, list) else [cell]) if isinstance(item, Mapping)]
    keys = {key for item in mappings for key, value in item.items() if not is_blank(value)}
    return frozenset(keys - {"text", "label", _mark_of(mappings)})


def _choice(value: Any, name: str) -> str:
    """Return a choice's text; that of a boolean is the English word."""
    return ("True" if value else "False") if isinstance(value, bool) else text_cell(value, name, takes_numbers=True)


def _refuse_equal(texts: Sequence[str], name: str) -> None:
    first: dict[str, int] = {}
    for index, text in enumerate(texts):
        if text.strip() in first:
            raise ValueError(f"{name} has the same text twice, {first[text.strip()]} and {index}: {shortened(text)}")
        first[text.strip()] = index


def shortened(value: Any) -> str:
    """Return a value for a message: at most 40 characters of JSON."""
    if isinstance(value, str):
        return f"'{value[:40]}'"
    return json.dumps(plain(value), ensure_ascii=False)[:40]
