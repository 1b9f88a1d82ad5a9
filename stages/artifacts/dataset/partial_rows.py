"""Work on rows in pieces that are written down. A stage that is killed goes on at the piece in progress, and workers share them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from torch import Tensor

from attar.registry.artifacts.artifact import Artifact
from attar.registry.artifacts.facts import Facts
from attar.registry.artifacts.files import link_or_copy
from attar.registry.artifacts.kinds.shard_facts import WHOLE, Shard, ShardArtifact, ShardFacts
from attar.registry.artifacts.store import CONTENT
from attar.stages.artifacts.dataset.rows import Row, read_rows, write_rows
from attar.stages.artifacts.dataset.teacher_shards import (
    carry_candidates,
    finished_shards,
    gather_rows,
    rows_file,
    write_shard,
)
from attar.stages.contract import Sharding, StageConfig
from attar.stages.runtime.progress import bar, note

C = TypeVar("C", bound=StageConfig)
I = TypeVar("I")  # noqa: E741
A = TypeVar("A", bound=Artifact)
# What a crash can cost, in rows.
ROWS_PER_SHARD = 64
# Where the pieces of a stage lie below its work folder.
PIECES = "shards"
# What workers share, in words.
PIECE = "pieces of rows_per_shard rows"
# A teacher's candidates by row: ids and log-probabilities.
Recorded = dict[str, tuple[Tensor, Tensor]]
# Of a piece of rows, its index and what to call as they get done: the rows made of it, and what a teacher says about them.
Write = Callable[[Sequence[Row], int, Callable[[float], None]], tuple[list[Row], Recorded]]


def by_shard(
    workdir: Path,
    name: str,
    rows: Sequence[Row],
    work: Callable[[Sequence[Row]], list[Row]],
    rows_per_shard: int = ROWS_PER_SHARD,
) -> list[Row]:
    """Return what `work` makes of all rows, done a shard at a time and written down after each.

    `name`: what is done, for the progress and the folder. What `work` makes of a row must not depend on who else is in its shard.
    """
    folder, pieces = workdir / name.replace(" ", "_"), in_pieces(rows, rows_per_shard)

    def write(piece: Sequence[Row], index: int, advance: Callable[[float], None]) -> tuple[list[Row], Recorded]:
        made = work(piece)
        advance(len(piece))
        return made, {}

    write_pieces(folder, name, pieces, write)
    return gather_rows(folder, len(pieces))


def in_pieces(rows: Sequence[Row], num_rows: int) -> list[Sequence[Row]]:
    """Return the rows, so many at a time."""
    return [rows[start : start + num_rows] for start in range(0, len(rows), num_rows)]


def write_pieces(folder: Path, label: str, pieces: Sequence[Sequence[Row]], write: Write, shard: Shard = WHOLE) -> None:
    """Write each of the shard's own pieces that is not there yet, with one rename. `label`: what is done, for the progress."""
    own, done = shard.pieces(len(pieces)), finished_shards(folder)
    if done:
        note(f"continuing: {len(done)} of {len(own)} shards were written before")
    counter = bar(
        label, sum(len(pieces[index]) for index in own), "rows", done=sum(len(pieces[index]) for index in done)
    )
    for index in own:
        if index not in done:
            write_shard(folder, index, *write(pieces[index], index, counter.advance))


def gather_pieces(folders: Iterable[Path], content: Path) -> list[Row]:
    """Write the rows of all pieces, in the order of their ids, with their candidates beside them. Return the rows."""
    written: list[Row] = []
    for folder in folders:
        own = [row for index in sorted(finished_shards(folder)) for row in read_rows(folder / rows_file(index))]
        carry_candidates(folder, content, own)
        written += own
    written.sort(key=lambda row: row.id)
    write_rows(content / "rows.jsonl", written)
    return written


def row_sharding(
    write: Callable[[C, I, Shard, Path], int],
    finish: Callable[[C, I, Sequence[Path], Path], A],
    max_pieces: Callable[[C, Mapping[str, tuple[Facts, ...]]], int],
) -> Sharding[C, I, A]:
    """Return how workers share a stage that writes rows in pieces.

    `write` writes a shard's pieces below a work folder and returns how many there are in all; `finish` makes the artifact of folders of pieces.
    """

    def work(config: C, inputs: I, shard: Shard, workdir: Path) -> ShardArtifact:
        num_pieces, content = write(config, inputs, shard, workdir), workdir / CONTENT
        for path in sorted(path for path in (workdir / PIECES).rglob("*") if path.is_file()):
            link_or_copy(path, content / path.relative_to(workdir / PIECES))  # they stay for another try
        return ShardArtifact.at(
            content, ShardFacts(shard_index=shard.index, num_shards=shard.count, num_pieces=num_pieces)
        )

    def gather(config: C, inputs: I, shards: Sequence[ShardArtifact], workdir: Path) -> A:
        folders = [shard.path for shard in shards]
        indices = sorted(index for folder in folders for index in finished_shards(folder))
        if any(indices != list(range(shard.facts.num_pieces)) for shard in shards):
            raise ValueError(f"the shards hold pieces {indices}, not each of {shards[0].facts.num_pieces} once")
        return finish(config, inputs, folders, workdir / CONTENT)

    return Sharding(work, gather, max_pieces, PIECE)
