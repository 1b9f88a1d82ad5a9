"""Verifiers of an answer's form: it matches a pattern, or holds JSON that fits a schema."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError

FENCE = re.compile(r"```(?:json)?\s*\n(.*?)```", re.DOTALL)
# A pattern may take exponential time on a long answer; nothing that is checked by one needs more than this.
MAX_CHARACTERS = 20_000


@dataclass(frozen=True)
class MatchesPattern:
    """The reference is a regular expression, and the whole of the answer, spaces at its ends aside, matches it."""

    def __call__(self, rewrite: str, reference: str, choices: Sequence[str]) -> str | None:
        try:
            pattern = re.compile(reference, re.DOTALL)
        except re.error as error:
            return f"unusable reference (no regular expression: {error})"
        found = pattern.fullmatch(rewrite.strip()[:MAX_CHARACTERS])
        return None if found and len(rewrite.strip()) <= MAX_CHARACTERS else "wrong answer (the pattern does not match)"

    def value(self, text: str, choices: Sequence[str]) -> str | None:
        return None  # two texts that match one pattern are not the same answer


@dataclass(frozen=True)
class FitsSchema:
    """The reference is a JSON schema (draft 2020-12), and the answer is JSON that fits it, bare or in one fenced block."""

    def __call__(self, rewrite: str, reference: str, choices: Sequence[str]) -> str | None:
        try:
            schema = json.loads(reference)
            Draft202012Validator.check_schema(schema)
        except (json.JSONDecodeError, SchemaError, RecursionError) as error:
            return f"unusable reference (no JSON schema: {str(error).splitlines()[0]})"
        try:
            given = json_of(rewrite)
        except (json.JSONDecodeError, RecursionError):
            return "wrong answer (not JSON)"
        error = next(Draft202012Validator(schema).iter_errors(given), None)
        return None if error is None else f"wrong answer ({error.message[:80]})"

    def value(self, text: str, choices: Sequence[str]) -> str | None:
        try:
            return json.dumps(json_of(text), sort_keys=True)
        except (json.JSONDecodeError, RecursionError):
            return None


def json_of(text: str) -> Any:
    """Return the JSON that a text is, or that its only fenced block is. Raises json.JSONDecodeError."""
    blocks = FENCE.findall(text)
    return json.loads(blocks[0] if len(blocks) == 1 else text)
