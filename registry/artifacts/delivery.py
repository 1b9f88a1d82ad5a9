"""An artifact as a folder of one's own. Copied out of the store with its manifest, and taken back when it is given again."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from attar.registry.artifacts.files import delete
from attar.registry.artifacts.fingerprint import folder_digests
from attar.registry.artifacts.handles import Artifact
from attar.registry.artifacts.manifest import (
    CONTENT,
    MANIFEST,
    CorruptArtifactError,
    check_files,
    handle,
    printable,
    read_manifest,
)
from attar.registry.artifacts.store import Store

# The manifest of a delivered folder, among its files.
DELIVERY = "attar.json"


def deliver(artifact: Artifact, folder: Path) -> Path:
    """Copy a stored artifact into `folder`, new or empty, and return it: whole, or not there. Raises ValueError where it holds something."""
    folder = folder.expanduser().resolve()
    check_output(folder)
    aside = folder.with_name(f".{folder.name}.part")
    delete(aside)
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        shutil.copytree(artifact.path, aside)
        shutil.copy2(artifact.path.parent / MANIFEST, aside / DELIVERY)
        os.rename(aside, folder)  # an empty folder is replaced
    finally:
        delete(aside)
    return folder


def check_output(folder: Path) -> None:
    """Raise ValueError for a folder that holds something already."""
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise ValueError(f"output {folder} is not empty; give a folder that is, or that does not exist")


def delivered(store: Store, folder: Path) -> Artifact | None:
    """Return the artifact that a folder is: a store's own, or one that was delivered and is brought into `store`. None for another folder.

    Raises CorruptArtifactError, a ValueError, when a delivered file differs from what its manifest says.
    """
    if folder.name == CONTENT and (folder.parent / MANIFEST).is_file():
        return handle(folder.parent, read_manifest(folder.parent))
    if not (folder / DELIVERY).is_file():
        return None
    aside = store.root / "work" / f"delivered-{os.getpid()}"
    delete(aside)
    try:
        return _taken_back(store, folder, aside)
    except CorruptArtifactError as error:
        raise CorruptArtifactError(f"{folder}: {error}; to use it as it is now, delete {DELIVERY} there") from error
    finally:
        delete(aside)


def _taken_back(store: Store, folder: Path, aside: Path) -> Artifact:
    stage, key = _stage_and_key(folder / DELIVERY)
    home = aside / stage / key
    (home / CONTENT).mkdir(parents=True)
    shutil.copy2(folder / DELIVERY, home / MANIFEST)
    manifest = read_manifest(home)
    actual = {name: entry for name, entry in folder_digests(folder).items() if name != DELIVERY}
    for name in sorted(manifest["files"].keys() | actual.keys()):
        if manifest["files"].get(name) != actual.get(name):
            raise CorruptArtifactError(f"{printable(name)} has changed since it was written")
    if store.holds(stage, key):
        return store.load(stage, key)
    os.rmdir(home / CONTENT)
    shutil.copytree(folder, home / CONTENT, symlinks=True, ignore=shutil.ignore_patterns(DELIVERY))
    check_files(home, manifest)
    destination = store.root / "store" / stage / key
    destination.parent.mkdir(parents=True, exist_ok=True)
    if os.path.lexists(destination):  # damaged, or the store would hold it
        store.discard(destination)
    os.rename(home, destination)
    return store.load(stage, key)


def _stage_and_key(manifest: Path) -> tuple[str, str]:
    """Return what a manifest is of; both become names of folders."""
    try:
        content: Any = json.loads(manifest.read_bytes())
        names = [content[name] for name in ("stage", "key")]
    except (ValueError, RecursionError, KeyError, TypeError, OSError) as error:
        raise CorruptArtifactError(f"{DELIVERY} cannot be read: {type(error).__name__}") from error
    if not all(isinstance(name, str) and Path(name).name == name and name not in ("", "..") for name in names):
        raise CorruptArtifactError(f"{DELIVERY} names no stage and key")
    return names[0], names[1]
