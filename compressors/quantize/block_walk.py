"""Round a model's matrices block by block, each block on what the rounded ones before it give."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from attar.compressors.models.blocks import decoder_blocks
from attar.compressors.models.bypass import returns_tuple, stopped, without_blocks
from attar.compressors.quantize.methods import Needs
from attar.compressors.quantize.rounded import RoundedMatrix, Rounding

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Input ids and attention mask, right-padded.
TokenBatch = tuple[Int[Tensor, "B T"], Int[Tensor, "B T"]]


@torch.no_grad()
def round_blocks(
    model: PreTrainedModel, batches: Sequence[TokenBatch], rounding: Rounding, names: Collection[str]
) -> Iterator[tuple[str, RoundedMatrix]]:
    """Round the named products of every block in place, and yield each with its name.

    The products of a block are calibrated together on the inputs that the rounded blocks before it give, as GPTQ has it
    (https://arxiv.org/abs/2210.17323); those that read the same input are rounded as one matrix. Two passes of the batches a block,
    none where the rounding needs nothing. Raises ValueError for inputs that are not finite, and for a product that no token reaches.
    """
    modules = {name: module for name, module in model.named_modules() if name in names}
    walk = None if rounding.needs == "nothing" else BlockWalk(model, batches)
    for block in decoder_blocks(model):
        inside = set(block.modules())
        taken = {name: module for name, module in modules.items() if module in inside}
        groups = _alone(taken) if walk is None else walk.inputs_of(taken, rounding.needs)
        for group in groups:
            linears = [taken[name] for name in group.names]
            yield from _round_group(group, linears, rounding)
        if walk is not None:
            walk.advance()


def _round_group(group: SharedInput, linears: Sequence[nn.Module], rounding: Rounding) -> Iterator[tuple[str, RoundedMatrix]]:
    weights = [linear.weight for linear in linears]
    stacked = torch.cat([weight.float().cpu() for weight in weights])  # type: ignore[union-attr, operator]
    whole, start = rounding(stacked, group.mean()), 0
    for name, weight in zip(group.names, weights, strict=True):
        part = whole.rows(start, start + len(weight))  # type: ignore[arg-type]
        weight.copy_(part.dequantized())  # type: ignore[union-attr, operator]
        start += len(weight)  # type: ignore[arg-type]
        yield name, part


@dataclass
class SharedInput:
    """Products that read the same values, and the sum of these values' moments (or powers) over tokens."""

    names: list[str]
    total: Tensor | None = None
    num_tokens: int = 0

    def add(self, rows: Float[Tensor, "N K"], needs: Needs) -> None:
        """Add some tokens."""
        rows = rows.float()
        part = (rows.square().sum(0) if needs == "powers" else rows.T @ rows).cpu()
        self.total = part if self.total is None else self.total.add_(part)
        self.num_tokens += len(rows)

    def mean(self) -> Tensor | None:
        """Return E[x x^T] or E[x^2]. Raises ValueError where a value is not finite."""
        if self.total is None:
            return None
        if not bool(torch.isfinite(self.total).all()):
            raise ValueError(f"{self.names[0]} reads values that are not finite on the calibration text")
        return self.total / self.num_tokens


def _alone(linears: Collection[str]) -> list[SharedInput]:
    return [SharedInput([name]) for name in linears]


@dataclass
class BlockWalk:
    """Batches on their way through a model. `states`: what block `at` receives of each."""

    model: PreTrainedModel
    batches: Sequence[TokenBatch]
    at: int = 0
    states: list[Tensor] = field(default_factory=list)
    is_tuple: bool = False

    def __post_init__(self) -> None:
        self.is_tuple = returns_tuple(self.model)
        first = decoder_blocks(self.model)[0]
        self.states = [self._run(index, first, is_before=True) for index in range(len(self.batches))]

    def inputs_of(self, linears: dict[str, nn.Module], needs: Needs) -> list[SharedInput]:
        """Return the inputs of products of block `at`, over all tokens that are no padding."""
        block = decoder_blocks(self.model)[self.at]
        watched = _Watched(linears, needs)
        for index, (_, mask) in enumerate(self.batches):
            with watched.listening(mask.bool().flatten()):
                self._run(index, block)
        if missing := sorted(linears.keys() - watched.leaders.keys()):
            raise ValueError(f"{missing[0]} is reached by no token of the calibration text; give more of it")
        return list(watched.groups.values())

    def advance(self) -> None:
        """Take every batch through block `at`."""
        block = decoder_blocks(self.model)[self.at]
        self.states = [self._run(index, block) for index in range(len(self.batches))]
        self.at += 1

    def _run(self, index: int, until: nn.Module, *, is_before: bool = False) -> Tensor:
        ids, mask = self.batches[index]
        state = self.states[index] if self.at else None
        passed_by = partial(without_blocks, self.model, frozenset(), self.at, state, is_tuple=self.is_tuple)
        with passed_by(), stopped(until, is_before=is_before) as outputs:
            self.model(input_ids=ids, attention_mask=mask, use_cache=False)
        return outputs[0]


@dataclass
class _Watched:
    linears: dict[str, nn.Module]
    needs: Needs
    groups: dict[str, SharedInput] = field(default_factory=dict)
    # by each product's name, that of the first one that reads the same values
    leaders: dict[str, str] = field(default_factory=dict)

    @contextmanager
    def listening(self, keep: Tensor) -> Iterator[None]:
        seen: dict[int, tuple[Tensor, str]] = {}  # tensors too: an id is free again once its tensor is gone

        def hear(name: str, module: nn.Module, args: tuple[Tensor, ...]) -> None:
            values, leader = args[0], seen.setdefault(id(args[0]), (args[0], name))[1]
            group = self.groups.setdefault(leader, SharedInput([leader]))
            if self.leaders.setdefault(name, leader) != leader:
                raise ValueError(f"{name} reads other values in one text than in another")
            if name != leader:
                group.names += [name] if name not in group.names else []
                return
            rows = values.reshape(-1, values.shape[-1])
            # an expert of its own sees the tokens that were sent to it, padding is none of them to speak of
            group.add(rows[keep.to(rows.device)] if len(rows) == len(keep) else rows, self.needs)

        hooks = [module.register_forward_pre_hook(partial(hear, name)) for name, module in self.linears.items()]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()
