"""A runner that puts vectors before every text. Whoever decodes or scores with it hands on tokens as ever."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from attar.compressors.models.runner import ForkingRunner
from attar.compressors.models.slots import Slots

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class PrefixedRunner:
    """A runner behind `prefix_ids`, the ids of vectors that it knows: read with the first tokens of a row, kept in its cache from there."""

    def __init__(self, runner: ForkingRunner, prefix_ids: Sequence[int]) -> None:
        self.runner, self.prefix_ids = runner, prefix_ids
        self.device, self.shares_prefixes = runner.device, runner.shares_prefixes

    @property
    def torch_model(self) -> PreTrainedModel | None:
        return self.runner.torch_model

    def forward(
        self, input_ids: Int[Tensor, "B T"], attention_mask: Int[Tensor, "B S"], cache: Any, last_only: bool
    ) -> tuple[Float[Tensor, "B T V"], Any]:
        """See CausalRunner.forward. The mask is of the text alone; padding on either side stays where it is, behind the vectors."""
        num_rows, count = len(input_ids), len(self.prefix_ids)
        mask = torch.cat([attention_mask.new_ones(num_rows, count), attention_mask], dim=1)
        if cache is not None:
            return self.runner.forward(input_ids, mask, cache, last_only)
        vectors = input_ids.new_tensor(list(self.prefix_ids)).expand(num_rows, -1)
        logits, cache = self.runner.forward(torch.cat([vectors, input_ids], dim=1), mask, None, last_only)
        return (logits if last_only else logits[:, count:]), cache

    def open_slots(self, num_rows: int, num_prompt: int, num_new: int) -> Slots:
        count = len(self.prefix_ids)
        return PrefixedSlots(self.runner.open_slots(num_rows, num_prompt + count, num_new), self.prefix_ids)


@dataclass(frozen=True)
class PrefixedSlots:
    """Slots whose prompts begin with the same vectors."""

    slots: Slots
    prefix_ids: Sequence[int]

    def fill(self, rows: Sequence[int], prompts: Sequence[Sequence[int]]) -> None:
        self.slots.fill(rows, [[*self.prefix_ids, *prompt] for prompt in prompts])

    def step(self, tokens: Sequence[int], lengths: Sequence[int]) -> Float[Tensor, "B V"]:
        return self.slots.step(tokens, [length + len(self.prefix_ids) for length in lengths])

    def move(self, source: int, target: int) -> None:
        self.slots.move(source, target)
