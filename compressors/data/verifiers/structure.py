"""Verifiers of an answer's form: it matches a pattern, or holds JSON that fits a schema.

Either may take time without end on some answer: whoever runs them on what others wrote runs them under a limit.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError
from jsonschema_specifications import REGISTRY
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012

FENCE = re.compile(r"```(?:json)?[^\S\n]*\n(.*?)```", re.DOTALL)
# Nothing that is checked by a pattern needs more than this.
MAX_CHARACTERS = 20_000
# An answer nested deeper than this may end a right schema that refers to itself; a schema that ends on less is wrong.
SHALLOW = 50
_SAMPLES: tuple[Any, ...] = (None, True, 0, "", [], {}, [0], {"a": 0})


@dataclass(frozen=True)
class MatchesPattern:
    """The reference is a regular expression, and the whole of the answer, spaces at its ends aside, matches it."""

    def __call__(self, rewrite: str, reference: str, choices: Sequence[str]) -> str | None:
        fault = self.reference_fault(reference, choices)
        if fault:
            return f"unusable reference ({fault})"
        given = rewrite.strip()
        # é is one character or two: whichever the pattern was written with
        forms = dict.fromkeys(
            [(given, reference), *((_normal(given, form), _normal(reference, form)) for form in ("NFC", "NFD"))]
        )
        is_match = any(re.fullmatch(pattern, text, re.DOTALL) for text, pattern in forms)
        return None if is_match and len(given) <= MAX_CHARACTERS else "wrong answer (the pattern does not match)"

    def value(self, text: str, choices: Sequence[str]) -> str | None:
        return None  # two texts that match one pattern are not the same answer

    def reference_fault(self, reference: str, choices: Sequence[str]) -> str | None:
        if not reference:
            return "it is empty"
        try:
            re.compile(reference, re.DOTALL)
        except (re.error, OverflowError, RecursionError) as error:
            return f"no regular expression: {error or type(error).__name__}"
        return None


@dataclass(frozen=True)
class FitsSchema:
    """The answer is JSON that fits the reference, a JSON schema (draft 2020-12). It is bare or in one fenced block.

    References inside the schema lead into itself or to the published drafts; nothing is fetched and no file is read.
    """

    def __call__(self, rewrite: str, reference: str, choices: Sequence[str]) -> str | None:
        fault = self.reference_fault(reference, choices)
        if fault:
            return f"unusable reference ({fault})"
        try:
            given = json_of(rewrite)
        except (ValueError, RecursionError):
            return "wrong answer (not JSON)"
        try:
            error = next(_validator(json.loads(reference)).iter_errors(given), None)
        except RecursionError:
            is_endless = _depth(rewrite) <= SHALLOW
            return (
                "unusable reference (it refers to itself without end)"
                if is_endless
                else "wrong answer (nested too deep)"
            )
        except Unresolvable as missing:
            return f"unusable reference ({_unresolved(missing)})"
        except (re.error, ValueError, ArithmeticError) as failure:
            return f"wrong answer (it cannot be checked: {str(failure)[:60]})"
        return None if error is None else f"wrong answer ({error.message[:80]})"

    def value(self, text: str, choices: Sequence[str]) -> str | None:
        try:
            return json.dumps(json_of(text), sort_keys=True)
        except (ValueError, RecursionError):
            return None

    def reference_fault(self, reference: str, choices: Sequence[str]) -> str | None:
        try:
            schema = _loads(reference)
            Draft202012Validator.check_schema(schema)
            _resolve_all(schema)
            for sample in _SAMPLES:
                _validator(schema).is_valid(sample)
        except RecursionError:
            return "it refers to itself without end"
        except Unresolvable as missing:
            return _unresolved(missing)
        except (SchemaError, ValueError, ArithmeticError, re.error) as error:
            return f"no JSON schema: {(str(error).splitlines() or [''])[0][:120]}"
        return None


def verdict(check: str, rewrite: str, reference: str) -> str | None:
    """Return the verdict of one of these two checks, by its class's name."""
    return _CHECKS[check](rewrite, reference, ())


def reference_fault(check: str, reference: str) -> str | None:
    """Return what one of these two checks has against a reference, by its class's name."""
    return _CHECKS[check].reference_fault(reference, ())


def json_value(text: str) -> str | None:
    """Return the JSON of an answer in one spelling, None where there is none."""
    return FitsSchema().value(text, ())


def json_of(text: str) -> Any:
    """Return the JSON that a text is, or that its only fenced block is. Raises ValueError for what is none, NaN included."""
    blocks = FENCE.findall(text)
    return _loads(blocks[0] if len(blocks) == 1 else text)


_CHECKS: dict[str, MatchesPattern | FitsSchema] = {"MatchesPattern": MatchesPattern(), "FitsSchema": FitsSchema()}


def _validator(schema: Any) -> Draft202012Validator:
    return Draft202012Validator(schema, registry=REGISTRY)  # the library's own registry fetches what is not in it


def _resolve_all(schema: Any) -> None:
    """Look every reference of a schema up. Raises Unresolvable for one that leads out of it."""
    root = DRAFT202012.create_resource(schema)
    parts = [(root, REGISTRY.resolver_with_root(root))]
    while parts:
        part, resolver = parts.pop()
        if isinstance(part.contents, Mapping):
            for name in ("$ref", "$dynamicRef"):
                if name in part.contents:
                    resolver.lookup(part.contents[name])
        parts += [(inner, resolver.in_subresource(inner)) for inner in part.subresources()]


def _unresolved(missing: Unresolvable) -> str:
    return f"its $ref leads nowhere in it: {str(missing)[:80]}"


def _normal(text: str, form: Literal["NFC", "NFD"]) -> str:
    return unicodedata.normalize(form, text)


def _depth(text: str) -> int:
    """Return how deep the brackets of a text go, those in its strings too."""
    depth = deepest = 0
    for character in text:
        depth += (character in "[{") - (character in "]}")
        deepest = max(deepest, depth)
    return deepest


def _loads(text: str) -> Any:
    return json.loads(text, parse_constant=_refuse)


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is no JSON")
