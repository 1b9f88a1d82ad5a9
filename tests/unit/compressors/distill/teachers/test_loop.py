"""Steps: the same however they are split, over micro-batches and over processes; teachers that are the student itself; rollouts."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState

from attar.compressors.distill.losses.composite import Distil
from attar.compressors.distill.losses.divergences.kullback import ForwardKL
from attar.compressors.distill.losses.reduction import Reduction
from tests.unit.compressors.distill.teachers.small_training import (
    EXAMPLES,
    trainer,
)


def gradients_and_losses(
    tokens_per_micro_batch: int, accelerator: Accelerator
) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    run = trainer(tokens_per_micro_batch, accelerator)
    gradients: dict[str, torch.Tensor] = {}
    step = run.optimizer.step

    def keep(*args: object, **kwargs: object) -> object:
        gradients.update({n: p.grad.clone() for n, p in run.plain_student.named_parameters() if p.grad is not None})
        return step(*args, **kwargs)

    run.optimizer.step = keep  # type: ignore[method-assign]
    record = next(run.run())
    return gradients, record.losses


def test_eight_batches_of_one_are_one_batch_of_eight() -> None:
    """Every kind of objective: routes under one denominator, means over the step, groups, targets with a kept past."""
    whole, small = gradients_and_losses(10_000, Accelerator(cpu=True)), gradients_and_losses(1, Accelerator(cpu=True))
    assert whole[0].keys() == small[0].keys() and max(float(table.abs().max()) for table in whole[0].values()) > 1e-3
    for name, gradient in whole[0].items():
        torch.testing.assert_close(small[0][name], gradient, atol=1e-6, rtol=1e-4)
    assert small[1] == pytest.approx(whole[1], abs=1e-6)


def test_routes_share_one_denominator() -> None:
    """What one route loses the other gains: together they are divided by every token, wherever each sequence goes."""
    run = trainer(10_000, Accelerator(cpu=True))
    num_tokens = sum(len(example.answer_ids) for example in EXAMPLES)
    plain = Distil(divergence=ForwardKL())
    wrong, right = Distil(divergence=ForwardKL(), route="wrong"), Distil(divergence=ForwardKL(), route="correct")
    run.reduction = Reduction(
        {"all": plain, "wrong": wrong, "right": right}, dict.fromkeys(("all", "wrong", "right"), 1.0)
    )
    losses = next(run.run()).losses
    assert losses["wrong"] > 0 and losses["right"] > 0 and num_tokens > 8
    assert losses["wrong"] + losses["right"] == pytest.approx(losses["all"], abs=1e-6)


def _in_process(rank: int, port: int, folder: str) -> None:
    import os

    torch.set_num_threads(1)
    _reset_accelerator()  # a fork has the state of the process that it was made from
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "ACCELERATE_USE_CPU": "true",
    }
    accelerator = Accelerator(cpu=True)
    assert accelerator.num_processes == 2
    outcome = gradients_and_losses(12, accelerator)
    torch.save(outcome, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()
    os._exit(0)  # Python's own end of a fork calls what the parent's threads registered, which did not come along


def test_two_processes_take_the_step_that_one_takes(tmp_path: Path) -> None:
    whole = gradients_and_losses(10_000, Accelerator(cpu=True))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.start_processes(_in_process, args=(port, str(tmp_path)), nprocs=2, start_method="fork")
    for rank in range(2):
        gradients, losses = torch.load(tmp_path / f"{rank}.pt")
        assert losses == pytest.approx(whole[1], abs=1e-6)
        names = {name.removeprefix("module."): value for name, value in gradients.items()}
        for name, gradient in whole[0].items():
            torch.testing.assert_close(names[name], gradient, atol=1e-6, rtol=1e-4)


@pytest.fixture(autouse=True)
def _fresh_accelerator() -> None:
    _reset_accelerator()


def _reset_accelerator() -> None:
    AcceleratorState._reset_state()
    PartialState._reset_state()
