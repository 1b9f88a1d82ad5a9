"""Keep a process from writing outside one folder. By Landlock, or by a mount namespace in which all else is read-only.

Landlock: https://docs.kernel.org/userspace-api/landlock.html. It needs no rights and no namespace; containers allow it.
Nothing but the standard library: the process that runs tested code reads this module.
"""

from __future__ import annotations

import ctypes
import os
import struct
from pathlib import Path

from attar.stages.runtime.syscall_filter import LIBC

CREATE_RULESET, ADD_RULE, RESTRICT_SELF, MOUNT_SETATTR = 444, 445, 446, 442
PATH_BENEATH = 1
# Rights by the version of Landlock that first knows them: writing, removing and making files; moving; cutting; devices.
WRITE_FILE = 1 << 1
RIGHTS = {1: sum(1 << bit for bit in (1, 4, 5, 6, 7, 8, 9, 10, 11, 12)), 2: 1 << 13, 3: 1 << 14}
# Nobody needs a device, a socket or a named pipe in the folder
NOT_IN_FOLDER = sum(1 << bit for bit in (6, 9, 10, 11))
TCP, ABSTRACT_SOCKETS_AND_SIGNALS = 0b11, 0b11
NET_VERSION, TRUNCATE_VERSION, SCOPE_VERSION = 4, 3, 6
BIND, READ_ONLY_ATTRIBUTE, RECURSIVE, FROM_HERE = 4096, 1, 0x8000, -100


def landlock_version() -> int:
    """Return the version of Landlock that the system offers, 0 for none."""
    return max(0, LIBC.syscall(CREATE_RULESET, None, 0, 1))


def lock_writes(folder: Path) -> None:
    """Let this process and its children write under `folder` and to /dev/null alone, from now on. Raises OSError.

    From version 4 on it also takes TCP, from version 6 on abstract sockets and signals to other processes.
    """
    version = landlock_version()
    handled = sum(right for since, right in RIGHTS.items() if since <= version)
    attributes = struct.pack("=Q", handled)
    if version >= NET_VERSION:
        attributes += struct.pack("=Q", TCP)
    if version >= SCOPE_VERSION:
        attributes += struct.pack("=Q", ABSTRACT_SOCKETS_AND_SIGNALS)
    ruleset = _checked(LIBC.syscall(CREATE_RULESET, attributes, len(attributes), 0))
    in_device = handled & (WRITE_FILE | RIGHTS[3])
    for path, allowed in ((folder, handled & ~NOT_IN_FOLDER), (Path(os.devnull), in_device)):
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
        _checked(LIBC.syscall(ADD_RULE, ruleset, PATH_BENEATH, struct.pack("=Qi", allowed, descriptor), 0))
        os.close(descriptor)
    _checked(LIBC.prctl(38, 1, 0, 0, 0))  # no new privileges: asked for by what follows
    _checked(LIBC.syscall(RESTRICT_SELF, ruleset, 0))
    os.close(ruleset)


def mount_read_only(folder: Path) -> None:
    """Make every mount of this process's namespace read-only but `folder`, and go there. Needs a mount namespace. Raises OSError."""
    _set_read_only("/", is_read_only=True, is_recursive=True)
    path = os.fsencode(folder)
    _checked(LIBC.mount(path, path, None, BIND, None))
    _set_read_only(str(folder), is_read_only=False, is_recursive=False)
    os.chdir(folder)  # by the path: where we stand is still below the read-only mount


def _set_read_only(path: str, *, is_read_only: bool, is_recursive: bool) -> None:
    change = (READ_ONLY_ATTRIBUTE, 0) if is_read_only else (0, READ_ONLY_ATTRIBUTE)
    attributes = struct.pack("=QQQQ", *change, 0, 0)
    flags = RECURSIVE if is_recursive else 0
    _checked(LIBC.syscall(MOUNT_SETATTR, FROM_HERE, os.fsencode(path), flags, attributes, len(attributes)))


def _checked(result: int) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result
