"""Paths that a request names: inside the folders that ATTAR_CONFINE lists and never the servers' own things, or refused.

On the command line nothing is confined: who calls it could read the file anyway. A deployed flow is called by whoever reaches the
server, and reads with the rights of its worker. Folders are compared by device and inode, not by name: a name can be written in another
case, and a file can have two.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

VARIABLE = "ATTAR_CONFINE"
# What of ATTAR_HOME a request may name. All else there is passwords, databases, locks, logs and records of other people's runs.
OPEN_IN_HOME = ("store", "mlartifacts")
Identity = tuple[int, int]


@dataclass(frozen=True)
class _Bounds:
    """`folders`: a request may name what lies below; `private`: but not what lies below these, unless a folder of the first lies closer."""

    folders: tuple[Path, ...]
    private: tuple[Path, ...]


def confine(folders: Iterable[Path], home: Path, also_private: Iterable[Path] = ()) -> str:
    """Let this process, and those it starts, open paths of requests under these folders only. Return the variable's value.

    Of `home`, whether it lies in one of the folders or not, artifacts and models alone may be named; of `also_private` nothing.
    """
    home = home.resolve()
    given = [folder.resolve() for folder in folders]
    bounds = {
        "folders": [str(folder) for folder in given if folder != home] + [str(home / name) for name in OPEN_IN_HOME],
        "private": [str(folder) for folder in (home, *(folder.resolve() for folder in also_private))],
    }
    os.environ[VARIABLE] = json.dumps(bounds)
    return os.environ[VARIABLE]


def is_confined() -> bool:
    """Say whether this is a process that works on a request."""
    return bool(os.environ.get(VARIABLE))


def confined(path: Path) -> Path:
    """Return the path as it is. Raises ValueError when it, what it links to, or anything below it may not be named by a request."""
    if not is_confined():
        return path
    bounds = _bounds()
    real = _real(path)
    _check(path, real, bounds)
    if real.is_dir():
        _check_below(path, real, bounds)
    return path


def _bounds() -> _Bounds:
    values = json.loads(os.environ[VARIABLE])
    return _Bounds(tuple(map(Path, values["folders"])), tuple(map(Path, values["private"])))


def _real(path: Path) -> Path:
    try:
        return path.expanduser().resolve()
    except (OSError, RuntimeError) as error:  # links in a circle, a user that is not there
        raise ValueError(f"path {path} leads nowhere: {' '.join(str(error).split())}") from error


def _check(path: Path, real: Path, bounds: _Bounds) -> None:
    """Refuse what lies outside the folders, or closer to a private folder than to one of them."""
    if not any(real.is_relative_to(folder) for folder in bounds.folders):
        accepted = ", ".join(map(str, bounds.folders))
        raise ValueError(f"path {path} lies outside the workspace; accepted: paths under {accepted}")
    is_private = _closest(real, bounds) or (real.is_file() and real.stat().st_nlink > 1 and _is_twin(real, bounds))
    if is_private:
        opened = ", ".join(OPEN_IN_HOME)
        raise ValueError(f"path {path} is one of the servers' own; accepted: of ATTAR_HOME the folders {opened}")


def _closest(real: Path, bounds: _Bounds) -> bool:
    """Say whether, on the way up, a private folder comes before an open one."""
    opened, private = _identities(bounds.folders), _identities(bounds.private)
    for folder in (real, *real.parents):
        identity = _identity(folder)
        if identity in private:
            return True
        if identity in opened:
            # an open folder that holds the private one is not left yet: the workspace has ATTAR_HOME in it
            return False
    return False


def _check_below(path: Path, real: Path, bounds: _Bounds) -> None:
    """Refuse a folder that holds something private, or a link that leads to what may not be named: whoever reads it reads all."""
    private = _identities(bounds.private)
    for folder, folders, files in os.walk(real):
        for name in (*folders, *files):
            entry = Path(folder, name)
            if _identity(entry) in private:
                raise ValueError(
                    f"path {path} holds {entry}, where the servers keep their own; name a folder beside it"
                )
            if entry.is_symlink() or (name in files and entry.lstat().st_nlink > 1):
                _check(entry, _real(entry), bounds)


def _is_twin(real: Path, bounds: _Bounds) -> bool:
    """Say whether a private file is this one under another name: a hard link is no link that could be followed."""
    return _identity(real) in set(_private_files(bounds))


def _private_files(bounds: _Bounds) -> Iterator[Identity | None]:
    opened = _identities(bounds.folders)
    for private in bounds.private:
        for folder, folders, files in os.walk(private):
            folders[:] = [name for name in folders if _identity(Path(folder, name)) not in opened]
            yield from (_identity(Path(folder, name)) for name in files)


def _identities(folders: Iterable[Path]) -> set[Identity]:
    return {identity for identity in map(_identity, folders) if identity is not None}


def _identity(path: Path) -> Identity | None:
    """Return device and inode; None for what is not there."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino
