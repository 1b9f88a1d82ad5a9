"""Files that are whole or not there, and how a full disk is recognised."""

from __future__ import annotations

import errno
import stat
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from attar.registry.artifacts import files
from attar.registry.artifacts.files import (
    NoSpaceError,
    free_bytes,
    is_disk_full,
    num_bytes_requested,
    open_to_readers,
    reserve,
    whole_file,
)

FULL = OSError(errno.ENOSPC, "No space left on device")


def test_a_file_is_the_old_one_or_the_new_one(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_text("old")

    def break_off(part: Path) -> None:
        part.write_text("ne")
        assert path.read_text() == "old"
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), whole_file(path) as part:
        break_off(part)
    with pytest.raises(FileNotFoundError), whole_file(path):
        pass  # nothing was written
    assert path.read_text() == "old" and [*tmp_path.iterdir()] == [path]
    with whole_file(path) as part:
        part.write_text("new")
    assert path.read_text() == "new" and [*tmp_path.iterdir()] == [path]


def test_what_is_reserved_is_the_disks_already(tmp_path: Path) -> None:
    reserve(tmp_path / "states", 5_000_000)
    status = (tmp_path / "states").stat()
    assert status.st_size == 5_000_000 <= 512 * status.st_blocks


def test_what_cannot_be_reserved_is_told_with_its_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(descriptor: int, offset: int, num_bytes: int) -> None:
        raise FULL

    monkeypatch.setattr(files.os, "posix_fallocate", refuse)
    with pytest.raises(NoSpaceError) as raised:
        reserve(tmp_path / "states", 5_000_000)
    assert num_bytes_requested(raised.value) == 5_000_000 and is_disk_full(raised.value) and not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    ("error", "is_full"),
    [
        (FULL, True),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), True),
        (Exception("Error while serializing: I/O error: No space left on device (os error 28)"), True),
        (Exception("(sqlite3.OperationalError) database or disk is full [SQL: INSERT INTO params"), True),
        (Exception("(sqlite3.OperationalError) database is locked"), False),
        (OSError("4096 requested and 2880 written"), True),
        (OSError(errno.EACCES, "Permission denied"), False),
        (Exception("Error while serializing: I/O error: Permission denied (os error 13)"), False),
        (ValueError("4096 requested and 2880 written"), False),
    ],
)
def test_each_library_says_it_in_its_own_way(error: Exception, is_full: bool) -> None:
    assert is_disk_full(error) == is_full and num_bytes_requested(error) == 0
    later = RuntimeError("unexpected pos 131776 vs 131664")  # what torch.save says while it closes its file
    later.__context__ = error
    assert is_disk_full(later) == is_full


def test_space_is_that_of_the_disk_a_folder_would_lie_on(tmp_path: Path) -> None:
    assert free_bytes(tmp_path / "not" / "made" / "yet") == pytest.approx(free_bytes(tmp_path), rel=0.05)


def test_files_are_read_by_whom_the_umask_lets_read(tmp_path: Path) -> None:
    """What a library wrote for its owner alone, a folder below too; what was made unreadable for others by the umask stays so."""
    (tmp_path / "unet").mkdir()
    for name in ("model.safetensors", "unet/model.safetensors"):
        save_file({"weight": torch.zeros(2)}, tmp_path / name)
    own = tmp_path / "config.json"
    own.touch()
    (tmp_path / "link").symlink_to(own)
    program = tmp_path / "program"
    program.touch(0o700)
    open_to_readers(tmp_path)
    modes = {str(path.relative_to(tmp_path)): stat.S_IMODE(path.lstat().st_mode) for path in tmp_path.rglob("*")}
    readers = modes["config.json"] & 0o444
    assert modes["model.safetensors"] & 0o444 == modes["unet/model.safetensors"] & 0o444 == readers
    assert modes["program"] == 0o700 | readers
    assert sorted(modes) == ["config.json", "link", "model.safetensors", "program", "unet", "unet/model.safetensors"]
