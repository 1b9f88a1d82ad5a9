"""Round a model's matrices block by block, each block on what the rounded ones before it give."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from jaxtyping import Int
from torch import Tensor, nn

from attar.compressors.models.blocks import decoder_blocks
from attar.compressors.models.bypass import returns_tuple, stopped, without_blocks
from attar.compressors.quantize.methods import Needs
from attar.compressors.quantize.rounded import RoundedMatrix, Rounding
from attar.compressors.quantize.shared_inputs import SharedInput, Watched, recording

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Input ids and attention mask, right-padded.
TokenBatch = tuple[Int[Tensor, "B T"], Int[Tensor, "B T"]]


@torch.no_grad()
def round_blocks(
    model: PreTrainedModel,
    batches: Sequence[TokenBatch],
    rounding: Rounding,
    names: Collection[str],
    *,
    drift: float = 0.0,
) -> Iterator[tuple[str, RoundedMatrix]]:
    """Round the named products of every block in place, and yield each with its name.

    The products of a block are calibrated together on the inputs that the rounded blocks before it give, as GPTQ has it
    (https://arxiv.org/abs/2210.17323); those that read the same input are rounded as one matrix. Two passes of the batches a block,
    three with `drift`, none where the rounding needs nothing. `drift` in [0, 1]: the share that a product makes up for of what the
    blocks before it did to its inputs (https://arxiv.org/abs/2504.02692).
    Raises ValueError for inputs that are not finite, and for a product that no token reaches.
    """
    modules = {name: module for name, module in model.named_modules() if name in names}
    walk = None if rounding.needs == "nothing" else BlockWalk(model, batches, is_following=drift > 0)
    for block in decoder_blocks(model):
        inside = set(block.modules())
        taken = {name: module for name, module in modules.items() if module in inside}
        groups = [SharedInput([name]) for name in taken] if walk is None else walk.inputs_of(taken, rounding.needs)
        for group in groups:
            yield from _round_group(group, [taken[name] for name in group.names], rounding, drift)
        if walk is not None:
            walk.advance()


def _round_group(
    group: SharedInput, linears: Sequence[nn.Module], rounding: Rounding, drift: float
) -> Iterator[tuple[str, RoundedMatrix]]:
    weights: list[Tensor] = [linear.weight for linear in linears]  # type: ignore[misc]
    stacked = torch.cat([weight.float().cpu() for weight in weights])
    stacked = group.led_back(stacked, drift) if drift else stacked
    whole, start = rounding(stacked, group.mean()), 0
    for name, weight in zip(group.names, weights, strict=True):
        part = whole.rows(start, start + len(weight))
        weight.copy_(part.dequantized())
        start += len(weight)
        yield name, part


@dataclass
class BlockWalk:
    """Batches on their way through a model. `states`: what block `at` receives of each; `originals`: what it received in the original."""

    model: PreTrainedModel
    batches: Sequence[TokenBatch]
    is_following: bool = False
    at: int = 0
    states: list[Tensor] = field(default_factory=list)
    originals: list[Tensor] = field(default_factory=list)
    is_tuple: bool = False

    def __post_init__(self) -> None:
        self.is_tuple = returns_tuple(self.model)
        first = decoder_blocks(self.model)[0]
        self.states = [self._run(index, first, None, is_before=True) for index in range(len(self.batches))]
        self.originals = list(self.states) if self.is_following else []

    def inputs_of(self, linears: Mapping[str, nn.Module], needs: Needs) -> list[SharedInput]:
        """Return the inputs of products of block `at`, over all tokens that are no padding. The original's states go on behind it."""
        block = decoder_blocks(self.model)[self.at]
        watched = Watched(linears, needs)
        for index, (_, mask) in enumerate(self.batches):
            originals: dict[str, Tensor] = {}
            if self.is_following:
                with recording(linears, originals):
                    self.originals[index] = self._run(index, block, self.originals[index])
            with watched.listening(mask.bool().flatten(), originals):
                self._run(index, block, self.states[index])
        if missing := sorted(linears.keys() - watched.leaders.keys()):
            raise ValueError(f"{missing[0]} is reached by no token of the calibration text; give more of it")
        return list(watched.groups.values())

    def advance(self) -> None:
        """Take every batch through block `at`."""
        block = decoder_blocks(self.model)[self.at]
        self.states = [self._run(index, block, state) for index, state in enumerate(self.states)]
        self.at += 1

    def _run(self, index: int, until: nn.Module, state: Tensor | None, *, is_before: bool = False) -> Tensor:
        ids, mask = self.batches[index]
        passed_by = without_blocks(self.model, frozenset(), self.at, state if self.at else None, is_tuple=self.is_tuple)
        with passed_by, stopped(until, is_before=is_before) as outputs:
            self.model(input_ids=ids, attention_mask=mask, use_cache=False)
        return outputs[0]
