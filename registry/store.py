"""The one cache: content-addressed folders, built aside, sealed by a manifest, moved in with one rename, verified before use."""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Generic, TypeVar

from filelock import FileLock

from registry.artifact import KINDS, Artifact
from registry.cost import Cost
from registry.environment import describe_environment
from registry.files import free_bytes, is_disk_full, num_bytes_asked, write_synced
from registry.fingerprint import content_fingerprint, folder_digests

logger = logging.getLogger(__name__)
MANIFEST = "manifest.json"
CONTENT = "content"
# What a work folder is for: left behind by a crash, it should say so.
WORK = "work.json"
A = TypeVar("A", bound=Artifact)


@dataclass(frozen=True, kw_only=True)
class Slot:
    """Which work fills a place in the store: the stage, its version, its config and the keys and fingerprints of its inputs."""

    stage: str
    version: int
    config: dict[str, Any]
    inputs: dict[str, list[dict[str, str]]]
    # Free space the build is expected to take, in bytes; checked before it starts. 0: not known.
    expected_bytes: int = 0


@dataclass(frozen=True)
class Outcome(Generic[A]):
    """An artifact and whether it was found (`is_hit`) or built just now."""

    artifact: A
    is_hit: bool


class DiskFullError(OSError):
    """The artifact does not fit on the disk; nothing half-written is left."""

    def __str__(self) -> str:
        return str(self.strerror)


class CorruptArtifactError(ValueError):
    """A stored artifact no longer matches its manifest."""


@dataclass(frozen=True)
class Store:
    """Artifacts under `root/store/<stage>/<key>/{content/,manifest.json}`; work in progress under `root/work/<key>/`.

    The manifest is written last, inside the folder built aside, and one rename makes the artifact appear: whatever lies in `store/` is whole.
    The work folder survives a crash, so that a stage with shards or checkpoints continues where it was.
    """

    root: Path

    def get_or_build(
        self,
        slot: Slot,
        kind: type[A],
        key: str,
        build: Callable[[Path], A],
        *,
        is_forced: bool = False,
        on_wait: Callable[[], None] = lambda: None,
    ) -> Outcome[A]:
        """Return the artifact of `key`, building it with `build(workdir)` unless a verified copy exists or `is_forced`.

        `build` writes to `workdir/content` and may keep scratch files elsewhere in `workdir`. A file lock makes a second process wait, then reuse.
        Raises DiskFullError when the build does not fit, after removing its half-written output.
        """
        found = None if is_forced else self._verified(slot, kind, key)
        if found is not None:
            return Outcome(found, is_hit=True)
        lock_path = self.root / "locks" / f"{key}.lock"
        lock_path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(lock_path)
        if lock_path.exists() and not _try_acquire(lock):
            on_wait()
        with lock:
            found = None if is_forced else self._verified(slot, kind, key)
            if found is not None:
                return Outcome(found, is_hit=True)
            return Outcome(self._build(slot, kind, key, build), is_hit=False)

    def find(self, key_prefix: str) -> Artifact:
        """Return the artifact whose key or fingerprint starts with `key_prefix`. Raises ValueError when none or several do."""
        matches = [a for a in self.artifacts() if a.key.startswith(key_prefix) or a.fingerprint.startswith(key_prefix)]
        if len({a.key for a in matches}) != 1 or not key_prefix:
            raise ValueError(
                f"artifact {key_prefix!r}: {len(matches)} match; give more of a key from `attar list artifacts`"
            )
        return matches[0]

    def artifacts(self) -> Iterator[Artifact]:
        """Yield every whole artifact, newest first."""
        manifests = (self.root / "store").glob(f"*/*/{MANIFEST}")
        for path in sorted(manifests, key=lambda p: p.stat().st_mtime, reverse=True):
            yield _load(path.parent)

    def manifest(self, artifact: Artifact) -> dict[str, Any]:
        """Return what was written when the artifact was sealed."""
        return json.loads((artifact.path.parent / MANIFEST).read_text())

    def holds(self, stage: str, key: str) -> bool:
        """True when an artifact lies there. It is not verified: use it to plan, never to trust."""
        return (self._place(stage, key) / MANIFEST).exists()

    def load(self, stage: str, key: str) -> Artifact:
        """Return the handle of a stored artifact without verifying its content."""
        return _load(self._place(stage, key))

    def verify(self, artifact: Artifact) -> None:
        """Recompute every digest. Raises CorruptArtifactError naming the first file that differs."""
        expected = self.manifest(artifact)["files"]
        actual = folder_digests(artifact.path)
        for name in sorted(expected.keys() | actual.keys()):
            if name not in actual:
                raise CorruptArtifactError(f"{name} is missing")
            if name not in expected:
                raise CorruptArtifactError(f"{name} does not belong there")
            if expected[name]["sha256"] != actual[name]["sha256"]:
                raise CorruptArtifactError(f"{name} has changed since it was sealed")

    def remove(self, artifact: Artifact) -> int:
        """Delete an artifact and return the bytes freed. Renamed away first, so that it is whole or absent."""
        place = artifact.path.parent
        num_bytes = sum(path.stat().st_size for path in place.rglob("*") if path.is_file())
        self._discard(place)
        return num_bytes

    def _place(self, stage: str, key: str) -> Path:
        return self.root / "store" / stage / key

    def _verified(self, slot: Slot, kind: type[A], key: str) -> A | None:
        if not self.holds(slot.stage, key):
            return None
        artifact = _load(self._place(slot.stage, key))
        try:
            self.verify(artifact)
        except CorruptArtifactError as error:
            logger.warning("stored %s artifact %s is damaged (%s): building it again", slot.stage, key[:12], error)
            self._discard(self._place(slot.stage, key))
            return None
        assert isinstance(artifact, kind), f"{key} holds a {artifact.kind}, not a {kind.kind}"
        return artifact

    def _build(self, slot: Slot, kind: type[A], key: str, build: Callable[[Path], A]) -> A:
        workdir = self.root / "work" / key
        content = workdir / CONTENT
        cost = Cost()
        try:
            self._check_space(slot)
            shutil.rmtree(content, ignore_errors=True)
            content.mkdir(parents=True)
            write_synced(workdir / WORK, json.dumps({"stage": slot.stage, "config": slot.config}, indent=1))
            draft = build(workdir)
            assert type(draft) is kind, f"{slot.stage} returned {type(draft).__name__}, declared {kind.__name__}"
            sealed = workdir / "sealed"
            shutil.rmtree(sealed, ignore_errors=True)
            sealed.mkdir()
            os.rename(draft.path, sealed / CONTENT)
            self._seal(slot, draft, sealed, key, cost.so_far())
            place = self._place(slot.stage, key)
            place.parent.mkdir(parents=True, exist_ok=True)
            if place.exists():  # forced: the old one goes only now that the new one is whole
                self._discard(place)
            os.rename(sealed, place)
        except Exception as error:
            _drop_output(workdir)
            if is_disk_full(error):
                num_bytes = num_bytes_asked(error) or slot.expected_bytes
                raise DiskFullError(errno.ENOSPC, self._full_message(slot, num_bytes, workdir.exists())) from error
            raise
        shutil.rmtree(workdir, ignore_errors=True)
        return replace(_load(place))  # type: ignore[return-value]

    def _seal(self, slot: Slot, draft: Artifact, sealed: Path, key: str, cost: dict[str, float]) -> None:
        files = folder_digests(sealed / CONTENT)
        manifest = {
            "kind": draft.kind,
            "key": key,
            "fingerprint": content_fingerprint(files),
            "stage": slot.stage,
            "version": slot.version,
            "config": slot.config,
            "inputs": slot.inputs,
            "facts": draft.facts,
            "files": files,
            "num_bytes": sum(entry["bytes"] for entry in files.values()),
            **cost,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "environment": describe_environment(),
        }
        write_synced(sealed / MANIFEST, json.dumps(manifest, indent=1, sort_keys=True))

    def _check_space(self, slot: Slot) -> None:
        if slot.expected_bytes > free_bytes(self.root):
            raise OSError(errno.ENOSPC, "not enough space")

    def _full_message(self, slot: Slot, num_bytes: int, has_begun: bool) -> str:
        free = free_bytes(self.root)
        needed = f"about {num_bytes / 1e6:,.0f} MB were needed" if num_bytes else "how much is needed is not known"
        kept = "; the same command goes on from what is done" if has_begun else ""
        return (
            f"no space for the {slot.stage} artifact under {self.root}: {needed}, {free / 1e6:,.0f} MB are free{kept}"
        )

    def _discard(self, place: Path) -> None:
        trash = self.root / "work" / f"discarded-{place.name}-{os.getpid()}"
        trash.parent.mkdir(parents=True, exist_ok=True)
        os.rename(place, trash)
        shutil.rmtree(trash, ignore_errors=True)


def _drop_output(workdir: Path) -> None:
    """Delete the half-written output of a failed build; what a later one goes on from (shards, checkpoints) stays."""
    for name in (CONTENT, "sealed"):
        shutil.rmtree(workdir / name, ignore_errors=True)
    if not any(path.is_file() and path.name != WORK for path in workdir.rglob("*")):
        shutil.rmtree(workdir, ignore_errors=True)


def _load(place: Path) -> Artifact:
    manifest = json.loads((place / MANIFEST).read_text())
    return KINDS[manifest["kind"]](
        path=place / CONTENT, facts=manifest["facts"], key=manifest["key"], fingerprint=manifest["fingerprint"]
    )


def _try_acquire(lock: FileLock) -> bool:
    try:
        lock.acquire(timeout=0)
    except TimeoutError:
        return False
    lock.release()
    return True
