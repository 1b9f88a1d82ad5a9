"""Work on rows in parts that are kept: a stage that is killed goes on at the part in progress."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from attar.stages.artifacts.dataset.rows import Row
from attar.stages.artifacts.dataset.teacher_shards import finished_shards, gather_rows, write_shard
from attar.stages.runtime.progress import bar, note

# What a crash can cost, in rows.
ROWS_PER_SHARD = 64


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
    folder = workdir / name.replace(" ", "_")
    shards = [rows[start : start + rows_per_shard] for start in range(0, len(rows), rows_per_shard)]
    done = finished_shards(folder)
    if done:
        note(f"continuing: {len(done)} of {len(shards)} shards were written before")
    counter = bar(name, len(rows), "rows", done=sum(len(shards[index]) for index in done))
    for index, shard in enumerate(shards):
        if index not in done:
            write_shard(folder, index, work(shard), {})
            counter.advance(len(shard))
    return gather_rows(folder, len(shards))
