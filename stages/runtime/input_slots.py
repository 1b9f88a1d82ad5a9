"""The inputs of a stage, read from the class that declares them."""

from __future__ import annotations

import dataclasses
import types
import typing
from dataclasses import dataclass
from functools import cache
from typing import Any

from attar.registry.artifacts.handles import Artifact


@dataclass(frozen=True)
class InputSlot:
    """One input of a stage: its name, the artifact kinds it takes, and how many."""

    name: str
    kinds: tuple[type[Artifact], ...]
    is_required: bool
    is_many: bool

    def accepts(self, artifact: Artifact) -> bool:
        """Say whether the artifact is of a kind that this input takes."""
        return artifact.kind in {kind.kind for kind in self.kinds}


def by_slot(inputs: Any) -> dict[str, tuple[Artifact, ...]]:
    """Return the artifacts of an inputs object by slot name, empty slots left out."""
    slots = {}
    for entry in dataclasses.fields(inputs):
        value = getattr(inputs, entry.name)
        artifacts = value if isinstance(value, tuple) else () if value is None else (value,)
        if artifacts:
            slots[entry.name] = artifacts
    return slots


@cache
def slots_of(input_type: type) -> tuple[InputSlot, ...]:
    """Return the inputs that a class of inputs declares. Read once: a recipe asks for them at every node, several times."""
    hints = typing.get_type_hints(input_type)
    slots = []
    for entry in dataclasses.fields(input_type):
        hint = hints[entry.name]
        is_many = typing.get_origin(hint) is tuple
        if is_many:
            hint = typing.get_args(hint)[0]
        kinds = members(hint)
        has_default = entry.default is not dataclasses.MISSING
        slots.append(InputSlot(entry.name, kinds, is_required=not has_default, is_many=is_many))
    return tuple(slots)


def members(hint: Any) -> tuple[Any, ...]:
    """Return the types that an annotation names, of a union each; None is none of them."""
    is_union = isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union
    choices = typing.get_args(hint) if is_union else (hint,)
    return tuple(choice for choice in choices if choice is not type(None))
