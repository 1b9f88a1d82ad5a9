"""Flow runs of a pool in forks of the tests' process, where all imports are done. A worker starts this file, which hands its run over and waits.

python -S nursery.py SOCKET
"""

from __future__ import annotations

import json
import os
import shlex
import socket
import sys
from contextlib import suppress
from pathlib import Path

MAX_BYTES = 1 << 20


class Nursery:
    """A process that waits for runs, forked from this one. Its runs do what a worker's do; whoever ends one does not reach it."""

    def __init__(self, folder: Path) -> None:
        from attar.stages.process import start_fork_server  # as all of ours: the worker's program has no use for it
        from tests.system.forked import FORK

        start_fork_server()  # the stages of all runs come from this process's
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        listener.bind(str(folder / "nursery"))
        listener.listen()
        self.command = shlex.join([sys.executable, "-S", __file__, str(folder / "nursery")])
        self._process = FORK.Process(target=_wait_for_runs, args=(listener,))
        self._process.start()
        listener.close()

    def end(self) -> None:
        self._process.kill()
        self._process.join()


def _wait_for_runs(listener: socket.socket) -> None:
    while True:
        channel, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            _answer(channel)
        channel.close()
        with suppress(ChildProcessError):
            os.waitpid(-1, os.WNOHANG)


def _answer(channel: socket.socket) -> None:
    """Run what the worker's program has sent, and send how it ended."""
    from tests.system.forked import enter, run_engine

    message, outputs, *_ = socket.recv_fds(channel, MAX_BYTES, 2)
    environment, folder = json.loads(message)
    if (run := os.fork()) == 0:
        os.setsid()
        enter(run_engine, environment, (), Path(folder), *outputs)
    _, status = os.waitpid(run, 0)
    channel.send(str(os.waitstatus_to_exitcode(status)).encode())
    os._exit(0)


def hand_over(path: str) -> int:
    """Hand this process's environment and output to the nursery; return how the run ended."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as channel:
        channel.connect(path)
        socket.send_fds(channel, [json.dumps([dict(os.environ), os.getcwd()]).encode()], [1, 2])
        return int(channel.recv(16) or b"1")


if __name__ == "__main__":
    sys.exit(hand_over(sys.argv[1]))
