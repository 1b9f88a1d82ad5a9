"""`attar describe`: every field of a stage or a method, with what it takes, its default, and what it means."""

from __future__ import annotations

import collections.abc
import dataclasses
import inspect
import io
import tokenize
import types
import typing
from collections.abc import Iterator
from typing import Any

from annotated_types import BaseMetadata
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from attar.compressors.catalogue import did_you_mean
from attar.pipelines.cli.listing import CATALOGUES
from attar.pipelines.cli.method_table import FOLDER
from attar.pipelines.recipe.file import shipped_recipes
from attar.pipelines.recipe.mistakes import shown
from attar.pipelines.recipe.whole import load_recipe
from attar.stages.catalogue import STAGES
from attar.stages.contract import InputSlot

BOUNDS = {
    "gt": "above",
    "ge": "at least",
    "lt": "below",
    "le": "at most",
    "max_length": "length at most",
    "min_length": "length at least",
}


def describe(name: str) -> list[dict[str, Any]]:
    """Return what a name stands for, once for each catalogue that has it: {kind, name, text, fields}. Raises ValueError for none."""
    entries = []
    if name in STAGES:
        stage = STAGES[name]
        inputs = ", ".join(map(_slot, stage.slots.values()))
        shared = f" Shared by workers of a pool in {stage.sharding.pieces}." if stage.sharding is not None else ""
        text = f"{inspect.getdoc(stage.run)}\n\nInputs: {inputs or 'none'}. Makes: {stage.makes}.{shared}"
        entries.append({"kind": "stage", "name": name, "text": text, "fields": list(_config_fields(stage.config_type))})
    for catalogue, table in CATALOGUES.items():
        if name in table:
            method = table[name]
            text = inspect.getdoc(method) or ""
            entries.append({"kind": catalogue, "name": name, "text": text, "fields": list(_method_fields(method))})
    presets = [preset for preset in shipped_recipes() if preset.startswith(FOLDER)]
    for preset in presets:
        if name in (preset, preset.removeprefix(FOLDER)) and (recipe := load_recipe(preset)).card:
            text = f"{recipe.description}\n{recipe.card.title}: {recipe.card.paper}\nReconstructed: {recipe.card.reconstructed}"
            nodes = [
                {"field": node.name, "takes": node.stage.name, "default": "", "what": node.stage.summary}
                for node in recipe.nodes.values()
            ]
            entries.append({"kind": "recipe", "name": preset, "text": text, "fields": nodes})
    if not entries:
        known = {*STAGES, *presets, *(method for table in CATALOGUES.values() for method in table)}
        suggestion = did_you_mean(name, known).partition(" Known:")[0]
        raise ValueError(
            f"{shown(name)} is no stage and no method.{suggestion} `attar list stages` and `attar list methods` have them all"
        )
    return entries


def _slot(slot: InputSlot) -> str:
    kinds = " or ".join(kind.kind for kind in slot.kinds)
    return (
        f"{slot.name} ({kinds}{', several' if slot.is_many else ''}{'' if slot.is_required else ', may be left out'})"
    )


def _config_fields(model: type[BaseModel], prefix: str = "") -> Iterator[dict[str, str]]:
    """Yield a row a field, those of the configs inside behind the field that holds them."""
    for name, field in model.model_fields.items():
        kinds = [kind for entry in field.metadata for kind in getattr(entry, "table", ())]
        yield {
            "field": f"{prefix}{name}",
            "takes": f"kind: {' | '.join(kinds)}"
            if kinds
            else ", ".join(filter(None, [_type(field.annotation), *_bounds(field.metadata)])),
            "default": _default(field),
            "what": " ".join((field.description or "").split()),
        }
        members = list(_models(field.annotation))
        for inner, step in members:
            rows = _config_fields(inner, f"{prefix}{name}{step}.")
            kind = inner.model_fields.get("kind")
            if kind is None or len(members) == 1:
                yield from rows
                continue
            # of alternatives: which one each field belongs to
            yield from ({**row, "field": f"{row['field']} ({_type(kind.annotation)})"} for row in rows)


def _method_fields(method: type) -> Iterator[dict[str, str]]:
    if not dataclasses.is_dataclass(method):
        return
    comments = _comments(method)
    hints = typing.get_type_hints(method)
    for field in dataclasses.fields(method):
        is_given = field.default is not dataclasses.MISSING
        made = "" if field.default_factory is dataclasses.MISSING else repr(field.default_factory())
        default = str(field.default) if is_given else made or "required"
        yield {
            "field": field.name,
            "takes": _type(hints[field.name]),
            "default": default,
            "what": comments.get(field.name, ""),
        }


def _comments(method: type) -> dict[str, str]:
    """Return the comments beside and above the fields of a class, by field."""
    comments: dict[str, str] = {}
    pending, name = "", ""
    for token in tokenize.generate_tokens(io.StringIO(inspect.getsource(method)).readline):
        words = token.line.split()
        if token.type == tokenize.COMMENT and words and words[0].endswith(":") and words[0][:-1].isidentifier():
            name = words[0][:-1]
            comments[name] = token.string.lstrip("# ")
        elif token.type == tokenize.COMMENT:
            pending = f"{pending} {token.string.lstrip('# ')}".strip()
        elif token.type == tokenize.NAME and words and words[0] == f"{token.string}:" and pending:
            comments.setdefault(token.string, pending)
            pending = ""
    return comments


def _type(annotation: Any) -> str:
    """Return a type in words that its user knows."""
    origin, members = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Literal:
        return " | ".join(map(str, members))
    if origin in (typing.Union, types.UnionType):
        return " or ".join(dict.fromkeys(_type(member) for member in members if member is not type(None)))
    if origin is typing.Annotated:
        return ", ".join([_type(members[0]), *_bounds(members[1:])])
    if origin in (list, tuple, set, frozenset, collections.abc.Sequence):
        return f"list of {_type(members[0])}"
    if origin in (dict, collections.abc.Mapping):
        return f"mapping of {_type(members[0])} to {_type(members[1])}"
    plain = {int: "whole number", float: "number", bool: "true or false", str: "text", Any: "anything"}
    return plain.get(annotation) or (
        "mapping" if _is_model(annotation) else str(getattr(annotation, "__name__", annotation))
    )


def _bounds(metadata: Any) -> Iterator[str]:
    for entry in metadata:
        if isinstance(entry, BaseMetadata):
            for name, words in BOUNDS.items():
                if getattr(entry, name, None) is not None:
                    yield f"{words} {getattr(entry, name)}"
        elif getattr(entry, "pattern", None):
            yield f"of the form {entry.pattern}"


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    default = field.get_default(call_default_factory=True)
    for entry in field.metadata:
        if hasattr(entry, "table"):
            return f"kind: {entry.written(default)['kind']}"
    if default is PydanticUndefined:
        return "-"
    return "its fields' own" if isinstance(default, BaseModel) else "''" if default == "" else str(default)


def _models(annotation: Any, step: str = "") -> Iterator[tuple[type[BaseModel], str]]:
    """Yield the configs that a type holds, with what stands between the field and theirs."""
    if _is_model(annotation):
        yield annotation, step
    inner = {list: "[]", tuple: "[]", dict: ".NAME"}.get(typing.get_origin(annotation), "")
    for member in typing.get_args(annotation):
        if member is not annotation and typing.get_origin(annotation) is not typing.Literal:
            yield from _models(member, step + inner)


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)
