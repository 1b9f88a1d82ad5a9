"""Outlive a flow's process by a moment. Once it is gone, however it went, end every process that it or its stages have started.

A stage may start processes in sessions of their own (torchrun, accelerate launch, an inference server). A signal to the flow's process
group does not reach those; this watcher, in a session of its own too, finds them by the mark they have inherited.

python -m attar.stages.runtime.reaper PID CREATED
"""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import suppress

import psutil

from attar.registry.artifacts.process_start import is_same_process, start_of
from attar.stages.runtime.orphans import OWNER, end_orphans

ZOMBIE_SECONDS = 2.0


def watch_over_this_process() -> None:
    """Start a watcher that waits for the end of this process. Call after `claim_children`, once a process."""
    created = start_of(os.getpid())
    subprocess.Popen(
        [sys.executable, "-m", "attar.stages.runtime.reaper", str(os.getpid()), repr(created)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        # without the mark: another run that looks for orphans must not end the watcher before it has done its work
        env={name: value for name, value in os.environ.items() if name != OWNER},
    )


def wait_and_reap(pid: int, created: float) -> int:
    """Wait until the process is gone, then end what carries its mark; return how many that were."""
    try:
        process = psutil.Process(pid)
        while is_same_process(pid, created) and process.status() != psutil.STATUS_ZOMBIE:
            with suppress(psutil.TimeoutExpired):  # a zombie that its parent does not collect never ends
                process.wait(ZOMBIE_SECONDS)
    except psutil.NoSuchProcess:
        pass
    num_ended = 0
    # twice: a process may have been starting another one while the first round looked
    for _ in range(2):
        num_ended += end_orphans()
    return num_ended


if __name__ == "__main__":
    wait_and_reap(int(sys.argv[1]), float(sys.argv[2]))
