"""Measure what cuts lose, each made by itself on a few texts. A run begins at the first block that a cut changes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from attar.compressors.models.bypass import returns_tuple, without_blocks
from attar.compressors.prune.depth.calibration import Batch
from attar.compressors.prune.depth.removal import RemovalMetric, batch_logits, summed_loss
from attar.compressors.prune.depth.scan import residual_stream
from attar.compressors.prune.depth.seam import silent_parts
from attar.compressors.prune.hidden.cut import KeptChannels, fewer_channels
from attar.compressors.prune.width.cut import KeptUnits, silenced

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Cut(Protocol):
    """What can be taken out of a model for the length of one run: whole blocks, and what `applied` takes."""

    @property
    def first(self) -> int:
        """The first block that it changes."""
        ...

    @property
    def blocks(self) -> frozenset[int]:
        """Whole blocks that are left out."""
        ...

    def applied(self, model: PreTrainedModel) -> AbstractContextManager[None]:
        """Return the context in which the model runs without the rest of it."""
        ...


@dataclass(frozen=True)
class WithoutParts:
    """Whole blocks, and attention and feed-forward parts by themselves."""

    blocks: frozenset[int] = frozenset()
    attention: frozenset[int] = frozenset()
    feed_forward: frozenset[int] = frozenset()

    @property
    def first(self) -> int:
        """The first block that is changed."""
        return min(self.attention | self.feed_forward | self.blocks)

    def applied(self, model: PreTrainedModel) -> AbstractContextManager[None]:
        return silent_parts(model, self.attention, self.feed_forward)


@dataclass(frozen=True)
class WithoutUnits:
    """All but some channels or KV groups of every block."""

    channels: KeptUnits | None = None
    groups: KeptUnits | None = None
    first: int = 0
    blocks: frozenset[int] = frozenset()

    def applied(self, model: PreTrainedModel) -> AbstractContextManager[None]:
        return silenced(model, channels=self.channels, groups=self.groups)


@dataclass(frozen=True)
class NarrowStream:
    """All but some channels of the residual stream."""

    stream: KeptChannels
    first: int = 0
    blocks: frozenset[int] = frozenset()

    def applied(self, model: PreTrainedModel) -> AbstractContextManager[None]:
        return fewer_channels(model, self.stream)


class Probe:
    """A few texts with the whole model's logits, and its states before each block, from which every cut goes on."""

    @torch.no_grad()
    def __init__(self, model: PreTrainedModel, batches: Sequence[Batch], metric: RemovalMetric) -> None:
        self.model, self.batches, self.metric = model, batches, metric
        self.is_tuple = returns_tuple(model)
        self.states: list[list[Tensor]] = []
        self.logits: list[Tensor] = []
        for batch in batches:
            with residual_stream(model) as states:
                self.logits.append(batch_logits(model, batch))
            self.states.append(states)

    @property
    def num_tokens(self) -> int:
        """Number of tokens whose prediction counts."""
        return sum(int(batch.predicted.sum()) for batch in self.batches)

    @torch.no_grad()
    def losses(self, cuts: Sequence[Cut], on_run: Callable[[int], None] = lambda count: None) -> list[float]:
        """Return what each cut loses by itself, in nats a token."""
        return [self._loss(cut, on_run) for cut in cuts]

    def _loss(self, cut: Cut, on_run: Callable[[int], None]) -> float:
        total = 0.0
        for batch, states, original in zip(self.batches, self.states, self.logits, strict=True):
            entered = without_blocks(self.model, cut.blocks, cut.first, states[cut.first], is_tuple=self.is_tuple)
            with entered, cut.applied(self.model):
                logits = batch_logits(self.model, batch)
            total += summed_loss(self.metric, batch, original, logits)
            on_run(1)
        return total / self.num_tokens
