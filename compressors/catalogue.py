"""Look a method up in its table and build it, with a helpful refusal."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

T = TypeVar("T")
# Comparing names takes the product of their lengths.
MAX_NAME_LENGTH = 100
MAX_KNOWN = 50


def build(table: Mapping[str, type[T]], name: str, params: Mapping[str, Any] | None = None) -> T:
    """Return `table[name](**params)`. Raises ValueError with a suggestion for an unknown method or parameter."""
    if name not in table:
        raise ValueError(f"unknown method {name!r}.{did_you_mean(name, table)}")
    method, params = table[name], dict(params or {})
    fields = [entry.name for entry in dataclasses.fields(method)]  # type: ignore[arg-type]
    for key in params:
        if key not in fields:
            raise ValueError(f"method {name!r} has no parameter {key!r}.{did_you_mean(key, fields)}")
    return method(**params)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ' Did you mean ...? Known: ...' for the end of an error message, however long the name and however many are known."""
    names = sorted(known)
    close = difflib.get_close_matches(name[:MAX_NAME_LENGTH], names, n=1, cutoff=0.5)
    suggestion = f" Did you mean {close[0]!r}?" if close else ""
    more = f", and {len(names) - MAX_KNOWN} more" if len(names) > MAX_KNOWN else ""
    return f"{suggestion} Known: {', '.join(names[:MAX_KNOWN]) or 'none'}{more}"
