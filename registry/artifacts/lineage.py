"""Where an artifact comes from: the tree of stages and inputs behind it, and what must be kept for it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from attar.registry.artifacts.facts import Facts
from attar.registry.artifacts.handles import Artifact
from attar.registry.artifacts.store import Store


@dataclass(frozen=True)
class Ancestor:
    """One artifact in a lineage. Its slot in the child (`via`), how it was made, what is known of it, and its own inputs."""

    via: str
    stage: str
    key: str
    fingerprint: str
    kind: str
    config: dict[str, Any]
    facts: Facts
    is_present: bool
    inputs: tuple[Ancestor, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return the tree as plain JSON values."""
        return {**self.__dict__, "facts": dict(self.facts), "inputs": [ancestor.as_dict() for ancestor in self.inputs]}


def trace(store: Store, artifact: Artifact, via: str = "", below: frozenset[str] = frozenset()) -> Ancestor:
    """Return the lineage of a stored artifact. Ancestors that were collected or are damaged are listed with `is_present` False.

    `below`: keys on the way to it. An artifact that claims to be made from itself is not followed.
    """
    manifest = store.manifest(artifact)
    inputs, below = [], below | {artifact.key}
    for slot, entries in manifest["inputs"].items():
        for entry in entries:
            if entry["key"] not in below and store.holds(entry["stage"], entry["key"]):
                inputs.append(trace(store, store.load(entry["stage"], entry["key"]), slot, below))
            else:
                inputs.append(
                    Ancestor(slot, entry["stage"], entry["key"], entry["fingerprint"], entry["kind"], {}, {}, False, ())
                )
    return Ancestor(
        via,
        manifest["stage"],
        artifact.key,
        artifact.fingerprint,
        artifact.kind,
        manifest["config"],
        artifact.facts,
        True,
        tuple(inputs),
    )


def in_order(lineage: Ancestor) -> list[Ancestor]:
    """Return an artifact and all that it was made from, each once, whatever is used before its user."""
    ancestors: dict[str, Ancestor] = {}
    for parent in lineage.inputs:
        ancestors |= {ancestor.key: ancestor for ancestor in in_order(parent)}
    return [*ancestors.values(), lineage]


def needed_keys(store: Store, roots: Iterable[Artifact]) -> set[str]:
    """Return the keys of `roots` and of everything they were made from."""
    keys: set[str] = set()
    pending = [trace(store, root) for root in roots]
    while pending:
        ancestor = pending.pop()
        keys.add(ancestor.key)
        pending.extend(ancestor.inputs)
    return keys
