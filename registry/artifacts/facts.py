"""What is known of an artifact beside its content. The facts of each kind with their types, and how stored ones are read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypedDict, get_args, get_origin, get_type_hints

Fact = int | float | str | bool | tuple[int, ...] | tuple[str, ...]
# By name; what each kind of artifact has is below, and holds when facts are read.
Facts = dict[str, Any]


class ModelFacts(TypedDict, total=False):
    """Of a model: its sizes, its dtype, and the blocks of the model before it that are gone."""

    num_blocks: int
    hidden_size: int
    vocab_size: int
    num_parameters: int
    dtype: str
    removed_blocks: tuple[int, ...]


class AdapterFacts(TypedDict, total=False):
    """An adapter's facts. What was trained on which base, and the parts of the data that its best weights were chosen on."""

    method: str
    rank: int
    base_fingerprint: str
    vocab_size: int
    num_steps: int
    best_step: int
    chosen_on: tuple[str, ...]


class DatasetFacts(TypedDict, total=False):
    """Of a data set: its rows, and the vocabulary of a recorded teacher."""

    name: str
    num_rows: int
    num_heldout: int
    num_recorded: int
    vocab_size: int


class ScanFacts(TypedDict, total=False):
    """Of a scan: what was scored, over how much."""

    num_blocks: int
    num_tokens: int
    metrics: tuple[str, ...]
    sizes: tuple[int, ...]
    num_greedy_steps: int
    has_latency: bool


# What joined the parts of a fact in manifests of versions before facts had types; read for one version.
JOINED = {"removed_blocks": ",", "metrics": ",", "sizes": ",", "chosen_on": "+"}
FACTS_BY_KIND: dict[str, type] = {
    "model": ModelFacts,
    "adapter": AdapterFacts,
    "dataset": DatasetFacts,
    "scan": ScanFacts,
}


def read_facts(kind: str, stored: Mapping[str, Any]) -> Facts:
    """Return the facts of a manifest with the types of their kind. JSON has no tuples, and earlier versions joined them into text."""
    return {name: _read(name, value, _types(kind).get(name)) for name, value in stored.items()}


def several(facts: Mapping[str, Any], name: str) -> tuple[Any, ...]:
    """Return a fact that has several parts; none where it is not known."""
    value = facts.get(name, ())
    return value if isinstance(value, tuple) else (value,)


def fact_text(value: Fact) -> str:
    """Return a fact as text: its parts with commas between them."""
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def is_fact(value: Any) -> bool:
    """Say whether a manifest may hold a value as a fact."""
    parts = value if isinstance(value, list | tuple) else [value]
    return all(isinstance(part, str | int | float) for part in parts)


def _types(kind: str) -> dict[str, Any]:
    return get_type_hints(FACTS_BY_KIND[kind]) if kind in FACTS_BY_KIND else {}


def _read(name: str, value: Any, hint: Any) -> Fact:
    if get_origin(hint) is not tuple:
        return tuple(value) if isinstance(value, list) else value
    part_type = get_args(hint)[0]
    parts = [part for part in value.split(JOINED[name]) if part] if isinstance(value, str) else value
    return tuple(part_type(part) for part in parts)
