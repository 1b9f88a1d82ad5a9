"""The manifest of a stored artifact. What it must say, the digest that seals it, and every way in which it can be damaged."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attar.registry.artifacts.facts import is_fact
from attar.registry.artifacts.fingerprint import content_fingerprint, digest
from attar.registry.artifacts.handles import KINDS, Artifact

MANIFEST = "manifest.json"
CONTENT = "content"
# A data set of 100,000 shards has one of 20 MB.
MAX_BYTES = 64_000_000
# Digest of all other entries. Artifacts of earlier versions have none; their files and fingerprint are checked all the same.
SEAL = "seal"
ENTRIES: dict[str, type] = {
    "kind": str,
    "key": str,
    "fingerprint": str,
    "stage": str,
    "config": dict,
    "inputs": dict,
    "facts": dict,
    "files": dict,
    "num_bytes": int,
    "created": str,
}
INPUT_ENTRIES = ("stage", "kind", "key", "fingerprint")


class CorruptArtifactError(ValueError):
    """A stored artifact no longer matches its manifest, or the manifest itself is damaged."""


def sealed(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return a manifest with its seal."""
    plain = json.loads(json.dumps(manifest))  # as it will be read: tuples are lists by then
    return {**plain, SEAL: digest(plain)}


def read_manifest(artifact_folder: Path) -> dict[str, Any]:
    """Return the manifest of the artifact that lies at `store/<stage>/<key>`. Raises CorruptArtifactError for whatever is wrong with it."""
    for folder in (artifact_folder, artifact_folder / CONTENT):
        if not stat.S_ISDIR(_mode(folder, f"{folder.name}")):
            raise CorruptArtifactError(f"{folder.name} is no folder")
    path = artifact_folder / MANIFEST
    if not stat.S_ISREG(_mode(path, MANIFEST)):
        raise CorruptArtifactError(f"{MANIFEST} is no regular file")
    if path.stat().st_size > MAX_BYTES:
        raise CorruptArtifactError(f"{MANIFEST} has {path.stat().st_size} bytes; {MAX_BYTES} at most are read")
    try:
        manifest = json.loads(path.read_bytes())
    except (ValueError, RecursionError, OSError) as error:
        raise CorruptArtifactError(f"{MANIFEST} cannot be read: {type(error).__name__}") from error
    _check_entries(manifest)
    _check_values(manifest)
    if (manifest["stage"], manifest["key"]) != (artifact_folder.parent.name, artifact_folder.name):
        raise CorruptArtifactError(
            f"{MANIFEST} is that of {printable(manifest['stage'][:40])} {printable(manifest['key'][:12])}"
        )
    return manifest


def check_files(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Look, without reading a byte, whether the files are there with their sizes, and are files. Raises CorruptArtifactError."""
    present = _walk(folder / CONTENT)
    for name in sorted(manifest["files"].keys() | present.keys()):
        if name not in present:
            raise CorruptArtifactError(f"{printable(name)} is missing")
        if not stat.S_ISREG(present[name].st_mode):
            raise CorruptArtifactError(f"{printable(name)} is no regular file")
        if name not in manifest["files"]:
            raise CorruptArtifactError(f"{printable(name)} does not belong there")
        if manifest["files"][name]["bytes"] != present[name].st_size:
            raise CorruptArtifactError(f"{printable(name)} has another size than when it was sealed")


def printable(name: str) -> str:
    """Return the name of a file for a message, whatever bytes it is made of."""
    return "".join(char if char.isprintable() else "?" for char in name[-200:])


def handle(folder: Path, manifest: Mapping[str, Any]) -> Artifact:
    """Return the artifact of a manifest that has been read from `folder`."""
    return KINDS[manifest["kind"]](
        path=folder / CONTENT,
        facts=manifest["facts"],
        key=manifest["key"],
        fingerprint=manifest["fingerprint"],
    )


def _check_entries(manifest: Any) -> None:
    if not isinstance(manifest, dict):
        raise CorruptArtifactError(f"{MANIFEST} holds a {type(manifest).__name__}, not a mapping")
    for name, kind in ENTRIES.items():
        if not isinstance(manifest.get(name), kind):
            raise CorruptArtifactError(f"{MANIFEST} has no {name}, or none that is a {kind.__name__}")
    try:
        seal = digest({name: value for name, value in manifest.items() if name != SEAL})
    except (ValueError, RecursionError) as error:
        raise CorruptArtifactError(f"{MANIFEST} cannot be read: {type(error).__name__}") from error
    if manifest.get(SEAL, seal) != seal:
        raise CorruptArtifactError(f"{MANIFEST} has changed since it was sealed")


def _check_values(manifest: Mapping[str, Any]) -> None:
    """Check what a seal of ours vouches for; artifacts of earlier versions have none."""
    if manifest["kind"] not in KINDS:
        raise CorruptArtifactError(f"{MANIFEST} is of an unknown kind {printable(manifest['kind'][:40])!r}")
    if not all(map(is_fact, manifest["facts"].values())):
        raise CorruptArtifactError(f"{MANIFEST} has facts that are no facts")
    for entry in manifest["files"].values():
        if (
            not isinstance(entry, dict)
            or not isinstance(entry.get("sha256"), str)
            or not isinstance(entry.get("bytes"), int)
        ):
            raise CorruptArtifactError(f"{MANIFEST} lists files without their digest or size")
    if content_fingerprint(manifest["files"]) != manifest["fingerprint"]:
        raise CorruptArtifactError(f"{MANIFEST} has another fingerprint than its files")
    for entries in manifest["inputs"].values():
        if not isinstance(entries, list) or not all(map(_is_input, entries)):
            raise CorruptArtifactError(f"{MANIFEST} lists inputs that are none")


def _is_input(entry: Any) -> bool:
    """Tell whether an input is named as an artifact is: its stage and key are folders of the store, and lead nowhere else."""
    if not isinstance(entry, dict) or not all(isinstance(entry.get(name), str) for name in INPUT_ENTRIES):
        return False
    return all(Path(entry[name]).name == entry[name] != ".." for name in ("stage", "key")) and bool(
        entry["stage"] and entry["key"]
    )


def _mode(path: Path, name: str) -> int:
    try:
        return path.lstat().st_mode
    except OSError as error:
        raise CorruptArtifactError(f"{name} is missing") from error


def _walk(folder: Path) -> dict[str, os.stat_result]:
    """Return what lies under a folder, but for folders, by relative path; no link is followed."""
    entries: dict[str, os.stat_result] = {}
    pending = [""]
    while pending:
        inside = pending.pop()
        for entry in os.scandir(folder / inside):
            if entry.is_dir(follow_symlinks=False):
                pending.append(f"{inside}{entry.name}/")
            else:
                entries[f"{inside}{entry.name}"] = entry.stat(follow_symlinks=False)
    return entries
