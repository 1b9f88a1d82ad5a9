"""Files that are whole or not there, and a disk that is full. How it shows itself, and how to find out before it kills."""

from __future__ import annotations

import errno
import os
import re
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock

NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
# safetensors is written in Rust: its error is no OSError, and the kernel's number stands in its text alone
OS_ERROR = re.compile(r"\(os error (\d+)\)")
# numpy's tofile, which writes the tensors beside an ONNX graph, drops the number
SHORT_WRITE = re.compile(r"\d+ requested and \d+ written")
# so SQLite says it, and with it MLflow
SQLITE_FULL = "database or disk is full"


class NoSpaceError(OSError):
    """So many bytes were asked for at once, and the disk has fewer."""

    def __init__(self, number: int, path: Path, num_bytes: int) -> None:
        super().__init__(number, os.strerror(number), str(path))
        self.num_bytes = num_bytes


@contextmanager
def whole_file(path: Path, suffix: str = "part") -> Iterator[Path]:
    """Give a place beside `path` to write to. It becomes `path` in one step when the block ends, and goes when the block fails.

    What a killed process has left there the next one writes over; where several may write at once, each wants a `suffix` of its own.
    """
    temporary = path.with_name(f".{path.name}.{suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_synced(path: Path, text: str) -> None:
    """Write a text file whole or not at all. After a crash, the machine's too, it is the old or the new."""
    with whole_file(path, str(os.getpid())) as temporary, temporary.open("w") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())


def folder_bytes(folder: Path) -> int:
    """Return the size of a file, or of all files under a folder; links count for themselves."""
    paths = [folder, *folder.rglob("*")] if folder.is_dir() and not folder.is_symlink() else [folder]
    return sum(path.lstat().st_size for path in paths if path.is_symlink() or path.is_file())


def open_to_readers(folder: Path) -> None:
    """Let files be read by whom the umask lets read. Some libraries write for their owner alone, as safetensors 0.8 does (mode 600)."""
    probe = folder / f".{os.getpid()}.probe"
    probe.touch()
    readers = probe.stat().st_mode & 0o444
    probe.unlink()
    for path in folder.rglob("*"):
        status = path.lstat()
        if stat.S_ISREG(status.st_mode) and readers & ~status.st_mode and status.st_uid == os.geteuid():
            path.chmod(stat.S_IMODE(status.st_mode) | readers)


def link_or_copy(source: Path, target: Path) -> None:
    """Give a file that never changes a second name, whatever had that before. Copy a link, or where the disk cannot."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    with suppress(OSError):  # another disk, or one without hard links
        if not source.is_symlink():
            os.link(source, target)
            return
    shutil.copy2(source, target)


def make_way(folder: Path) -> None:
    """Delete what stands where a folder must be and is none."""
    if os.path.lexists(folder) and not folder.is_dir():
        folder.unlink()


def delete(path: Path) -> None:
    """Delete a file, a link or a folder, if it is there."""
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
    else:
        shutil.rmtree(path, ignore_errors=True)


def free_bytes(folder: Path) -> int:
    """Return the free bytes of the disk that a file or folder lies on, or would."""
    return shutil.disk_usage(existing(folder)).free


def existing(folder: Path) -> Path:
    """Return the path, or its nearest parent that exists."""
    return folder if folder.exists() else existing(folder.parent)


def reserve(path: Path, num_bytes: int) -> None:
    """Make a file of so many bytes, every one of them the disk's already: to be mapped and written to.

    A write into a mapped file that finds the disk full is no error but the end of the process (SIGBUS). Raises NoSpaceError.
    """
    try:
        with path.open("wb") as stream:
            os.posix_fallocate(stream.fileno(), 0, num_bytes)
    except OSError as error:
        path.unlink(missing_ok=True)
        if error.errno in NO_SPACE:
            raise NoSpaceError(error.errno, path, num_bytes) from error
        raise


def is_disk_full(error: BaseException) -> bool:
    """Say whether an error is the kernel's refusal of space. So is one raised from or over it; disk, quota or size of a file."""
    return any(_is_refusal(cause) for cause in _chain(error))


def num_bytes_requested(error: BaseException) -> int:
    """Return how many bytes were asked for where `reserve` was refused; 0: not known."""
    return next((cause.num_bytes for cause in _chain(error) if isinstance(cause, NoSpaceError)), 0)


def _is_refusal(error: BaseException) -> bool:
    if isinstance(error, OSError):
        return error.errno in NO_SPACE or SHORT_WRITE.fullmatch(str(error)) is not None
    match = OS_ERROR.search(str(error))
    return SQLITE_FULL in str(error) or (match is not None and int(match[1]) in NO_SPACE)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def key_lock(root: Path, key: str) -> FileLock:
    """Return the lock under which the artifact of a key is built, mended or deleted."""
    path = root / "locks" / f"{key}.lock"
    make_way(path.parent)
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.is_file():  # a folder of that name could never be locked
        delete(path)
    return FileLock(path)
