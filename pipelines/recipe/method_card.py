"""What a recipe says about the method of the literature that it is. Where it stands, what of it is our own guess, what holds it."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from attar.compressors.catalogue import did_you_mean
from attar.pipelines.recipe.mistakes import shown


@dataclass(frozen=True)
class MethodCard:
    """The method's name and its paper's address. What no source says and we chose, and the tests that would fail were it wrong."""

    title: str
    paper: str
    reconstructed: str
    tests: tuple[str, ...]


def read_card(given: Any) -> MethodCard | None:
    """Return the card of a recipe's `method`, None where it has none. Raises ValueError for a part too many or too few."""
    if given is None:
        return None
    known = [entry.name for entry in fields(MethodCard)]
    if not isinstance(given, dict):
        raise ValueError(f"a mapping with {', '.join(known)} is expected")
    for name in given:
        if name not in known:
            raise ValueError(f"{name}: unknown field.{did_you_mean(str(name), known)}")
    for name in known:
        if not given.get(name):
            raise ValueError(f"{name} is missing; accepted: all of {', '.join(known)}")
        is_right = isinstance(given[name], list) if name == "tests" else isinstance(given[name], str)
        if not is_right:
            raise ValueError(
                f"{name} = {shown(given[name])}; accepted: {'a list of tests' if name == 'tests' else 'text'}"
            )
    return MethodCard(given["title"], given["paper"], given["reconstructed"], tuple(map(str, given["tests"])))
