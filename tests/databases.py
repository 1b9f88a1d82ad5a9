"""Databases that are migrated once a session and copied for each home: the migrations take longer than what a test does."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TypeVar

from filelock import FileLock

T = TypeVar("T")


def copy_database(source: Path, target: Path) -> None:
    """Copy an SQLite database, whole even while somebody writes to it; the target appears at once."""
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_suffix(f".{os.getpid()}")
    with closing(sqlite3.connect(source)) as database, closing(sqlite3.connect(unfinished)) as copy:
        database.backup(copy)
    os.replace(unfinished, target)


def start_on_copy(migrated: Path, database: Path, start: Callable[[], T]) -> T:
    """Start a server on a copy of a migrated database. The first of a session migrates, and the others wait for what it leaves."""
    with FileLock(f"{migrated}.lock"):
        if not migrated.exists():
            started = start()
            copy_database(database, migrated)
            return started
        copy_database(migrated, database)
    return start()
