"""The types of the face, the stages' calls included, for editors and type checkers.

`python -m attar.call_stub` writes `attar/__init__.pyi` anew.
"""

from __future__ import annotations

import inspect
import json
import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from attar import HOMES
from attar.folder_call import OWN_ARGUMENTS
from attar.registry.artifacts import handles
from attar.registry.artifacts.artifact import Artifact
from attar.stages.catalogue import STAGES
from attar.stages.contract import InputSlot, Stage

STUB = Path(__file__).with_name("__init__.pyi")
HEAD = '''"""The types of Attar's face. Written by `python -m attar.call_stub`: change the modules, not this file."""

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any, Literal

{imports}

__version__: str
HOMES: dict[str, str]
# a folder, a file or a source line
Source = str | PathLike[str]

class Stages:
    """Each stage as a function of folders; the modules of the package `attar.stages` are imported by their own names."""
'''
PLAIN = {int: "int", float: "float", str: "str", bool: "bool", Any: "Any", type(None): "None"}


def stub_text() -> str:
    """Return the stub of the public face. Its names where they come from; a method a stage, each field with its type and default."""
    public = sorted((home, name) for name, home in HOMES.items())
    imports = [f"from {home} import {name} as {name}" for home, name in public]
    kinds = sorted({cls.__name__ for stage in STAGES.values() for cls in _artifact_types(stage)})
    imports += [f"from {handles.__name__} import {kind}" for kind in kinds]
    methods = [f"    {line}".rstrip() for stage in STAGES.values() for line in ("", *_method(stage))]
    return "\n".join([HEAD.format(imports="\n".join(imports)).rstrip(), *methods, "", "stages: Stages", ""])


def _method(stage: Stage[Any, Any, Any]) -> Iterator[str]:
    yield f"def {stage.name}("
    yield "    self,"
    yield "    *,"
    yield from (f"    {_slot(slot)}," for slot in stage.slots.values())
    for name, field in stage.config_type.model_fields.items():
        if name not in stage.slots:
            default = "" if field.is_required() else _default(field.get_default(call_default_factory=True))
            yield f"    {name}: {annotation_text(field.annotation)}{default},"
    types_of_own = {"config": "Mapping[str, Any] | None", "output": "Source | None", "store": "Store | None"}
    yield from (f"    {name}: {types_of_own[name]} = None," for name in OWN_ARGUMENTS)
    yield f") -> {' | '.join(kind.__name__ for kind in stage.output_types)}:"
    yield f'    """{_docstring(stage)}"""'


def annotation_text(annotation: Any) -> str:
    """Return a field's type as a caller may write its value: configs inside are mappings, as in a recipe."""
    origin, members = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return annotation_text(members[0])
    if origin is typing.Literal:
        return f"Literal[{', '.join(_quoted(member) for member in members)}]"
    if origin in (typing.Union, types.UnionType):
        return " | ".join(dict.fromkeys(annotation_text(member) for member in members))
    if origin in (list, tuple, set, frozenset):
        return f"Sequence[{annotation_text(members[0])}]" if members else "Sequence[Any]"
    if origin in (dict, Mapping) or (inspect.isclass(annotation) and issubclass(annotation, BaseModel)):
        return f"Mapping[str, {annotation_text(members[1])}]" if len(members) == 2 else "Mapping[str, Any]"
    return PLAIN.get(annotation, "Any")


def _slot(slot: InputSlot) -> str:
    given = " | ".join([*(kind.__name__ for kind in slot.kinds), "Source"])
    if slot.is_many:
        given = f"{given} | Sequence[{given}]"
    return f"{slot.name}: {given}{'' if slot.is_required else ' = ()' if slot.is_many else ' | None = None'}"


def _default(value: Any) -> str:
    """Return ` = VALUE` for a plain default, ` = ...` for another: an editor shows what it is at least for plain ones."""
    plain = value is None or isinstance(value, bool | int | float | str)
    return f" = {_quoted(value)}" if plain else " = ..."


def _quoted(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)


def _docstring(stage: Stage[Any, Any, Any]) -> str:
    return stage.summary.replace("\\", "\\\\").replace('"', "'")


def _artifact_types(stage: Stage[Any, Any, Any]) -> list[type[Artifact]]:
    return [*stage.output_types, *(kind for slot in stage.slots.values() for kind in slot.kinds)]


if __name__ == "__main__":
    STUB.write_text(stub_text())
