"""Cells of a table as text. What is text is taken, what is blank is told apart, all else is refused by its kind."""

from __future__ import annotations

import json
import math
import unicodedata
from collections import Counter
from decimal import Decimal
from typing import Any

# A number written longer than this is no answer that somebody would say.
MAX_DIGITS = 40
# No tool's schema is nested so deep, and whoever walks one by recursion stays within Python's limit.
MAX_DEPTH = 64


class BlankCellError(ValueError):
    """A cell that is null, NaN or blank: `blank_rows: drop` leaves its row out."""


def text_cell(value: Any, name: str, *, takes_numbers: bool = False) -> str:
    """Return a cell's text as it was written. With `takes_numbers` also that of a whole number or a decimal of JSON.

    Raises BlankCellError for null, NaN and text without a visible character, ValueError for what is no text.
    """
    if is_blank(value):
        raise BlankCellError(f"{name} is {_kind(value)}; accepted: text, or blank_rows: drop to leave such rows out")
    if isinstance(value, str):
        if not is_unicode(value):
            raise ValueError(f"{name} holds half a character (a lone surrogate, such as half an emoji); accepted: text")
        return value
    if takes_numbers and isinstance(value, (int, Decimal)) and not isinstance(value, bool):
        return _digits(value, name)
    accepted = "text or a whole number" if takes_numbers else "text"
    if isinstance(value, float) and takes_numbers:
        accepted += " (a table of floats does not keep the digits that were written: store the column as text)"
    raise ValueError(f"{name} is {_kind(value)}; accepted: {accepted}")


def is_blank(value: Any) -> bool:
    """Return True for null, NaN and text that shows nothing: spaces, marks without width."""
    if value is None or _is_nan(value):
        return True
    return isinstance(value, str) and all(unicodedata.category(letter) in _UNSEEN for letter in value)


def is_unicode(text: str) -> bool:
    """Return False for text that holds half a character: it cannot be written as UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def json_of(text: str) -> Any:
    """Return the JSON that a text holds, decimals as they were written. Raises ValueError for what is none, or names a key twice."""
    try:
        return json.loads(text, parse_float=Decimal, object_pairs_hook=_without_repeats)
    except RecursionError as error:
        raise ValueError("nested too deep") from error


def plain(value: Any, depth: int = 0) -> Any:
    """Return nested JSON with its decimals as floats. Raises ValueError for NaN, infinity, half characters and what is nested too deep."""
    if depth > MAX_DEPTH:
        raise ValueError(f"is nested deeper than {MAX_DEPTH}; accepted: less deep")
    if isinstance(value, dict):
        return {plain(key): plain(inner, depth + 1) for key, inner in value.items()}
    if isinstance(value, list):
        return [plain(inner, depth + 1) for inner in value]
    if isinstance(value, str) and not is_unicode(value):
        raise ValueError("holds half a character (a lone surrogate, such as half an emoji)")
    if isinstance(value, (float, Decimal)):
        if not math.isfinite(number := float(value)):
            raise ValueError(f"holds {_kind(number)}")
        return number
    return value


# Spaces and separators, control characters, marks without width; a surrogate is no blank, it is refused.
_UNSEEN = {"Zs", "Zl", "Zp", "Cc", "Cf"}
_KINDS = {bool: "a boolean", int: "a number", str: "text", list: "a list", dict: "a mapping", bytes: "bytes"}


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) < len(pairs):
        name = next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        raise ValueError(f"the name {name[:40]!r} stands twice in one object")
    return record


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, (float, Decimal)):
        return "NaN" if _is_nan(value) else "infinity" if value in (math.inf, -math.inf) else "a number"
    if isinstance(value, str):
        return "blank" if is_blank(value) else "text"
    return _KINDS.get(type(value), f"of type {type(value).__name__}")


def _is_nan(value: Any) -> bool:
    """Say whether a value is no number. A decimal may be too large for a float: it is asked itself."""
    return value.is_nan() if isinstance(value, Decimal) else isinstance(value, float) and math.isnan(value)


def _digits(value: int | Decimal, name: str) -> str:
    is_long = abs(value) >= 10**MAX_DIGITS if isinstance(value, int) else not _is_short(value)
    if is_long:
        raise ValueError(
            f"{name} is {_kind(value)} of over {MAX_DIGITS} digits or not finite; accepted: text or a shorter number"
        )
    return str(value) if isinstance(value, int) else format(value, "f")


def _is_short(value: Decimal) -> bool:
    return (
        value.is_finite() and -MAX_DIGITS < value.adjusted() < MAX_DIGITS and len(value.as_tuple().digits) < MAX_DIGITS
    )
