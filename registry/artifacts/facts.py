"""What is known of an artifact beside its content. Read by attribute with a type of its own, and by name where the kind is any."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from enum import Enum
from functools import cache
from typing import TYPE_CHECKING, Any, Self, get_args, get_origin, get_type_hints

Fact = int | float | str | bool | tuple[int, ...] | tuple[str, ...]
# By name: an artifact's, or what a forecast expects of one that is not made yet, of which any may be missing.
Facts = Mapping[str, Any]


class _Missing(Enum):
    """Stands for a fact that is not known. A member of an enum stays the same one in a copy and in another process."""

    NOT_KNOWN = "not known"


# Default of a fact that every artifact of its kind has: what reads one that is not there is told so in a line.
NOT_KNOWN: Any = _Missing.NOT_KNOWN
# What joined the parts of a fact in manifests of versions before facts had types; read for one version.
JOINED = {"removed_blocks": ",", "metrics": ",", "sizes": ",", "chosen_on": "+"}


class UnknownFactError(ValueError):
    """An artifact's record lacks a fact that all of its kind have now."""


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class ArtifactFacts(Mapping[str, Fact]):
    """Facts of one artifact. A kind's own class declares its fields; of these only those that are known count by name.

    Three defaults: `NOT_KNOWN` where reading an unknown fact is a refusal, or gives no parts for a tuple; None for a fact that artifacts
    may lack. `others`: facts whose names are made at work (`accuracy_TASK`), and those of a manifest that another version wrote.
    """

    others: Mapping[str, Fact] = field(default_factory=dict)

    @classmethod
    def of(cls, known: Mapping[str, Any]) -> Self:
        """Return facts given by name, with the types of their kind. JSON has no tuples, and earlier versions joined them into text."""
        hints = _hints(cls)
        own = {name: _read(name, value, hints[name]) for name, value in known.items() if name in hints}
        return cls(**own, others={name: _read(name, value) for name, value in known.items() if name not in hints})

    if not TYPE_CHECKING:  # a checker that saw it would let any attribute pass

        def __getattribute__(self, name: str) -> Any:
            value = super().__getattribute__(name)
            return _absent(type(self), name) if value is _Missing.NOT_KNOWN else value

    def __getitem__(self, name: str) -> Fact:
        value = self.__dict__[name] if name in _hints(type(self)) else self.others[name]
        if value is None or value is _Missing.NOT_KNOWN:
            raise KeyError(name)
        return value

    def __iter__(self) -> Iterator[str]:
        values = self.__dict__
        for name in _hints(type(self)):
            if values[name] is not None and values[name] is not _Missing.NOT_KNOWN:
                yield name
        yield from self.others

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __or__(self, changes: Mapping[str, Any]) -> Self:
        """Return the facts with some of them changed or added, by name."""
        return self.of({**self, **changes})

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self.items())})"


def several(facts: Facts, name: str) -> tuple[Any, ...]:
    """Return a fact that has several parts, of facts of any kind; none where it is not known."""
    value = facts.get(name, ())
    return value if isinstance(value, tuple) else (value,)


def fact_text(value: Fact) -> str:
    """Return a fact as text: its parts with commas between them."""
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def is_fact(value: Any) -> bool:
    """Say whether a manifest may hold a value as a fact."""
    parts = value if isinstance(value, list | tuple) else [value]
    return all(isinstance(part, str | int | float) for part in parts)


@cache
def _hints(kind: type[ArtifactFacts]) -> dict[str, Any]:
    """Return the type of each fact that a kind declares, in order."""
    hints = get_type_hints(kind)
    return {entry.name: hints[entry.name] for entry in fields(kind) if entry.name != "others"}


def _absent(kind: type[ArtifactFacts], name: str) -> tuple[()]:
    """Return no parts for a fact of several. Raises UnknownFactError for a single one."""
    if get_origin(_hints(kind)[name]) is tuple:
        return ()
    what = kind.__name__.removesuffix("Facts").lower()
    raise UnknownFactError(f"the {what}'s record does not say {name}: an earlier version made it; make it anew")


def _read(name: str, value: Any, hint: Any = None) -> Any:
    if get_origin(hint) is not tuple or value is _Missing.NOT_KNOWN:
        return tuple(value) if isinstance(value, list) else value
    part_type = get_args(hint)[0]
    parts = [part for part in value.split(JOINED[name]) if part] if isinstance(value, str) else value
    return tuple(part_type(part) for part in parts)
