"""Digests: of a file, of a folder's content, of a stage's work order."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# Evidence about how a thing was made (times, loss curves). Kept and checked, but two builds that differ only here are the same thing.
RECORDS_FOLDER = "records"


def file_digest(path: Path) -> str:
    """Return the sha256 of a file in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def folder_digests(folder: Path) -> dict[str, dict[str, Any]]:
    """Return `{relative path: {sha256, bytes}}` for every file under `folder`, sorted by path. Links count as what they lead to."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        path.relative_to(folder).as_posix(): {"sha256": file_digest(path), "bytes": path.stat().st_size}
        for path in files
    }


def content_fingerprint(files: Mapping[str, Mapping[str, Any]]) -> str:
    """Return one digest over the files' paths and digests, leaving out `records/`."""
    content = {name: entry["sha256"] for name, entry in files.items() if not name.startswith(f"{RECORDS_FOLDER}/")}
    return digest(content)


def digest(value: Any) -> str:
    """Return the sha256 of a JSON value in its canonical form (sorted keys, no spaces)."""
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=str)
    return hashlib.sha256(canonical.encode()).hexdigest()
