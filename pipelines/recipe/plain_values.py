"""What a recipe's content may be made of. Text, numbers that can be written down, lists and mappings, as few and as flat as people write."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from attar.pipelines.recipe.file import MAX_DEPTH, MAX_VALUES
from attar.pipelines.recipe.mistakes import Mistakes, RecipeError, shown

# What 64 bits hold: seeds, counts and sizes are no larger.
MAX_WHOLE_NUMBER = 2**63 - 1


def check_plain(document: Any) -> None:
    """Raise RecipeError for content that is no mapping, too large, too deep, or holds what JSON cannot say."""
    if not isinstance(document, Mapping):
        raise RecipeError(f"recipe = {shown(document)}: a mapping is expected")
    mistakes = Mistakes()
    num_values = 0
    pending: list[tuple[tuple[Any, ...], Any]] = [((), document)]
    while pending and not mistakes.is_full:
        path, value = pending.pop()
        num_values += 1
        if num_values > MAX_VALUES:
            mistakes.add(f"recipe: more than {MAX_VALUES} values once its anchors are written out")
            break
        if len(path) >= MAX_DEPTH:
            mistakes.add(f"{_where(path)}: nested more than {MAX_DEPTH} deep")
        elif isinstance(value, Mapping):
            pending.extend(((*path, key), inner) for key, inner in value.items())
        elif isinstance(value, list | tuple):
            pending.extend(((*path, index), inner) for index, inner in enumerate(value))
        elif fault := _fault(value):
            mistakes.add(f"{_where(path)}{fault}")
    mistakes.refuse()


def _fault(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return ""
    if isinstance(value, str):
        is_text = not any("\ud800" <= char <= "\udfff" or char == "\0" for char in value)
        return "" if is_text else f" = {shown(value)}: holds what no text does; accepted: whole Unicode characters"
    if isinstance(value, int):
        return "" if abs(value) <= MAX_WHOLE_NUMBER else f": accepted: whole numbers up to {MAX_WHOLE_NUMBER}"
    if isinstance(value, float):
        return (
            ""
            if math.isfinite(value)
            else f" = {value}: accepted: a finite number; a limit that is left out does not bind"
        )
    return f" is a {type(value).__name__}; accepted: text, numbers, true, false, lists and mappings"


def _where(path: tuple[Any, ...]) -> str:
    if path[:1] == ("nodes",) and len(path) > 1:
        return f"node {shown(path[1])}" + (f", {'.'.join(map(str, path[2:]))}" if path[2:] else "")
    return f"recipe, {'.'.join(map(str, path))}" if path else "recipe"
