"""A newer version put together from an older copy and what differs from it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from attar.registry.artifacts.files import link_or_copy
from attar.registry.release.delta.byte_ranges import ByteRange, where_held
from attar.registry.release.delta.local_copy import LocalCopy
from attar.registry.release.delta.remote_files import NoRangesError

# Between two ranges that are brought, so few bytes come along: a request costs more than they do.
MAX_GAP_BYTES = 1 << 14
READ_BYTES = 1 << 20


class Files(Protocol):
    """Where the version's files are; see RemoteFiles."""

    def fetch(self, name: str, folder: Path) -> int:
        """Copy one file whole and return its size in bytes."""
        ...

    def read(self, name: str, start: int, num_bytes: int) -> Iterator[bytes]:
        """Yield the bytes of a range of a file."""
        ...


@dataclass(frozen=True)
class _Run:
    """Adjacent bytes of a new file. `source`: where an old file has them; None: they are brought."""

    start: int
    num_bytes: int
    source: tuple[Path, int] | None


def assemble(
    copy: LocalCopy, files: Files, wanted: Mapping[str, str], ranges: Mapping[str, Sequence[ByteRange]], folder: Path
) -> int:
    """Put the wanted files (name to sha256) into a folder and return how many bytes were brought.

    A file that the copy has is linked, one of which it has ranges is composed, any other is fetched. What was composed and has not the
    sha256 that is wanted is fetched too: the copy may have changed.
    """
    is_same = all(copy.digests.get(name) == sha256 for name, sha256 in wanted.items())
    held = {} if is_same else where_held(copy.folder, copy.ranges())
    moved = 0
    for name, sha256 in wanted.items():
        if (folder / name).is_file():  # brought by the caller, to know what is wanted
            continue
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if copy.digests.get(name) == sha256:
            link_or_copy(copy.folder / name, folder / name)  # the older name goes afterwards
            continue
        runs = list(_runs(ranges.get(name, ()), held))
        if any(run.source for run in runs):
            num_bytes, actual = _compose(files, name, runs, folder / name)
            moved += num_bytes
            if actual == sha256:
                continue
        moved += files.fetch(name, folder)
    return moved


def _runs(ranges: Sequence[ByteRange], held: Mapping[str, tuple[Path, int]]) -> Iterator[_Run]:
    """Yield a file's bytes in order, in as few pieces as may be."""
    known = [held.get(part.sha256) for part in ranges]
    current: _Run | None = None
    for index, part in enumerate(ranges):
        beside = known[max(0, index - 1) : index] + known[index + 1 : index + 2]
        is_gap = part.num_bytes <= MAX_GAP_BYTES and beside == [None, None]
        source = None if is_gap else known[index]
        if current is not None and _continues(current, source):
            current = replace(current, num_bytes=current.num_bytes + part.num_bytes)
            continue
        if current is not None:
            yield current
        current = _Run(part.start, part.num_bytes, source)
    if current is not None:
        yield current


def _continues(run: _Run, source: tuple[Path, int] | None) -> bool:
    if run.source is None or source is None:
        return run.source is source
    return source == (run.source[0], run.source[1] + run.num_bytes)


def _compose(files: Files, name: str, runs: Sequence[_Run], target: Path) -> tuple[int, str]:
    """Write a file run by run; return how many bytes were brought, and its sha256. Empty where the store has no ranges."""
    digest, moved = hashlib.sha256(), 0
    with target.open("wb") as stream:
        for run in runs:
            try:
                for block in _blocks(files, name, run):
                    stream.write(block)
                    digest.update(block)
                    moved += len(block) if run.source is None else 0
            except NoRangesError:
                target.unlink()
                return moved, ""
    return moved, digest.hexdigest()


def _blocks(files: Files, name: str, run: _Run) -> Iterator[bytes]:
    if run.source is None:
        yield from files.read(name, run.start, run.num_bytes)
        return
    path, start = run.source
    left = run.num_bytes
    with path.open("rb") as stream:
        stream.seek(start)
        while left > 0 and (block := stream.read(min(READ_BYTES, left))):
            left -= len(block)
            yield block
