"""A shard of a node's work: which pieces a worker does, its key, and the handle of what it leaves."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from attar.registry.artifacts.artifact import Artifact
from attar.registry.artifacts.facts import NOT_KNOWN, ArtifactFacts
from attar.registry.artifacts.fingerprint import digest


@dataclass(frozen=True)
class Shard:
    """The part of a node's work that one worker does, `index` of `count`. The work comes in pieces that no worker divides."""

    index: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            raise ValueError(f"shard index is {self.index}; accepted: 0 to {self.count - 1}, of {self.count} shards")

    def key(self, node_key: str) -> str:
        """Return what the shard is stored under, from the key of the whole work."""
        return digest([node_key, "shard", self.index, self.count])

    def pieces(self, num_pieces: int) -> list[int]:
        """Return which of the pieces are its own. Dealt back and forth, so that pieces in the order of their length make equal shards."""
        turns = (
            range(self.index, num_pieces, 2 * self.count),
            range(2 * self.count - 1 - self.index, num_pieces, 2 * self.count),
        )
        return sorted({piece for turn in turns for piece in turn})

    def check(self, num_pieces: int, piece: str) -> None:
        """Raise ValueError where some shard would be left without work. `piece`: what the work comes in, in words."""
        if self.count > max(1, num_pieces):
            raise ValueError(
                f"shards is {self.count}, but the work comes in {num_pieces} {piece}; accepted: 1 to {max(1, num_pieces)}"
            )


# All of a node's work, done by one worker.
WHOLE = Shard()


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class ShardFacts(ArtifactFacts):
    """Of a shard: which it is of how many, how many pieces the whole work comes in."""

    shard_index: int = NOT_KNOWN
    num_shards: int = NOT_KNOWN
    num_pieces: int = NOT_KNOWN


class ShardArtifact(Artifact[ShardFacts]):
    """What one worker made of its pieces of a node's work, until all shards are gathered into the node's artifact."""

    kind = "shard"
    facts_type = ShardFacts

    @property
    def shard(self) -> Shard:
        """Which part of the work it is."""
        return Shard(self.facts.shard_index, self.facts.num_shards)


def check_complete(shards: Iterable[ShardArtifact], node_key: str) -> None:
    """Raise ValueError unless these are all shards of the work with this key, each once."""
    given = [artifact.key for artifact in shards]
    count = len(given)
    missing = [index for index in range(count) if given.count(Shard(index, count).key(node_key)) != 1]
    if missing or not given:
        raise ValueError(
            f"shards of {node_key[:12]}: of {count} given, number {', '.join(map(str, missing))} is not there once"
        )
