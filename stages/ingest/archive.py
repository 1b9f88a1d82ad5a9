"""What an archive may do while it is unpacked. Members stay inside, match their recorded digest, and fit their stated size."""

from __future__ import annotations

import zipfile
from base64 import urlsafe_b64decode
from pathlib import Path, PurePosixPath

from attar.registry.artifacts.files import free_bytes

# Weights do not compress: a member that grows a hundredfold is made to fill a disk.
MAX_RATIO = 100


def is_plain_member(name: str) -> bool:
    """Say whether a relative path stays below where it is unpacked."""
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts and "\\" not in name


def refuse_bomb(member: zipfile.ZipInfo, folder: Path) -> None:
    """Raise ValueError for a member that grows too much, or that the disk of `folder` has no room for."""
    if member.file_size > MAX_RATIO * max(member.compress_size, 1):
        raise ValueError(
            f"{member.filename} grows from {member.compress_size} to {member.file_size} bytes: refused as a zip bomb"
        )
    free = free_bytes(folder)
    if member.file_size > free:
        raise ValueError(f"{member.filename} needs {member.file_size / 1e6:,.0f} MB, {free / 1e6:,.0f} MB are free")


def recorded_digest(wheel: zipfile.ZipFile, member: str) -> str:
    """Return the sha256 that a wheel's RECORD gives a member, in hex digits. Raises ValueError where it lists none."""
    record = next(name for name in wheel.namelist() if name.endswith(".dist-info/RECORD"))
    for line in wheel.read(record).decode().splitlines():
        name, _, entry = line.partition(",")
        if name == member:
            encoded = entry.partition(",")[0].removeprefix("sha256=")
            return urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)).hex()
    raise ValueError(f"the wheel's RECORD does not list {member}")
