"""Databases that are migrated once a session and copied for each home: the migrations take longer than what a test does."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path


def copy_database(source: Path, target: Path) -> None:
    """Copy an SQLite database, whole even while somebody writes to it; the target appears at once."""
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_suffix(f".{os.getpid()}")
    with closing(sqlite3.connect(source)) as database, closing(sqlite3.connect(unfinished)) as copy:
        database.backup(copy)
    os.replace(unfinished, target)
