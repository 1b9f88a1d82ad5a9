"""The flat form of configs, read for one version. Which nested field each old field is now, and what a recipe of it is told."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, get_args

from pydantic import BaseModel

# What a reader of an old value returns for one that the new form has no need of, or that is in the new form already.
NOTHING = object()


@dataclass(frozen=True)
class Moved:
    """Where a field of the flat form is now, such as `adapt.rank`.

    `read` makes the new value of the old one, or NOTHING. `kinds`: of the alternatives that it is within, those it is for; under another
    it has no meaning, as before.
    """

    path: str
    read: Callable[[Any], Any] = lambda value: value
    kinds: tuple[str, ...] = ()


def within(outer: str, *names: str) -> dict[str, Moved]:
    """Return where fields are that moved into `outer` under their own names."""
    return {name: Moved(f"{outer}.{name}") for name in names}


def named_kind(value: Any) -> Any:
    """Return the mapping of an alternative that was spelt by its name alone."""
    return {"kind": value} if isinstance(value, str) else NOTHING


def kind_of(value: Any) -> Any:
    """Return the mapping of a method that was spelt by its name, or by its name with its parameters. `{gate: {limit: 2}}`."""
    if isinstance(value, str):
        return {"kind": value}
    kind = value.get("kind") if isinstance(value, Mapping) else None
    if isinstance(kind, str) and isinstance(value.get(kind), Mapping):  # set within the flat spelling
        return {**{name: param for name, param in value.items() if name != kind}, **value[kind]}
    if isinstance(value, Mapping) and "kind" not in value and len(value) == 1:
        [(name, params)] = value.items()
        if isinstance(params, Mapping) and "kind" not in params:
            return {"kind": name, **params}
    return NOTHING


def renewed(model: type[BaseModel], given: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a config in the form of today, and of it what was in the flat form. A flat field wins over the nested one."""
    content: dict[str, Any] = {}
    flat: dict[str, Any] = {}
    moves: list[tuple[Moved, Any]] = []
    table: Mapping[str, Moved] = getattr(model, "moved", {})
    for name, value in given.items():
        fresh = table[name].read(value) if name in table else NOTHING
        if name in table and (fresh is not NOTHING or table[name].path != name):
            moves += [(table[name], fresh)] if fresh is not NOTHING else []
            continue
        inner = member_of(model, name, value)
        content[name] = copy.deepcopy(value)
        if inner is not None and isinstance(value, Mapping):
            content[name], within = renewed(inner, value)
            flat |= {name: within} if within else {}
    # the kind before what depends on it
    for move, value in sorted(moves, key=lambda pair: (pair[0].path.count("."), not pair[0].path.endswith(".kind"))):
        if not move.kinds or _kind_within(model, content, move.path) in move.kinds:
            _put(content, move.path, value)
            _put(flat, move.path, value)
    return content, flat


def _put(content: dict[str, Any], path: str, value: Any) -> None:
    *outer, last = path.split(".")
    for part in outer:
        if not isinstance(content.get(part), dict):
            content[part] = {}
        content = content[part]
    is_kind = isinstance(value, dict) and "kind" in value
    content[last] = {**content[last], **value} if is_kind and isinstance(content.get(last), dict) else value


def _kind_within(model: type[BaseModel], content: Mapping[str, Any], path: str) -> Any:
    """Return the kind of the alternative that a path leads into: the one that is given, else the default's."""
    outer = path.partition(".")[0]
    value = content.get(outer)
    if isinstance(value, Mapping) and "kind" in value:
        return value["kind"]
    return getattr(model.model_fields[outer].get_default(call_default_factory=True), "kind", None)


def member_of(model: type[BaseModel], name: str, value: Any) -> type[BaseModel] | None:
    """Return the config that a field holds: of alternatives the one of the given kind."""
    field = model.model_fields.get(name)
    members = [] if field is None else list(models_in(field.annotation))
    if len(members) == 1:
        return None if is_plain(model, name, value) else members[0]
    kind = value.get("kind") if isinstance(value, Mapping) else None
    if kind is None and field is not None:  # a kind that is left out is that of the default
        kind = getattr(field.get_default(call_default_factory=True), "kind", None)
    return next((member for member in members if kind in get_args(member.model_fields["kind"].annotation)), None)


def is_plain(model: type[BaseModel], name: str, value: Any) -> bool:
    """Say whether a mapping is the field's alternative that is no config: it has none of the config's fields."""
    field = model.model_fields.get(name)
    if field is None or not isinstance(value, Mapping) or not _takes_mapping(field.annotation):
        return False
    return not any(value.keys() & member.model_fields.keys() for member in models_in(field.annotation))


def _takes_mapping(annotation: Any) -> bool:
    """Say whether a type also takes a mapping that is no config."""
    return getattr(annotation, "__origin__", None) is dict or any(map(_takes_mapping, _members(annotation)))


def _members(annotation: Any) -> tuple[Any, ...]:
    is_nest = isinstance(getattr(annotation, "__origin__", None), type) and annotation.__origin__ in (list, dict, tuple)
    return () if is_nest else get_args(annotation)


def models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """Yield the configs that a type may hold itself: not those in its lists and mappings."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
        return
    for member in _members(annotation):
        yield from models_in(member)
