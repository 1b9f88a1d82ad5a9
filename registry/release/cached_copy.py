"""Keep a copy of a registered version's form in the home. What runs it again need not copy it again."""

from __future__ import annotations

import fcntl
import hashlib
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from attar.registry.artifacts.environment import attar_home, tracking_uri
from attar.registry.artifacts.files import delete, folder_bytes
from attar.registry.release.checksums import (
    CARD,
    CHECKSUMS,
    DamagedModelError,
    listed_files,
    verify_checksums,
    wanted_files,
)
from attar.registry.release.delta.remote_files import RemoteFiles
from attar.registry.release.naming import CHECKSUMS_TAG
from attar.registry.release.pull import check_registered, download_model
from attar.registry.release.reference import resolve
from attar.registry.tracking.mlflow_home import open_client
from attar.registry.tracking.reach import reachable

COPIES = "pulled"


@dataclass(frozen=True)
class Release:
    """A registered version. `digest`: the sha256 of its list of checksums, `listed`, which stands for every file."""

    name: str
    number: str
    digest: str
    listed: Mapping[str, str]

    def __str__(self) -> str:
        return f"{self.name} version {self.number}"

    @property
    def forms(self) -> tuple[str, ...]:
        """The folders of its forms."""
        return tuple(sorted({name.partition("/")[0] for name in self.listed if "/" in name}))

    def form_named(self, form: str) -> str:
        """Return the form whose folder has this name, else the only one whose name begins so. Raises ValueError where there is none."""
        return next(name.partition("/")[0] for name in wanted_files(str(self), self.listed, form) if "/" in name)


def find_release(reference: str, *, key: str = "") -> Release:
    """Return the version that NAME, NAME@ALIAS or NAME/VERSION names, and what forms it has. None of them is copied.

    Raises what `pull_version` does of a version that is not there, has no checksums, or does not bear the signature of `key`.
    """
    with reachable(tracking_uri(attar_home())), tempfile.TemporaryDirectory() as folder:
        client = open_client(attar_home())
        version = resolve(client, reference)
        check_registered(f"{reference}: version {version.version}", version, key, needs_checksums=True)
        RemoteFiles.of(client, version).fetch(CHECKSUMS, Path(folder))
        digest = version.tags[CHECKSUMS_TAG]
        return Release(version.name, str(version.version), digest, listed_files(Path(folder), digest))


def cached_copy(release: Release, form: str, *, key: str = "", say: Callable[[str], None] = lambda line: None) -> Path:
    """Return the folder of one form of a version. Copied if it is not there, else compared with the version's checksums.

    A copy that differs is thrown away and made anew. Raises what `download_model` does.
    """
    folder = copies_of(attar_home()) / f"{_slug(release.name)}-{release.digest[:16]}-{_slug(form)}"
    with _lock(folder):
        if folder.is_dir():
            try:
                verify_checksums(folder, release.digest, of=lambda name: name == CARD or name.startswith(f"{form}/"))
                say(f"{form} was copied before: {folder / form}")
                return folder / form
            except DamagedModelError as error:
                say(f"the copy in {folder} is damaged ({error}): copying it again")
                shutil.rmtree(folder)
        say(f"copying {form} of {release} into {folder}")
        folder.parent.mkdir(parents=True, exist_ok=True)
        download_model(f"{release.name}/{release.number}", folder, form=form, key=key)
    return folder / form


def copies_of(home: Path) -> Path:
    """Return the folder in which copies are kept."""
    return home / COPIES


@contextmanager
def in_use(form_folder: Path) -> Iterator[None]:
    """Keep a copy from being deleted inside the block, as far as others ask: `remove_copies` does."""
    with _use_file(form_folder.parent).open("a") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        yield


def remove_copies(home: Path, *, is_dry_run: bool) -> list[tuple[str, int]]:
    """Delete the copies that nothing runs from; return the name and bytes of each. They come again when they are asked for."""
    removed = []
    for folder in sorted(copies_of(home).glob("*")):
        with suppress(Timeout, BlockingIOError), _lock(folder).acquire(timeout=0), _use_file(folder).open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            removed.append((folder.name, folder_bytes(folder)))
            if not is_dry_run:
                delete(folder)
    return removed


def _lock(folder: Path) -> FileLock:
    return FileLock(_lock_path(folder, "copy"))


def _use_file(folder: Path) -> Path:
    return _lock_path(folder, "use")


def _lock_path(folder: Path, what: str) -> Path:
    locks = folder.parents[1] / "locks"
    locks.mkdir(parents=True, exist_ok=True)
    return locks / f"{what}-{hashlib.sha256(folder.name.encode()).hexdigest()[:32]}.lock"


def _slug(name: str) -> str:
    """Return a name as a folder may bear it: a model's may hold anything but @ and /."""
    return re.sub(r"[^A-Za-z0-9_-]+", "_", name)[:60]
