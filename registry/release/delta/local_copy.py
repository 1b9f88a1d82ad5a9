"""A folder that an earlier pull filled: what it holds, and how a newer copy replaces it."""

from __future__ import annotations

import ctypes
import hashlib
import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from threading import Thread

from attar.registry.artifacts.files import delete
from attar.registry.artifacts.fingerprint import file_digest
from attar.registry.release.checksums import CHECKSUMS, read_listing, wanted_files
from attar.registry.release.delta.byte_ranges import RANGES, ByteRange, folder_ranges, read_ranges

# What the list of a version names: a list of checksums alone may be of anything.
MARKS = (RANGES, "MLmodel")
# renameat2(2): both names there, and each takes the other's file.
AT_FDCWD, RENAME_EXCHANGE = -100, 2


@dataclass(frozen=True)
class Pulled:
    """A version that has arrived. `moved_bytes` came over the wire, of `total_bytes` that it has."""

    folder: Path
    version: str
    moved_bytes: int
    total_bytes: int

    def __str__(self) -> str:
        moved, total = (f"{num_bytes / 1e6:,.1f} MB" for num_bytes in (self.moved_bytes, self.total_bytes))
        return f"version {self.version}, " + (f"{moved} of {total} moved" if self.moved_bytes else "unchanged")


@dataclass(frozen=True)
class LocalCopy:
    """A pulled folder and the files in it, but for its list. What they are now is read in the background from the start."""

    folder: Path
    names: frozenset[str]
    _digests: Future[dict[str, str]]

    @staticmethod
    def of(folder: Path) -> LocalCopy | None:
        """Return the copy in a folder, None where there is nothing yet. Raises ValueError for a folder with anything else in it."""
        restore(folder)
        if not os.path.lexists(folder) or (folder.is_dir() and not any(folder.iterdir())):
            return None
        problem = f"{folder} is not empty; give a folder that is, that does not exist, or that an earlier pull filled"
        if not (folder / CHECKSUMS).is_file():
            raise ValueError(problem)
        listed = read_listing((folder / CHECKSUMS).read_text(errors="replace"))
        names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}
        if not any(mark in listed for mark in MARKS):
            raise ValueError(problem)
        if others := sorted(names - listed.keys() - {CHECKSUMS}):
            raise ValueError(
                f"{folder} holds {others[0]}, which no pull put there; move it away, or give another folder"
            )
        names -= {CHECKSUMS}
        return LocalCopy(folder, frozenset(names), _in_background(lambda: _digests_of(folder, names)))

    @cached_property
    def list_digest(self) -> str:
        """The sha256 of the copy's own list, by which a version goes."""
        return hashlib.sha256((self.folder / CHECKSUMS).read_bytes()).hexdigest()

    def listed(self) -> dict[str, str]:
        """Return what the copy's own list says, name to sha256."""
        return read_listing((self.folder / CHECKSUMS).read_text(errors="replace"))

    @property
    def digests(self) -> Mapping[str, str]:
        """The sha256 of each file as it is now; waits until all are read."""
        return self._digests.result()

    def is_version(self, who: str, list_digest: str, form: str) -> bool:
        """Say whether each file of a form, or all, is as this list of checksums has it. Raises ValueError for an unknown form."""
        if self.list_digest != list_digest:
            return False
        wanted = wanted_files(who, self.listed(), form)
        return self.names == wanted.keys() and dict(self.digests) == wanted

    def ranges(self) -> dict[str, list[ByteRange]]:
        """Return the ranges of its files. As they were written, or read anew where the copy has no list of them."""
        written = self.folder / RANGES
        known = read_ranges(written.read_text(errors="replace")) if written.is_file() else {}
        return {name: parts for name, parts in known.items() if name in self.names} or folder_ranges(self.folder)


def exchange_folder(whole: Path, folder: Path) -> None:
    """Make `whole` the folder, whatever an earlier pull left there. Readers see the old files or the new, also after a kill."""
    if not os.path.lexists(folder) or not any(folder.iterdir()):
        os.rename(whole, folder)  # an empty folder is replaced
    elif _swap(whole, folder):
        delete(whole)
    else:
        former = _former(folder)
        delete(former)
        os.rename(folder, former)
        os.rename(whole, folder)
        delete(former)


def restore(folder: Path) -> None:
    """Put a former copy back. A kill may come between the two steps of a system that cannot exchange folders in one."""
    former = _former(folder)
    if former.is_dir() and not os.path.lexists(folder):
        os.rename(former, folder)


def _in_background(work: Callable[[], dict[str, str]]) -> Future[dict[str, str]]:
    """Begin work beside what the caller does next; a caller that gives up does not wait for it."""
    future: Future[dict[str, str]] = Future()

    def resolve() -> None:
        try:
            future.set_result(work())
        except BaseException as error:  # noqa: BLE001 - told to whoever asks for the result
            future.set_exception(error)

    Thread(target=resolve, daemon=True).start()
    return future


def _digests_of(folder: Path, names: Iterable[str]) -> dict[str, str]:
    digests = {}
    for name in sorted(names):
        with suppress(OSError):  # gone or unreadable: as good as not there
            if (folder / name).is_file():  # a pipe would keep its reader waiting
                digests[name] = file_digest(folder / name)
    return digests


def _former(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.former")


def _swap(first: Path, second: Path) -> bool:
    """Exchange two folders in one step; say whether this system can."""
    rename: Callable[..., int] | None = getattr(ctypes.CDLL(None), "renameat2", None)
    if rename is None:
        return False
    return rename(AT_FDCWD, os.fsencode(first), AT_FDCWD, os.fsencode(second), RENAME_EXCHANGE) == 0
