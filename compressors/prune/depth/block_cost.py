"""What each decoder block costs, and the rest of the model: parameters, FLOPs a token, seconds a decoded token."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from attar.compressors.measure.cost import (
    MAX_APART,
    Spread,
    flops_per_token,
    num_matmul_parameters,
    num_parameters,
)
from attar.compressors.models.blocks import decoder_blocks
from attar.compressors.models.experts import idle_parameters
from attar.compressors.models.runner import TorchRunner

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# What of a model a budget can limit.
QUANTITIES = ("parameters", "flops", "latency")


@dataclass(frozen=True)
class Costs:
    """One quantity: of each block, in order, and of all that is no block (embeddings, last norm, output head)."""

    blocks: tuple[float, ...]
    rest: float

    @property
    def total(self) -> float:
        """Cost of the whole model."""
        return sum(self.blocks) + self.rest


def counted_costs(model: PreTrainedModel, num_context_tokens: int) -> dict[str, Costs]:
    """Return `parameters`, and `flops` to decode one token with `num_context_tokens` in the cache."""
    blocks = decoder_blocks(model)
    parameters = tuple(float(sum(p.numel() for p in block.parameters())) for block in blocks)
    matrices = [
        sum(p.numel() for p in block.parameters() if p.ndim >= 2) - num_idle
        for block, num_idle in zip(blocks, idle_parameters(model), strict=True)
    ]
    total = flops_per_token(num_matmul_parameters(model), model.config, num_context_tokens)
    attention = (total - 2.0 * num_matmul_parameters(model)) / len(blocks)
    flops = tuple(2.0 * count + attention for count in matrices)
    return {
        "parameters": Costs(parameters, num_parameters(model) - sum(parameters)),
        "flops": Costs(flops, total - sum(flops)),
    }


def measured_latency(
    model: PreTrainedModel,
    *,
    num_context_tokens: int,
    num_rounds: int = 15,
    modules: Sequence[nn.Module] = (),
    on_round: Callable[[], None] = lambda: None,
) -> dict[str, Costs]:
    """Return the seconds of each block, and of the rest, while one token is decoded after `num_context_tokens`, batch 1.

    `latency` holds the medians of the rounds, `latency_low` and `latency_high` the quartiles around them.
    `modules`: what is timed instead of the blocks, in the order in which it runs.
    """
    runner, device = TorchRunner(model), model.device
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(model.config.vocab_size, (1, num_context_tokens + 1), generator=generator).to(device)
    rounds: list[list[float]] = []
    _, cache = runner.forward(ids[:, :-1], torch.ones_like(ids[:, :-1]), None, last_only=True)
    mask = torch.ones_like(ids)
    for _ in range(num_rounds + 1):
        with _module_seconds(modules or decoder_blocks(model), device) as seconds:
            started = _now(device)
            _, cache = runner.forward(ids[:, -1:], mask, cache, last_only=True)
            whole = _now(device) - started
        rounds.append([*seconds, whole - sum(seconds)])
        mask = torch.cat([mask, mask.new_ones(1, 1)], dim=1)
        on_round()
    *blocks, rest = (Spread.of(values) for values in zip(*rounds[1:], strict=True))  # the first warms up
    names = {"latency": "median", "latency_low": "low", "latency_high": "high"}
    return {
        name: Costs(tuple(getattr(block, end) for block in blocks), getattr(rest, end)) for name, end in names.items()
    }


def unlike_blocks(model: PreTrainedModel, latency: Costs) -> tuple[int, int] | None:
    """Return the slowest and the quickest block of one shape where they are more than a third apart. The machine was busy then."""
    by_shape: dict[tuple[str, tuple[torch.Size, ...]], list[int]] = {}
    for index, block in enumerate(decoder_blocks(model)):
        shapes = tuple(parameter.shape for parameter in block.parameters())
        by_shape.setdefault((type(block).__name__, shapes), []).append(index)
    pairs = [
        (max(some, key=latency.blocks.__getitem__), min(some, key=latency.blocks.__getitem__))
        for some in by_shape.values()
    ]
    slowest, quickest = max(pairs, key=lambda pair: latency.blocks[pair[0]] / latency.blocks[pair[1]])
    is_apart = latency.blocks[quickest] < (1.0 - MAX_APART) * latency.blocks[slowest]
    return (slowest, quickest) if is_apart else None


@contextmanager
def _module_seconds(modules: Iterable[nn.Module], device: torch.device) -> Iterator[list[float]]:
    seconds: list[float] = []
    started = [0.0]

    def before(module: nn.Module, args: tuple) -> None:
        started[0] = _now(device)

    def after(module: nn.Module, args: tuple, output: object) -> None:
        seconds.append(_now(device) - started[0])

    hooks = [hook for m in modules for hook in (m.register_forward_pre_hook(before), m.register_forward_hook(after))]
    try:
        yield seconds
    finally:
        for hook in hooks:
            hook.remove()


def _now(device: torch.device) -> float:
    if device.type != "cpu":
        torch.accelerator.synchronize()  # kernels run behind the clock otherwise
    return time.perf_counter()
