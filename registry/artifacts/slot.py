"""A place in the store: which work fills it, and the manifest of what fills it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from attar.registry.artifacts.environment import describe_environment
from attar.registry.artifacts.fingerprint import content_fingerprint
from attar.registry.artifacts.handles import Artifact


@dataclass(frozen=True, kw_only=True)
class Slot:
    """Which work fills a place in the store. The stage, its version, its config and the keys and fingerprints of its inputs."""

    stage: str
    version: int
    config: dict[str, Any]
    inputs: dict[str, list[dict[str, str]]]
    # Free space the build is expected to take, in bytes; checked before it starts. 0: not known.
    expected_bytes: int = 0
    # What building the shards that are gathered took, as their manifests say.
    spent: tuple[Mapping[str, Any], ...] = ()


def manifest_of(
    slot: Slot, draft: Artifact, key: str, files: dict[str, dict[str, Any]], cost: dict[str, float]
) -> dict[str, Any]:
    """Return what the manifest of a built artifact says before it is sealed. `files` are its files' digests and sizes in bytes."""
    return {
        "kind": draft.kind,
        "key": key,
        "fingerprint": content_fingerprint(files),
        "stage": slot.stage,
        "version": slot.version,
        "config": slot.config,
        "inputs": slot.inputs,
        "facts": dict(draft.facts),
        "files": files,
        "num_bytes": sum(entry["bytes"] for entry in files.values()),
        **cost,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "environment": describe_environment(),
    }
