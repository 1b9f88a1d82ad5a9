"""Artifacts travel between machines without a common disk through an object store, each whole or not there.

The folder ATTAR_HOME of each machine stays its store; ATTAR_SHARED_STORE names what they share: `s3://bucket/folder`, or any address that
MLflow keeps artifacts at. A manifest is uploaded last, and its seal names the folder of the files, so that two uploads at once cannot mix.
"""

from __future__ import annotations

import json
import os
import posixpath
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from attar.registry.artifacts.files import delete, key_lock
from attar.registry.artifacts.handles import Artifact
from attar.registry.artifacts.manifest import CONTENT, MANIFEST, SEAL, CorruptArtifactError
from attar.registry.artifacts.store import Store

VARIABLE = "ATTAR_SHARED_STORE"
# Digits of a manifest's seal that name the folder of its files.
NUM_DIGITS = 16


def is_shared() -> bool:
    """Say whether artifacts travel through an object store."""
    return bool(os.environ.get(VARIABLE))


def share(store: Store, artifact: Artifact, *, is_forced: bool = False) -> None:
    """Let other machines have an artifact: uploaded unless it is there, or made anew. Does nothing where machines share a folder."""
    if not is_shared():
        return
    manifest = store.manifest(artifact)
    location = posixpath.join(manifest["stage"], artifact.key)
    repository = _repository()
    if not is_forced and _holds_manifest(repository, location):
        return
    files = posixpath.join(location, _files_folder(manifest))
    repository.log_artifacts(str(artifact.path), files)
    repository.log_artifact(str(artifact.path.parent / MANIFEST), location)


def fetch(store: Store, stage: str, key: str, *, is_forced: bool = False) -> bool:
    """Say whether a store holds an artifact, downloaded if it did not, or was made anew. Verified before it is moved in with one rename."""
    if not is_shared() or (store.holds(stage, key) and not is_forced):
        return store.holds(stage, key)
    repository, location = _repository(), posixpath.join(stage, key)
    if not _holds_manifest(repository, location):
        return False
    with _aside(store, key) as aside:
        folder = aside.root / "store" / stage / key
        repository.download_artifacts(posixpath.join(location, MANIFEST), dst_path=str(aside.root / "store"))
        files = _seal(folder)
        repository.download_artifacts(posixpath.join(location, files), dst_path=str(aside.root / "store"))
        os.rename(folder / files, folder / CONTENT)
        aside.verify(aside.load(stage, key))
        home = store.root / "store" / stage / key
        with key_lock(store.root, key):
            if is_forced or not store.holds(stage, key):
                home.parent.mkdir(parents=True, exist_ok=True)
                if os.path.lexists(home):  # damaged, or older
                    store.discard(home)
                os.rename(folder, home)
    return True


@contextmanager
def _aside(store: Store, key: str) -> Iterator[Store]:
    """Give a store to download into, on the disk of the real one; it goes when the block ends."""
    folder = store.root / "work" / f"fetched-{key}-{os.getpid()}"
    with key_lock(store.root, folder.name):  # else gc would take it for abandoned
        delete(folder)
        (folder / "store").mkdir(parents=True)
        try:
            yield Store(folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _seal(folder: Path) -> str:
    try:
        return _files_folder(json.loads((folder / MANIFEST).read_bytes()))
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptArtifactError(
            f"{VARIABLE}: {folder.parent.name} {folder.name[:12]} has no sealed {MANIFEST}"
        ) from error


def _files_folder(manifest: Mapping[str, Any]) -> str:
    """Return where the files of an artifact lie beside its manifest. Artifacts of earlier versions have no seal."""
    seal = manifest[SEAL] if SEAL in manifest else manifest["fingerprint"]
    return seal[:NUM_DIGITS]


def _holds_manifest(repository: Any, location: str) -> bool:
    return any(posixpath.basename(entry.path) == MANIFEST for entry in repository.list_artifacts(location))


def _repository() -> Any:
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository  # seconds, for pools alone

    uri = os.environ[VARIABLE]
    if "://" not in uri and not uri.startswith("file:"):
        raise ValueError(f"{VARIABLE} is {uri!r}; accepted: an address, such as s3://bucket/folder")
    return get_artifact_repository(uri)
