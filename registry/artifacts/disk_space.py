"""An artifact that does not fit on the disk. Asked before it is built, told in one line, and its half-written output gone."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterable
from pathlib import Path

from attar.registry.artifacts.files import free_bytes


class DiskFullError(OSError):
    """The artifact does not fit on the disk; nothing half-written is left."""

    def __str__(self) -> str:
        return str(self.strerror)


def check_space(root: Path, num_bytes: int) -> None:
    """Raise OSError, as the kernel would, where fewer bytes are free."""
    if num_bytes > free_bytes(root):
        raise OSError(errno.ENOSPC, "not enough space")


def full_error(stage: str, root: Path, num_bytes: int, *, has_begun: bool) -> DiskFullError:
    """Return the error that tells what was needed and what is free. 0 bytes: how much is needed is not known."""
    free = free_bytes(root)
    needed = f"about {num_bytes / 1e6:,.0f} MB were needed" if num_bytes else "how much is needed is not known"
    hint = "; the same command goes on from what is done" if has_begun else ""
    message = f"no space for the {stage} artifact under {root}: {needed}, {free / 1e6:,.0f} MB are free{hint}"
    return DiskFullError(errno.ENOSPC, message)


def drop_output(workdir: Path, output: Iterable[str], work: str) -> None:
    """Delete the half-written output of a failed build; what a later one goes on from (shards, checkpoints) stays."""
    for name in output:
        shutil.rmtree(workdir / name, ignore_errors=True)
    if not any(path.is_file() and path.name != work for path in workdir.rglob("*")):
        shutil.rmtree(workdir, ignore_errors=True)
