"""A filter of system calls (seccomp) for code that is tested. No sockets, no processes, no signals to others, nothing outside its files.

It holds for every later program of the process and cannot be taken off. https://docs.kernel.org/userspace-api/seccomp_filter.html
This module and its neighbour `write_guard` are read by the process that runs the code: nothing but the standard library.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from collections.abc import Iterable, Sequence

LIBC = ctypes.CDLL(None, use_errno=True)
NO_NEW_PRIVILEGES, SET_SECCOMP, FILTER_MODE = 38, 22, 2
DROP_FROM_BOUNDING_SET, NUM_CAPABILITIES = 24, 64
CLONE_THREAD, CLONE_NAMESPACES = 0x0001_0000, 0x7E02_0000
UNIX_FAMILY = 1
ALLOW, KILL, ERRNO = 0x7FFF_0000, 0x8000_0000, 0x0005_0000
X32_BIT = 0x4000_0000
# Operations of the filter: load a word, jump when equal, when at least, when a bit is set; return
LOAD, EQUAL, AT_LEAST, ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
NUMBER_OFFSET, MACHINE_OFFSET, ARGUMENTS_OFFSET = 0, 4, 16

# Number of each call on x86_64 and on aarch64; None where a machine has no such call.
CALLS: dict[str, tuple[int | None, int | None]] = {
    "socket": (41, 198), "connect": (42, 203), "bind": (49, 200), "listen": (50, 201), "sendmsg": (46, 211), "sendmmsg": (307, 269),
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "pidfd_getfd": (438, 438),
    "pidfd_send_signal": (424, 424), "kcmp": (312, 272), "rt_sigqueueinfo": (129, 138), "rt_tgsigqueueinfo": (297, 240),
    "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51), "move_mount": (429, 429),
    "open_tree": (428, 428), "fsopen": (430, 430), "fsconfig": (431, 431), "fsmount": (432, 432), "fspick": (433, 433),
    "mount_setattr": (442, 442), "unshare": (272, 97), "setns": (308, 268), "open_by_handle_at": (304, 265),
    "bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282), "add_key": (248, 217), "request_key": (249, 218),
    "keyctl": (250, 219), "io_uring_setup": (425, 425), "io_uring_enter": (426, 426), "io_uring_register": (427, 427),
    "init_module": (175, 105), "finit_module": (313, 273), "delete_module": (176, 106), "kexec_load": (246, 104),
    "kexec_file_load": (320, 294), "reboot": (169, 142), "swapon": (167, 224), "swapoff": (168, 225), "settimeofday": (164, 170),
    "clock_settime": (227, 112), "adjtimex": (159, 171), "clock_adjtime": (305, 266), "sethostname": (170, 161),
    "setdomainname": (171, 162), "acct": (163, 89), "quotactl": (179, 60), "shmget": (29, 194), "msgget": (68, 186),
    "semget": (64, 190), "mq_open": (240, 180),
}  # fmt: skip
NEW_PROCESSES: dict[str, tuple[int | None, int | None]] = {"fork": (57, None), "vfork": (58, None)}
# Landlock knows neither modes, owners, times nor attributes of files: these calls do nothing and say that they did
PRETENDED: dict[str, tuple[int | None, int | None]] = {
    "chmod": (90, None), "fchmod": (91, 52), "fchmodat": (268, 53), "fchmodat2": (452, 452), "chown": (92, None), "fchown": (93, 55),
    "lchown": (94, None), "fchownat": (260, 54), "utime": (132, None), "utimes": (235, None), "futimesat": (261, None),
    "utimensat": (280, 88), "setxattr": (188, 5), "lsetxattr": (189, 6), "fsetxattr": (190, 7), "setxattrat": (463, 463),
    "removexattr": (197, 14), "lremovexattr": (198, 15), "fremovexattr": (199, 16), "removexattrat": (466, 466),
    "file_setattr": (469, 469),
}  # fmt: skip
CLONE, CLONE3, SOCKETPAIR, SENDTO, PRLIMIT, TRUNCATE = (56, 220), (435, 435), (53, 199), (44, 206), (302, 261), (76, 45)
SIGNALS = ((62, 129), (200, 130), (234, 131))
MACHINES = {"x86_64": (0, 0xC000_003E), "aarch64": (1, 0xC000_00B7)}

Instruction = tuple[int, int, int, int]


def is_known_machine() -> bool:
    """Say whether the numbers of the system calls are known."""
    return platform.system() == "Linux" and platform.machine() in MACHINES


def give_up_privileges() -> None:
    """Drop every capability of this process, root's too, for good. Raises OSError."""
    _checked(LIBC.prctl(NO_NEW_PRIVILEGES, 1, 0, 0, 0))
    for capability in range(NUM_CAPABILITIES):
        LIBC.prctl(
            DROP_FROM_BOUNDING_SET, capability, 0, 0, 0
        )  # one that is unknown, or not ours, cannot come back anyway
    header, nothing = struct.pack("=Ii", 0x2008_0522, 0), bytes(24)
    _checked(LIBC.capset(header, nothing))


def filter_calls(*, may_start_processes: bool, may_signal: bool, may_truncate: bool) -> None:
    """Refuse from now on what `CALLS` lists, and sockets that lead anywhere. Raises OSError where the system has no such filter."""
    column, machine = MACHINES[platform.machine()]
    program = _program(
        column,
        machine,
        may_start_processes=may_start_processes,
        own_pid=None if may_signal else os.getpid(),
        may_truncate=may_truncate,
    )
    code = b"".join(struct.pack("=HBBI", *instruction) for instruction in program)
    buffer = ctypes.create_string_buffer(code, len(code))
    described = ctypes.create_string_buffer(struct.pack("@HP", len(program), ctypes.addressof(buffer)))
    _checked(LIBC.prctl(SET_SECCOMP, FILTER_MODE, described, 0, 0))


def _program(
    column: int, machine: int, *, may_start_processes: bool, own_pid: int | None, may_truncate: bool
) -> list[Instruction]:
    refused = dict(CALLS) if may_start_processes else CALLS | NEW_PROCESSES
    program = [(LOAD, 0, 0, MACHINE_OFFSET), (EQUAL, 1, 0, machine), _answer(KILL), (LOAD, 0, 0, NUMBER_OFFSET)]
    if column == 0:
        program += [(AT_LEAST, 0, 1, X32_BIT), _answer(ERRNO | errno.ENOSYS)]
    program += _flat(_when(numbers[column], [_answer(ERRNO | errno.EPERM)]) for numbers in refused.values())
    program += _flat(_when(numbers[column], [_answer(ERRNO)]) for numbers in PRETENDED.values())
    # the C library takes `clone` where there is no `clone3`, whose flags no filter sees
    program += _when(CLONE3[column], [_answer(ERRNO | errno.ENOSYS)])
    refusal, allowance = _answer(ERRNO | errno.EPERM), _answer(ALLOW)
    threads_only = [] if may_start_processes else [(ANY_BIT, 1, 0, CLONE_THREAD), refusal]
    program += _when(
        CLONE[column], [_argument(0), (ANY_BIT, 0, 1, CLONE_NAMESPACES), refusal, *threads_only, allowance]
    )
    program += _when(SOCKETPAIR[column], [_argument(0), (EQUAL, 1, 0, UNIX_FAMILY), refusal, allowance])
    # to the other end of a pair, never to an address
    to_nobody = [_argument(4), (EQUAL, 1, 0, 0), refusal, _argument(4, 4), (EQUAL, 1, 0, 0), refusal, allowance]
    program += _when(SENDTO[column], to_nobody)
    program += _when(PRLIMIT[column], [_argument(0), (EQUAL, 1, 0, 0), refusal, allowance])
    if own_pid is not None:
        for numbers in SIGNALS:
            program += _when(numbers[column], [_argument(0), (EQUAL, 1, 0, own_pid), refusal, allowance])
    if not may_truncate:
        program += _when(TRUNCATE[column], [refusal])
    return [*program, allowance]


def _when(number: int | None, instructions: Sequence[Instruction]) -> list[Instruction]:
    """Return the instructions for one call, which end in an answer; nothing where the machine has no such call."""
    return [] if number is None else [(EQUAL, 0, len(instructions), number), *instructions]


def _answer(value: int) -> Instruction:
    return (RETURN, 0, 0, value)


def _argument(index: int, offset: int = 0) -> Instruction:
    return (LOAD, 0, 0, ARGUMENTS_OFFSET + 8 * index + offset)


def _flat(parts: Iterable[list[Instruction]]) -> list[Instruction]:
    return [instruction for part in parts for instruction in part]


def _checked(result: int) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
