"""Look a method up in its table and build it, with a helpful refusal."""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any, TypeVar

T = TypeVar("T")
# Comparing names takes the product of their lengths.
MAX_NAME_LENGTH = 100
MAX_KNOWN = 50
# What a parameter of a plain type takes, by its annotation.
PLAIN: dict[str, tuple[Any, str]] = {
    "float": ((int, float), "a number"),
    "int": (int, "a whole number"),
    "str": (str, "text"),
    "bool": (bool, "true or false"),
}


def build(table: Mapping[str, type[T]], name: str, params: Mapping[str, Any] | None = None) -> T:
    """Return `table[name](**params)`. Raises ValueError with a suggestion for an unknown method or parameter."""
    if name not in table:
        raise ValueError(f"unknown method {name!r}.{did_you_mean(name, table)}")
    method, params = table[name], dict(params or {})
    entries = dataclasses.fields(method)  # type: ignore[arg-type]
    fields = [entry.name for entry in entries]
    for key in params:
        if key not in fields:
            raise ValueError(f"method {name!r} has no parameter {key!r}.{did_you_mean(key, fields)}")
    return method(**{entry.name: _typed(entry, params[entry.name]) for entry in entries if entry.name in params})


def _typed(entry: dataclasses.Field[Any], value: Any) -> Any:
    """Return a parameter as its method takes it. Raises ValueError where a plain type is wanted and another given."""
    kind = str(entry.type).removesuffix(" | None")
    if kind not in PLAIN or (value is None and kind != entry.type):
        return value
    if kind == "float" and isinstance(value, str):
        with suppress(ValueError):  # YAML reads 1e-3 as text
            value = float(value)
    types, words = PLAIN[kind]
    is_flag = isinstance(value, bool)
    is_endless = isinstance(value, float) and not math.isfinite(value)
    if not isinstance(value, types) or is_flag != (kind == "bool") or is_endless:
        raise ValueError(f"{entry.name} is {repr(value)[:100]}; accepted: {words}")
    return value


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ' Did you mean ...? Known: ...' for the end of an error message, however long the name and however many are known."""
    name, names = str(name), sorted(map(str, known))
    close = difflib.get_close_matches(name[:MAX_NAME_LENGTH], names, n=1, cutoff=0.5)
    suggestion = f" Did you mean {close[0]!r}?" if close else ""
    more = f", and {len(names) - MAX_KNOWN} more" if len(names) > MAX_KNOWN else ""
    return f"{suggestion} Known: {', '.join(names[:MAX_KNOWN]) or 'none'}{more}"
