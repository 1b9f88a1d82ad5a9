"""Trainings that are killed in the middle: in a fork of this process, which has imported all that a process of its own would wait for."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from attar.stages.finetune.saved_steps import CHECKPOINT

FORK = multiprocessing.get_context("fork")
LONGEST_SECONDS = 120.0


def kill_after_step(train: Callable[[], object], root: Path, min_step: int) -> int:
    """SIGKILL a training once its checkpoint has reached a step; return the step of the last whole checkpoint under `root`."""
    process = FORK.Process(target=train)
    process.start()
    deadline = time.monotonic() + LONGEST_SECONDS
    while time.monotonic() < deadline and process.is_alive():
        for path in root.glob(f"work/*/{CHECKPOINT}"):
            if step_of(path) >= min_step:
                assert process.pid is not None
                os.kill(process.pid, signal.SIGKILL)
                process.join()
                return step_of(path)
    pytest.fail(f"no checkpoint of step {min_step} before the process ended ({process.exitcode})")


def step_of(checkpoint: Path) -> int:
    return int(torch.load(checkpoint, weights_only=True)["trainer"]["step"])
