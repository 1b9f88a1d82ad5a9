"""Do one piece of work in several processes of this machine, which form a torch process group. If one dies, all end."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from attar.stages.runtime.progress import emit, listen

# Processes are started from threads of their own, and the main module is one for all.
_starting = threading.Lock()


@dataclass(frozen=True)
class Member:
    """One process of the group: its number, how many there are, and what they meet by."""

    rank: int
    num_processes: int
    meeting: Path
    num_threads: int

    def join(self, device: torch.device) -> None:
        """Take a place in the group. accelerate reads it from the environment, as from a launcher's."""
        os.environ |= dict.fromkeys(("RANK", "LOCAL_RANK"), str(self.rank))
        os.environ |= dict.fromkeys(("WORLD_SIZE", "LOCAL_WORLD_SIZE"), str(self.num_processes))
        os.environ["OMP_NUM_THREADS"] = str(self.num_threads)
        torch.set_num_threads(self.num_threads)
        if sys.platform == "linux":  # all of them are here: nobody else needs to reach them
            os.environ |= {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}
        if device.type == "cpu":
            os.environ["ACCELERATE_USE_CPU"] = "true"
        else:
            torch.accelerator.set_device_index(self.rank)
        torch.distributed.init_process_group(
            torch.distributed.get_default_backend_for_device(device.type),
            store=torch.distributed.FileStore(str(self.meeting), self.num_processes),
            rank=self.rank,
            world_size=self.num_processes,
        )


def run_in_group(work: Callable[[], Any], num_processes: int, device: torch.device) -> Any:
    """Return what the work gives in the first process; its events are this process's. `work` is pickled.

    Raises ValueError where one of them did, RuntimeError for any other end. Then and afterwards none of them is left.
    """
    context = multiprocessing.get_context("spawn")
    num_threads = max(1, torch.get_num_threads() // num_processes) if device.type == "cpu" else torch.get_num_threads()
    with tempfile.TemporaryDirectory(prefix="attar-group-") as folder:
        processes: list[BaseProcess] = []
        receivers: list[Connection] = []
        try:
            for rank in range(num_processes):
                receiver, sender = context.Pipe(duplex=False)
                member = Member(rank, num_processes, Path(folder) / "meeting", num_threads)
                process = context.Process(
                    target=_member_main, args=(work, member, device, sender), name=f"attar-member-{rank}"
                )
                start_without_main(process)
                sender.close()
                processes.append(process)
                receivers.append(receiver)
            return _answer(receivers)
        finally:
            for process in processes:
                process.kill()
                process.join()


def start_without_main(process: BaseProcess) -> None:
    """Start a process that needs nothing of this one's main module.

    Python would run that again in it: the script `attar`, with all of the command line, or Prefect's engine: 1.1 s and 70 MB a node.
    """
    with _starting:
        main = sys.modules["__main__"]
        sys.modules["__main__"] = ModuleType("__main__")
        try:
            process.start()
        finally:
            sys.modules["__main__"] = main


def _answer(receivers: Sequence[Connection]) -> Any:
    """Hand events on until every process has told its result; return the first one's."""
    answers: dict[Connection, Any] = {}
    while len(answers) < len(receivers):
        for receiver in wait([receiver for receiver in receivers if receiver not in answers]):
            assert isinstance(receiver, Connection)
            try:
                message = receiver.recv()
            except EOFError:
                rank = receivers.index(receiver)
                raise RuntimeError(
                    f"process {rank} of {len(receivers)} ended without a result: out of memory, or killed by hand"
                ) from None
            if not isinstance(message, tuple):
                emit(message)
                continue
            verdict, content, details = message
            if verdict == "done":
                answers[receiver] = content
                continue
            error = ValueError(content) if verdict == "refused" else RuntimeError(content)
            error.add_note(details)
            raise error
    return answers[receivers[0]]


def _member_main(work: Callable[[], Any], member: Member, device: torch.device, sender: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    threading.Thread(target=_die_with_parent, daemon=True).start()
    lock = threading.Lock()

    def send(message: Any) -> None:
        with lock:
            sender.send(message)

    def tell(message: Any) -> None:
        if member.rank == 0:  # the others say the same
            send(message)

    try:
        member.join(device)
        with listen(tell):
            answer = work()
        send(("done", answer if member.rank == 0 else None, ""))
        with suppress(RuntimeError):
            torch.distributed.destroy_process_group()
    except Exception as error:  # noqa: BLE001 - whatever ended it is raised by the parent, with its traceback
        verdict = "refused" if isinstance(error, ValueError) else "failed"
        send(
            (
                verdict,
                str(error) if verdict == "refused" else f"{type(error).__name__}: {error}",
                traceback.format_exc(),
            )
        )


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(137)
