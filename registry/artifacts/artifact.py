"""What a stage hands on. A folder on disk by its location, its kind, its facts and the fingerprint of its content."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Generic, Self, TypeVar

from attar.registry.artifacts.facts import ArtifactFacts, Fact, Facts
from attar.registry.artifacts.subjects import CAUSAL, Subject

F = TypeVar("F", bound=ArtifactFacts)


@dataclass(frozen=True)
class Artifact(Generic[F]):
    """A folder on disk with a kind, a key, a fingerprint and facts. Key: how it was made; fingerprint: what is in it.

    A stage returns an unsealed handle (`ModelArtifact.at(folder, ModelFacts(num_blocks=24))`); the store seals it with key and fingerprint.
    """

    kind: ClassVar[str] = "artifact"
    facts_type: ClassVar[type[ArtifactFacts]] = ArtifactFacts
    # what a model works on; a model that needs no other to run; a graph, which onnxruntime runs; a folder of rows
    subject: ClassVar[Subject] = CAUSAL
    is_whole_model: ClassVar[bool] = False
    is_graph: ClassVar[bool] = False
    holds_rows: ClassVar[bool] = False
    path: Path
    facts: F = field(default_factory=dict)  # type: ignore[assignment] - typed just below
    key: str = ""
    fingerprint: str = ""

    def __post_init__(self) -> None:
        # given by name, as a manifest has them, or typed already
        object.__setattr__(self, "facts", self.facts_type.of(self.facts))

    @classmethod
    def at(cls, path: Path, facts: F | Facts | None = None, **named: Fact) -> Self:
        """Return an unsealed handle on `path`. Its facts are of the kind's own class, or by name where names are made at work."""
        return cls(path=path, facts={**(facts or {}), **named})  # type: ignore[arg-type]

    def as_dict(self) -> dict[str, Any]:
        """Return the handle as plain JSON values."""
        plain = {"kind": self.kind, "path": str(self.path), "key": self.key, "fingerprint": self.fingerprint}
        return {**plain, "facts": dict(self.facts)}
