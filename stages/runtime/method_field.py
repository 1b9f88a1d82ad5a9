"""A config's field that names a method of a table, read into that method once. With its parameters: `{kind: ema, decay: 0.99}`."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import TypeAdapter
from pydantic_core import core_schema

from attar.compressors.catalogue import build, did_you_mean

T = TypeVar("T")


@dataclass(frozen=True)
class MethodField:
    """Annotates a field whose value is a method of `table`. A method is a frozen dataclass, its kind the name in the table.

    The field holds the method itself, so that nothing parses it again. `what` names the field in a refusal.
    """

    table: Mapping[str, type[Any]]
    what: str
    # the kind of a mapping that names none
    default: str = ""

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> core_schema.CoreSchema:
        """Return how pydantic reads and writes the field."""
        written = core_schema.plain_serializer_function_ser_schema(self.written)
        return core_schema.no_info_plain_validator_function(self.read, serialization=written)

    def __get_pydantic_json_schema__(self, schema: Any, handler: Any) -> dict[str, Any]:
        """Return the field's JSON Schema: one alternative a method, told apart by `kind`, which the default alone may leave out."""
        return {"oneOf": [_schema(name, method, name == self.default) for name, method in self.table.items()]}

    def read(self, value: Any) -> Any:
        """Return the method of `{kind: name, parameter: value}`. Raises ValueError for an unknown one or a wrong parameter."""
        if self._kinds.get(type(value)):
            return value
        kind = value.get("kind", self.default) if isinstance(value, Mapping) else ""
        if not kind:
            raise ValueError(f"{self.what} has no kind.{did_you_mean('', self.table)}")
        params = {name: param for name, param in value.items() if name != "kind"}
        return build_named(self.table, str(kind), params, self.what)

    def kind(self, method: Any) -> str:
        """Return the name of a method."""
        return self._kinds[type(method)]

    @property
    def _kinds(self) -> dict[type[Any], str]:
        return {method: name for name, method in self.table.items()}

    def written(self, method: Any) -> dict[str, Any]:
        """Return a method as a recipe spells it, every parameter included."""
        kind = self.kind(method)
        params = {entry.name: getattr(method, entry.name) for entry in dataclasses.fields(method)}
        return {"kind": kind, **params}


def build_named(table: Mapping[str, type[T]], name: str, params: Mapping[str, Any], what: str) -> T:
    """Return the method of that name. Raises ValueError that says which field of the config is wrong."""
    if name not in table:
        raise ValueError(f"unknown {what} {name!r}.{did_you_mean(name, table)}")
    try:
        return build(table, name, params)
    except TypeError as error:  # a parameter without a default is missing, or has no number where one must be
        raise ValueError(
            f"{what} {name!r}: {str(error).removeprefix(table[name].__name__ + '.__init__() ')}"
        ) from error
    except ValueError as error:
        raise ValueError(f"{what} {name!r}: {error}") from error


def _schema(name: str, method: type[Any], is_default: bool) -> dict[str, Any]:
    hints = typing.get_type_hints(method)
    properties: dict[str, Any] = {"kind": {"const": name}}
    for entry in dataclasses.fields(method):
        properties[entry.name] = TypeAdapter(hints[entry.name]).json_schema()
        if entry.default is not dataclasses.MISSING:
            properties[entry.name]["default"] = entry.default
    doc = (method.__doc__ or "").strip().partition("\n")[0]
    return {
        "type": "object",
        "title": name,
        "description": doc,
        "properties": properties,
        "required": [] if is_default else ["kind"],
        "additionalProperties": False,
    }
