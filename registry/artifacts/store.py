"""The one cache: content-addressed folders, built aside, sealed by a manifest, moved in with one rename, verified before use."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from attar.registry.artifacts.cost import Cost
from attar.registry.artifacts.disk_space import check_space, drop_output, full_error
from attar.registry.artifacts.environment import attar_home
from attar.registry.artifacts.files import (
    delete,
    folder_bytes,
    is_disk_full,
    key_lock,
    make_way,
    num_bytes_requested,
    open_to_readers,
    write_synced,
)
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
    sealed,
)
from attar.registry.artifacts.slot import Slot, manifest_of

if TYPE_CHECKING:
    from filelock import FileLock

logger = logging.getLogger(__name__)
# What a work folder is for: left behind by a crash, it should say so.
WORK = "work.json"
A = TypeVar("A", bound=Artifact)


@dataclass(frozen=True)
class Outcome(Generic[A]):
    """An artifact and whether it was found (`is_hit`) or built just now."""

    artifact: A
    is_hit: bool


@dataclass(frozen=True)
class Store:
    """Artifacts under `root/store/<stage>/<key>/{content/,manifest.json}`; work in progress under `root/work/<key>/`.

    The manifest is written last, inside the folder built aside, and one rename makes the artifact appear: whatever lies in `store/` was whole.
    What is damaged since is no artifact: it is built again where it is needed, and `damaged` tells the rest.
    The work folder survives a crash, so that a stage with shards or checkpoints continues where it was.
    """

    # without one, ATTAR_HOME
    root: Path = field(default_factory=attar_home)

    def __post_init__(self) -> None:
        object.__setattr__(self, "root", Path(self.root).expanduser().absolute())  # a notebook gives text

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
        artifact = None if is_forced else self._whole(slot, kind, key)
        if artifact is not None:
            return Outcome(artifact, is_hit=True)
        lock = key_lock(self.root, key)
        if Path(lock.lock_file).exists() and not _try_acquire(lock):
            on_wait()
        with lock:
            artifact = None if is_forced else self._whole(slot, kind, key, is_ours=True)
            if artifact is not None:
                return Outcome(artifact, is_hit=True)
            return Outcome(self._build(slot, kind, key, build), is_hit=False)

    def find(self, key_prefix: str) -> Artifact:
        """Return the artifact whose key or fingerprint starts with `key_prefix`. Raises ValueError when none or several do."""
        damaged = dict(self.damaged())
        whole = [a for a in self.artifacts() if a.path.parent not in damaged]
        matches = [a for a in whole if a.key.startswith(key_prefix) or a.fingerprint.startswith(key_prefix)]
        if len({a.key for a in matches}) == 1 and key_prefix:
            return matches[0]
        for folder, reason in damaged.items():
            if key_prefix and not matches and folder.name.startswith(key_prefix):
                raise CorruptArtifactError(
                    f"{folder.parent.name} artifact {folder.name[:12]} is damaged ({reason}); a run that needs it builds it again"
                )
        if not matches and not any(self._folders()):
            raise ValueError(
                f"artifact {key_prefix!r}: nothing is stored under {self.root} yet; `attar run tiny` fills it"
            )
        raise ValueError(
            f"artifact {key_prefix!r}: {len(matches)} match; give more of a key from `attar list artifacts`"
        )

    def artifacts(self) -> Iterator[Artifact]:
        """Yield every artifact whose manifest is whole, newest first."""
        manifests = [path for folder in self._folders() if os.path.lexists(path := folder / MANIFEST)]
        for path in sorted(manifests, key=lambda p: p.lstat().st_mtime, reverse=True):
            try:
                yield handle(path.parent, read_manifest(path.parent))
            except CorruptArtifactError:
                continue

    def damaged(self) -> list[tuple[Path, str]]:
        """Return each folder of the store that holds no whole artifact, and what is wrong there."""
        damaged = []
        for folder in self._folders():
            try:
                check_files(folder, read_manifest(folder))
            except (CorruptArtifactError, OSError) as error:
                damaged.append((folder, str(error)))
        return damaged

    def manifest(self, artifact: Artifact) -> dict[str, Any]:
        """Return what was written when the artifact was sealed. Raises CorruptArtifactError."""
        return read_manifest(artifact.path.parent)

    def holds(self, stage: str, key: str) -> bool:
        """Say whether an artifact lies there, its files in their sizes. They are not read: use it to plan, never to trust."""
        folder = self._folder(stage, key)
        try:
            check_files(folder, read_manifest(folder))
        except (CorruptArtifactError, OSError):
            return False
        return True

    def load(self, stage: str, key: str) -> Artifact:
        """Return the handle of a stored artifact without verifying its content. Raises CorruptArtifactError."""
        folder = self._folder(stage, key)
        return handle(folder, read_manifest(folder))

    def verify(self, artifact: Artifact) -> None:
        """Recompute every digest. Raises CorruptArtifactError naming the first file that differs."""
        manifest = self.manifest(artifact)
        check_files(artifact.path.parent, manifest)  # first: a link or a pipe must not be opened
        expected, actual = manifest["files"], folder_digests(artifact.path)
        for name in sorted(expected.keys() | actual.keys()):
            if expected.get(name) != actual.get(name):
                raise CorruptArtifactError(f"{printable(name)} has changed since it was sealed")

    def remove(self, artifact: Artifact) -> int:
        """Delete an artifact and return the bytes freed. Renamed away first, so that it is whole or absent."""
        folder = artifact.path.parent
        num_bytes = folder_bytes(folder)
        self.discard(folder)
        return num_bytes

    def discard(self, folder: Path) -> None:
        """Delete what lies at a place of the store, whatever it is. Renamed away first."""
        trash = self.root / "work" / f"discarded-{folder.name}-{os.getpid()}"
        trash.parent.mkdir(parents=True, exist_ok=True)
        delete(trash)
        os.rename(folder, trash)
        delete(trash)

    def _folders(self) -> list[Path]:
        """Return every place where an artifact lies or should."""
        folders = [folder for folder in sorted((self.root / "store").glob("*")) if folder.is_dir()]
        return [artifact_folder for folder in folders for artifact_folder in sorted(folder.iterdir())]

    def _folder(self, stage: str, key: str) -> Path:
        return self.root / "store" / stage / key

    def _whole(self, slot: Slot, kind: type[A], key: str, *, is_ours: bool = False) -> A | None:
        """Return the artifact if it is there, whole and of its kind. Where the lock `is_ours`, what is damaged is told and goes."""
        folder = self._folder(slot.stage, key)
        if not os.path.lexists(folder):
            return None
        try:
            artifact = self.load(slot.stage, key)
            self.verify(artifact)
            if artifact.kind != kind.kind:
                raise CorruptArtifactError(f"{MANIFEST} is that of a {artifact.kind}, not of a {kind.kind}")
        except (CorruptArtifactError, OSError) as error:
            if is_ours and os.path.lexists(folder):
                logger.warning("stored %s artifact %s is damaged (%s): building it again", slot.stage, key[:12], error)
                self.discard(folder)
            return None
        return cast(A, artifact)

    def _build(self, slot: Slot, kind: type[A], key: str, build: Callable[[Path], A]) -> A:
        workdir = self.root / "work" / key
        content = workdir / CONTENT
        cost = Cost(slot.spent)
        try:
            check_space(self.root, slot.expected_bytes)
            for folder in (workdir.parent, workdir):
                make_way(folder)
            delete(content)
            content.mkdir(parents=True)
            write_synced(workdir / WORK, json.dumps({"stage": slot.stage, "config": slot.config}, indent=1))
            draft = build(workdir)
            assert draft.kind == kind.kind, f"{slot.stage} returned {type(draft).__name__}, declared {kind.__name__}"
            aside = workdir / "sealed"
            delete(aside)
            aside.mkdir()
            os.rename(draft.path, aside / CONTENT)
            self._seal(slot, draft, aside, key, cost.so_far())
            home = self._folder(slot.stage, key)
            for folder in (home.parents[1], home.parent):
                make_way(folder)
            home.parent.mkdir(parents=True, exist_ok=True)
            if os.path.lexists(home):  # forced: the old one goes only now that the new one is whole
                self.discard(home)
            os.rename(aside, home)
        except Exception as error:
            drop_output(workdir, (CONTENT, "sealed"), WORK)
            if is_disk_full(error):
                num_bytes = num_bytes_requested(error) or slot.expected_bytes
                raise full_error(slot.stage, self.root, num_bytes, has_begun=workdir.exists()) from error
            raise
        shutil.rmtree(workdir, ignore_errors=True)
        return replace(handle(home, read_manifest(home)))  # type: ignore[return-value]

    def _seal(self, slot: Slot, draft: Artifact, aside: Path, key: str, cost: dict[str, float]) -> None:
        open_to_readers(aside / CONTENT)  # of a store that several users share
        manifest = manifest_of(slot, draft, key, folder_digests(aside / CONTENT), cost)
        check_files(aside, manifest)  # a link would be gone, or something else, on the next look
        write_synced(aside / MANIFEST, json.dumps(sealed(manifest), indent=1, sort_keys=True))


def _try_acquire(lock: FileLock) -> bool:
    try:
        lock.acquire(timeout=0)
    except TimeoutError:
        return False
    lock.release()
    return True
