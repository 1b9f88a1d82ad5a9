"""Training-free repair of a cut, block by block: least squares leads each kept block back to the original's states."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from attar.compressors.models.blocks import decoder_blocks
from attar.compressors.models.bypass import returns_tuple, stopped, without_blocks
from attar.compressors.models.exits import MatrixExit, attention_exit, feed_forward_part
from attar.compressors.prune.depth.scan import last_logits_only

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from attar.compressors.models.exits import Exit

# Input ids and attention mask, right-padded.
TokenBatch = tuple[Int[Tensor, "B T"], Int[Tensor, "B T"]]
# What a block's parts may differ from its whole by, relative to the whole: rounding in bf16, far below a norm or a gate in between.
SUM_TOLERANCE = 3e-2


@dataclass(frozen=True)
class Matches:
    """Blocks of a student and of its original. For each kept block: what it was, and after which block it should give the same state.

    `was` names the block of its attention part, `feed_forward` that of its feed-forward part: the same block, but for seams.
    """

    was: tuple[int, ...]
    upto: tuple[int, ...]
    feed_forward: tuple[int, ...] = ()

    @staticmethod
    def of_removed(num_blocks: int, removed: Sequence[int]) -> Matches:
        """Return them for a model without some blocks. Each kept block also does the work of the removed ones behind it."""
        was = tuple(index for index in range(num_blocks) if index not in set(removed))
        return Matches.of_pairs(num_blocks, was, was)

    @staticmethod
    def of_pairs(num_blocks: int, attention: Sequence[int], feed_forward: Sequence[int]) -> Matches:
        """Return them for blocks made of these attention parts, each with a feed-forward part at or behind it."""
        upto = (*(following - 1 for following in attention[1:]), num_blocks - 1)
        return Matches(tuple(attention), upto, tuple(feed_forward))

    @property
    def middle(self) -> tuple[int, ...]:
        """For each kept block, the original block whose state between attention and feed-forward part it should give too."""
        return self.feed_forward or self.was

    @property
    def first(self) -> int:
        """The first kept block whose state is not the original's any more; the number of blocks when there is none."""
        rows = enumerate(zip(self.was, self.middle, self.upto, strict=True))
        return next((index for index, row in rows if {*row} != {index}), len(self.was))


@dataclass(frozen=True)
class BlockFit:
    """One refitted block. The fraction in [0, 1] of its last matrix' squared error that remains."""

    block_index: int
    residual_fraction: float


@torch.no_grad()
def refit_blocks(
    original: PreTrainedModel,
    student: PreTrainedModel,
    batches: Sequence[TokenBatch],
    matches: Matches,
    *,
    ridge: float,
    first: int,
    result: PreTrainedModel | None = None,
    channels: Callable[[Tensor], Tensor] | None = None,
) -> Iterator[BlockFit]:
    """Refit the student's blocks from `first` on, in place, each on what the ones before it now give. Yield after each.

    With a what a block's last attention (then feed-forward) matrix W reads in the student, and e what the state behind it lacks of the
    original's, minimise the sum over tokens of ||a M - e||^2 / |original's state| + ridge * mean(a^2) * ||M||^2 and add M to W. This
    carries the layer-wise reconstruction of GPTQ (https://arxiv.org/abs/2210.17323) over from rounding to removed blocks, as
    ReplaceMe (https://arxiv.org/abs/2505.02819) does for the one block before a window. Dividing by the norm keeps tokens with massive
    activations from outweighing all others together. Where experts make several last matrices, a is their output and M goes into all.
    `result`: the same model in the dtype it is to be kept in; it gets the same updates, unrounded. `channels`: what a student with a
    narrower stream holds of the original's states. Memory: two states and the inputs of one matrix for every token, and O(inputs^2).

    Raises ValueError for families whose blocks are no plain sum of state, attention and feed-forward part.
    """
    walk = Walk(original, batches, matches.was[first])
    held = channels or _all_channels
    # what lies before the first block that changed is the original's
    is_same = matches.was[first] == first and channels is None
    ours = Walk(student, batches, first, states=walk.states if is_same else None)
    result = student if result is None else result
    for index in range(first, len(matches.was)):
        walk.advance_to(matches.middle[index])  # behind a seam another block
        targets = [held(state) for state in walk.advance()]
        ends = [MatrixExit(attention_exit(model, index)) for model in (student, result)]
        _fit_attention(ours, targets, ends, ridge)
        walk.advance_to(matches.upto[index] + 1)
        targets = [held(state) for state in walk.states]
        exits = [feed_forward_part(model, index) for model in (student, result)]
        equations, passed = Equations(), []
        for i, (_, mask) in enumerate(batches):
            inputs, state = ours.through_block(i, exits[0])
            passed.append((inputs, state))
            equations.add(inputs, targets[i] - state, targets[i], mask.bool())
        change, residual_fraction = equations.update(exits, ridge)
        ours.move_on([(state.float() + inputs.float() @ change).to(state.dtype) for inputs, state in passed])
        yield BlockFit(index, residual_fraction)


def _fit_attention(ours: Walk, targets: Sequence[Tensor], exits: Sequence[MatrixExit], ridge: float) -> None:
    """Fit the last attention matrix of the block before which `ours` stands, so that the states behind it near the targets."""
    equations = Equations()
    for i, (_, mask) in enumerate(ours.batches):
        inputs = ours.inputs_of(i, exits[0])
        lacking = targets[i] - ours.state_after_attention(i, inputs)
        equations.add(inputs, lacking, targets[i], mask.bool())
    equations.update(exits, ridge)


def _all_channels(state: Tensor) -> Tensor:
    return state


class Walk:
    """Batches on their way through a model. `states` holds what block `at` receives of each, or what the last one gave.

    `states`: what block `at` receives, where that is known.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        batches: Sequence[TokenBatch],
        at: int,
        states: Sequence[Float[Tensor, "B T D"]] | None = None,
    ) -> None:
        self.model, self.batches, self.at = model, batches, 0
        self.is_tuple = returns_tuple(model)
        # Granite scales what a part of a block adds to the state
        self.scale = float(getattr(model.config, "residual_multiplier", 1.0))
        self.states: list[Tensor] = []
        before = decoder_blocks(model)[at]
        indices = range(len(batches))
        self.states = list(states or [self._run(index, before, is_before=True) for index in indices])
        self.at = at
        _check_is_sum(self)

    def inputs_of(self, index: int, attention: MatrixExit) -> Float[Tensor, "B T I"]:
        """Return what the last attention matrix of block `at` reads, times what the family scales its output by."""
        inputs = self._run(index, attention.matrix, is_before=True)
        return inputs.reshape(*self.batches[index][0].shape, -1) * self.scale  # OPT flattens batch and tokens

    def state_after_attention(self, index: int, inputs: Tensor | None = None) -> Float[Tensor, "B T D"]:
        """Return the state between the attention and the feed-forward part of block `at`. `inputs`: of its exit, where they are known."""
        attention = MatrixExit(attention_exit(self.model, self.at))
        inputs = self.inputs_of(index, attention) if inputs is None else inputs
        return self.states[index] + attention.apply(inputs)

    def through_block(self, index: int, exit_: Exit) -> tuple[Float[Tensor, "B T I"], Float[Tensor, "B T D"]]:
        """Return what an exit of block `at` reads, scaled, and the state behind the block."""
        read: list[Tensor] = []
        hook = exit_.watch(read.append)
        try:
            state = self._run(index, decoder_blocks(self.model)[self.at])
        finally:
            hook.remove()
        return read[0].reshape(*state.shape[:2], -1) * self.scale, state

    def advance(self) -> list[Float[Tensor, "B T D"]]:
        """Take every batch through block `at`; return the states between its attention and its feed-forward part."""
        attention = MatrixExit(attention_exit(self.model, self.at))
        passed = [self.through_block(index, attention) for index in range(len(self.batches))]
        between = [state + attention.apply(inputs) for state, (inputs, _) in zip(self.states, passed, strict=True)]
        self.move_on([state for _, state in passed])
        return between

    def advance_to(self, index: int) -> None:
        """Take every batch on until it stands before block `index`."""
        while self.at < index:
            self.advance()

    def move_on(self, states: list[Tensor]) -> None:
        """Go on behind block `at`, with these states."""
        self.states, self.at = states, self.at + 1

    def _run(self, index: int, until: nn.Module, *, is_before: bool = False) -> Tensor:
        ids, mask = self.batches[index]
        state = self.states[index] if self.at else None
        passed_by = partial(without_blocks, self.model, frozenset(), self.at, state, is_tuple=self.is_tuple)
        with passed_by(), stopped(until, is_before=is_before) as outputs:
            self.model(input_ids=ids, attention_mask=mask, use_cache=False, **last_logits_only(self.model))
        return outputs[0]


class Equations:
    """Weighted normal equations of one matrix, summed over batches."""

    def __init__(self) -> None:
        self.gram: Tensor | None = None
        self.cross: Tensor | None = None
        self.total = 0.0

    def add(
        self,
        inputs: Float[Tensor, "B T I"],
        error: Float[Tensor, "B T D"],
        target: Float[Tensor, "B T D"],
        keep: Bool[Tensor, "B T"],
    ) -> None:
        """Add the tokens of one batch. What the matrix reads, what the state behind it lacks, and the state it should be."""
        weight = (
            target[keep].float().norm(dim=-1, keepdim=True).clamp(min=1e-12).rsqrt()
        )  # squared along with the error
        read, lacking = inputs[keep].float() * weight, error[keep].float() * weight
        gram, cross = read.T @ read, read.T @ lacking
        self.gram = gram if self.gram is None else self.gram.add_(gram)
        self.cross = cross if self.cross is None else self.cross.add_(cross)
        self.total += float(lacking.double().pow(2).sum())

    def update(self, exits: Sequence[Exit], ridge: float) -> tuple[Float[Tensor, "I D"], float]:
        """Add the solution to each of the exits, the same in several dtypes. Return it and the fraction of squared error it leaves."""
        assert self.gram is not None and self.cross is not None, "add first"
        gram, cross = self.gram.double(), self.cross.double()
        penalty = ridge * gram.diagonal().mean().clamp(min=1e-30)
        change = torch.linalg.solve(gram + penalty * torch.eye(len(gram), dtype=gram.dtype, device=gram.device), cross)
        # ||e - a M||^2 = ||e||^2 - 2 <M, a'e> + <M, a'a M>
        left = self.total - 2.0 * float((change * cross).sum()) + float((change * (gram @ change)).sum())
        for entry in dict.fromkeys(exits):
            entry.add(change)
        return change.float(), left / max(self.total, 1e-30)


def _check_is_sum(walk: Walk) -> None:
    """Raise ValueError unless the block's state is what it receives plus what its two last matrices give: else no update of them fits."""
    model, index = walk.model, walk.at
    last = feed_forward_part(model, index)
    inputs, whole = walk.through_block(0, last)
    parts = walk.state_after_attention(0) + last.apply(inputs)
    keep = walk.batches[0][1].bool()
    error = float((parts - whole)[keep].float().norm() / whole[keep].float().norm().clamp(min=1e-12))
    if not error <= SUM_TOLERANCE:
        raise ValueError(
            f"{type(model).__name__}: a block is not the sum of its state, attention and feed-forward part; it cannot be refitted"
        )
