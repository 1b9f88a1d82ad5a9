"""Work in a group of processes: what it gives, what it says, and that one that fails or dies ends all."""

from __future__ import annotations

import os
import signal
from functools import partial

import psutil
import pytest
import torch

from attar.stages.runtime.process_group import run_in_group
from attar.stages.runtime.progress import Event, Note, listen, note

CPU = torch.device("cpu")


def add_ranks(text: str) -> list[int]:
    rank = torch.distributed.get_rank()
    total = torch.tensor([rank + 1])
    torch.distributed.all_reduce(total)
    note(f"{text} {rank}")
    return [rank, int(total)]


def refuse_in_second() -> None:
    if torch.distributed.get_rank() == 1:
        raise ValueError("rank is 1; accepted: 0")
    torch.distributed.barrier()


def die_in_second() -> None:
    if torch.distributed.get_rank() == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    torch.distributed.barrier()


def test_processes_add_up_and_the_first_one_speaks() -> None:
    heard: list[Event] = []
    with listen(heard.append):
        assert run_in_group(partial(add_ranks, "here is"), 2, CPU) == [0, 3]
    assert heard == [Note("here is 0")]


@pytest.mark.slow
def test_one_that_refuses_or_dies_ends_the_others() -> None:
    with pytest.raises(ValueError, match="^rank is 1; accepted: 0"):
        run_in_group(refuse_in_second, 2, CPU)
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    with pytest.raises(RuntimeError, match="process 1 of 2 ended without a result: out of memory, or killed by hand"):
        run_in_group(die_in_second, 2, CPU)
    assert {child.pid for child in psutil.Process().children(recursive=True)} <= before
