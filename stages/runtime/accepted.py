"""What a field takes, in words, from pydantic's complaint about what it was given: `at least 1`, `a whole number`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

# Complaint -> what is accepted, from what pydantic says beside it.
BOUNDS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "greater_than": lambda ctx: f"above {_number(ctx['gt'])}",
    "greater_than_equal": lambda ctx: f"at least {_number(ctx['ge'])}",
    "less_than": lambda ctx: f"below {_number(ctx['lt'])}",
    "less_than_equal": lambda ctx: f"at most {_number(ctx['le'])}",
    "multiple_of": lambda ctx: f"a multiple of {_number(ctx['multiple_of'])}",
    "string_too_short": lambda ctx: f"{ctx['min_length']} characters or more",
    "string_too_long": lambda ctx: f"{ctx['max_length']} characters at most",
    "string_pattern_mismatch": lambda ctx: f"what matches {ctx['pattern']}",
    "too_short": lambda ctx: f"{ctx['min_length']} entries or more",
    "too_long": lambda ctx: f"{ctx['max_length']} entries at most",
    "literal_error": lambda ctx: str(ctx["expected"]),
    "enum": lambda ctx: str(ctx["expected"]),
}
# Complaints about the type, by how their names begin.
TYPES = {
    "int_": "a whole number",
    "float_": "a number",
    "finite_number": "a finite number",
    "bool_": "true or false",
    "string_type": "text",
    "path_type": "a path",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "a mapping",
    "mapping_type": "a mapping",
    "model_type": "a mapping of fields",
    "model_attributes_type": "a mapping of fields",
    "none_required": "nothing",
}


def accepted(complaint: Mapping[str, Any]) -> str:
    """Return what the field takes instead; empty where the complaint is a sentence of our own."""
    kind = complaint["type"]
    if kind in BOUNDS:
        return BOUNDS[kind](complaint.get("ctx", {}))
    return next((words for prefix, words in TYPES.items() if kind.startswith(prefix)), "")


def _number(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
