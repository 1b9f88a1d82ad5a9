"""A parameter of a merge that may differ by block and by kind of tensor. A number, anchors along the blocks, or rules by name."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

# A number; a list of numbers, read at equal distances from the first block to the last and interpolated between; or a list of
# rules {filter: PART_OF_A_NAME, value: number or list of numbers}, the first that fits deciding, the last without a filter.
Setting = float | Sequence[Any]
BLOCK_INDEX = re.compile(r"(?:^|\.)(\d+)\.")
RULE_FIELDS = {"filter", "value"}


@dataclass(frozen=True)
class TensorLocation:
    """Where a tensor sits: its name, and its block's position in [0, 1] from the first block to the last.

    What is in no block (embedding, final norm, head) has position 0, as in mergekit: the first anchor is theirs.
    """

    name: str
    block_fraction: float = 0.0


def locations(names: Sequence[str]) -> list[TensorLocation]:
    """Return the place of every tensor of one model. A single block has position 1."""
    indices = {name: int(match[1]) for name in names if (match := BLOCK_INDEX.search(name))}
    last = max(indices.values(), default=0)
    return [TensorLocation(name, (indices[name] / last if last else 1.0) if name in indices else 0.0) for name in names]


def resolve(setting: Setting, location: TensorLocation) -> float:
    """Return the setting's value at a place."""
    if not isinstance(setting, Sequence):
        return float(setting)
    if isinstance(setting[0], Mapping):
        rule = next(rule for rule in setting if rule.get("filter", "") in location.name)
        return resolve(rule["value"], location)
    position = location.block_fraction * (len(setting) - 1)
    first = int(position)
    second, share = min(first + 1, len(setting) - 1), position - first
    return (1.0 - share) * float(setting[first]) + share * float(setting[second])


def filters(setting: Setting) -> list[str]:
    """Return the parts of names that a setting's rules look for."""
    return [rule["filter"] for rule in setting if "filter" in rule] if _has_rules(setting) else []  # type: ignore[union-attr]


def check_setting(
    name: str, setting: Any, *, low: float = float("-inf"), high: float = float("inf"), is_open: bool = False
) -> None:
    """Raise ValueError in one line unless every number of a setting lies in [low, high], with `is_open` in (low, high]."""
    accepted = f"{'(' if is_open else '['}{low:g}, {high:g}]" if high != float("inf") else "numbers"
    for value in _numbers(name, setting):
        if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value):
            raise ValueError(
                f"{name} is {value!r}; it must be a number, a list of numbers, or rules of filter and value"
            )
        if not low <= value <= high or (is_open and value == low):
            raise ValueError(f"{name} is {value}; it must lie in {accepted}")


def check_settings(name: str, settings: Any) -> None:
    """Raise ValueError unless `settings` is a list with one setting a model."""
    if isinstance(settings, str | Mapping) or not isinstance(settings, Sequence):
        raise ValueError(f"{name} is {settings!r}; it must be a list with one number a model")
    for index, setting in enumerate(settings):
        check_setting(f"{name}[{index}]", setting)


def _has_rules(setting: Any) -> bool:
    return (
        isinstance(setting, Sequence)
        and not isinstance(setting, str)
        and any(isinstance(part, Mapping) for part in setting)
    )


def _numbers(name: str, setting: Any) -> Iterator[Any]:
    if not _has_rules(setting):
        yield from _anchors(name, setting)
        return
    for index, rule in enumerate(setting):
        if not isinstance(rule, Mapping) or not {"value"} <= rule.keys() <= RULE_FIELDS:
            raise ValueError(f"{name}[{index}] is {rule!r}; a rule has a value and, but for the last, a filter")
        if ("filter" in rule) == (index == len(setting) - 1):
            raise ValueError(
                f"{name}: the last of its rules, and no other, must be without a filter, for all other tensors"
            )
        if not isinstance(rule.get("filter", ""), str):
            raise ValueError(f"{name}[{index}].filter is {rule['filter']!r}; it must be a part of a tensor's name")
        yield from _anchors(f"{name}[{index}].value", rule["value"])


def _anchors(name: str, setting: Any) -> Iterator[Any]:
    if isinstance(setting, str) or not isinstance(setting, Sequence):
        yield setting
        return
    if not setting:
        raise ValueError(f"{name} is empty; it must have at least one number")
    yield from setting
