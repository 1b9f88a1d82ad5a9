"""Decode under classifier-free guidance with two passes a token: the teacher, and what one pass is measured against."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import overload

import torch
from jaxtyping import Float
from torch import Tensor

from attar.compressors.guidance.scores import guided_scores
from attar.compressors.models.runner import SlotSource
from attar.compressors.models.slots import Slots


@dataclass(frozen=True)
class GuidedPrompt(Sequence[int]):
    """The conditional prompt, as the sequence that `decode` takes; the unguided one and the guidance scale go along."""

    token_ids: list[int]
    unguided_ids: list[int]
    scale: float

    def __len__(self) -> int:
        return len(self.token_ids)

    @overload
    def __getitem__(self, index: int) -> int: ...
    @overload
    def __getitem__(self, index: slice) -> list[int]: ...
    def __getitem__(self, index: int | slice) -> int | list[int]:
        return self.token_ids[index]


@dataclass(frozen=True)
class TwoPassRunner:
    """A model and its unguided branch (itself, or a weaker one) side by side; `decode` over it takes `GuidedPrompt`s.

    `num_unguided`: tokens of the longest unguided prompt.
    """

    conditional: SlotSource
    unguided: SlotSource
    num_unguided: int

    def open_slots(self, num_rows: int, num_prompt: int, num_new: int) -> Slots:
        """Return a cache for each branch, under one interface."""
        return TwoPassSlots(
            self.conditional.open_slots(num_rows, num_prompt, num_new),
            self.unguided.open_slots(num_rows, self.num_unguided, num_new),
            num_rows,
        )


class TwoPassSlots:
    """Both caches; a step feeds both the same token and returns guided scores, each row under its own scale."""

    def __init__(self, conditional: Slots, unguided: Slots, num_rows: int) -> None:
        self._conditional, self._unguided = conditional, unguided
        self._rows = [_Row() for _ in range(num_rows)]

    def fill(self, rows: Sequence[int], prompts: Sequence[Sequence[int]]) -> None:
        guided = [prompt for prompt in prompts if isinstance(prompt, GuidedPrompt)]
        assert len(guided) == len(prompts), "only guided prompts say what the other branch sees"
        self._conditional.fill(rows, [prompt.token_ids for prompt in guided])
        self._unguided.fill(rows, [prompt.unguided_ids for prompt in guided])
        for row, prompt in zip(rows, guided, strict=True):
            surplus = len(prompt.unguided_ids) - len(prompt.token_ids)
            self._rows[row] = _Row(prompt.scale, surplus, prompt.unguided_ids[-1])

    def step(self, tokens: Sequence[int], lengths: Sequence[int]) -> Float[Tensor, "B V"]:
        """See Slots.step; the lengths are those of the conditional branch."""
        live = self._rows[: len(tokens)]
        conditional = self._conditional.step(tokens, lengths)
        unguided = self._unguided.step(
            [token if row.first is None else row.first for row, token in zip(live, tokens, strict=True)],
            [max(0, length + row.surplus) for row, length in zip(live, lengths, strict=True)],
        )
        for row in live:
            row.first = None
        scales = torch.tensor([row.scale for row in live], device=conditional.device)
        return guided_scores(conditional, unguided, scales)

    def move(self, source: int, target: int) -> None:
        self._conditional.move(source, target)
        self._unguided.move(source, target)
        self._rows[target] = self._rows[source]
        self._rows[source] = _Row()


@dataclass
class _Row:
    """What one row needs beside its cache cells.

    `surplus`: tokens its unguided prompt has more than its conditional one. `first`: the last token of the unguided prompt, until
    it was fed; the prompts may end differently.
    """

    scale: float = 1.0
    surplus: int = 0
    first: int | None = None
