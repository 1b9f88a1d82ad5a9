"""What a KV cache with a slot a row can do. A finished row's slot is given to the next prompt, and nothing is copied to grow.

Rows end at a common column and begin wherever their length says, which is left padding:

    row 0  . . a b c d          one step writes one column for all rows;
    row 1  a b c d e f          the model sees the columns of the longest live row, no more
    row 2  . . . . a b
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

# Prompt tokens of one forward pass; more would only cost memory.
MAX_PREFILL_TOKENS = 8192


# CausalRunner.forward: (input ids, attention mask, cache, whether the last token's logits are enough) to (logits, cache)
Forward = Callable[[Tensor, Tensor, Any, bool], tuple[Tensor, Any]]


class Slots(Protocol):
    """The cache of the rows being decoded. A row is addressed by its position in the batch."""

    def fill(self, rows: Sequence[int], prompts: Sequence[Sequence[int]]) -> None:
        """Give these rows to new prompts: read all their tokens but the last, which is the first to be stepped."""
        ...

    def step(self, tokens: Sequence[int], lengths: Sequence[int]) -> Float[Tensor, "B V"]:
        """Feed one token to each of the first rows, `lengths` tokens being there before it; return the next-token logits."""
        ...

    def move(self, source: int, target: int) -> None:
        """Let the row `source` take the place of `target`."""
        ...


class RaggedSlots(Slots, Protocol):
    """Slots that take several tokens of a row in one pass, and none of another."""

    def read(self, tokens: Sequence[Sequence[int]], lengths: Sequence[int]) -> Float[Tensor, "N V"]:
        """Feed tokens to each of the first rows; return the logits behind every token, row after row.

        `lengths` tokens are there before. What was fed and is not counted in the next `lengths` is forgotten.
        """
        ...


class RaggedSource(Protocol):
    """What drafts need of a model: passes that take several tokens of a row."""

    device: torch.device

    def open_ragged(self, num_rows: int, num_prompt: int, num_new: int) -> RaggedSlots | None:
        """Return an empty cache of the same kind for ragged rows; None where the model's attention does not take them."""
        ...


def prefill_chunks(
    rows: Sequence[int], prompts: Sequence[Sequence[int]], max_tokens: int = MAX_PREFILL_TOKENS
) -> list[list[tuple[int, Sequence[int]]]]:
    """Return (row, prompt) pairs in groups that one forward pass takes. Prompts of one token need none and are left out."""
    pairs = [(row, prompt) for row, prompt in zip(rows, prompts, strict=True) if len(prompt) > 1]
    if not pairs:
        return []
    size = max(1, max_tokens // max(len(prompt) for _, prompt in pairs))
    return [pairs[start : start + size] for start in range(0, len(pairs), size)]


def window_mask(lengths: Int[Tensor, "B 1"], num_columns: int) -> Int[Tensor, "B S"]:
    """Return the mask of rows that have `lengths` tokens before the last of `num_columns` columns, and one in it."""
    columns = torch.arange(num_columns, device=lengths.device)
    return (columns >= num_columns - 1 - lengths).long()


def pad_left(rows: Sequence[Sequence[int]], device: torch.device) -> tuple[Int[Tensor, "B T"], Int[Tensor, "B T"]]:
    """Return (input ids, attention mask) with the padding before the tokens."""
    width = max(len(row) for row in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for index, row in enumerate(rows):
        ids[index, width - len(row) :] = torch.tensor(row)
        mask[index, width - len(row) :] = 1
    return ids.to(device), mask.to(device)


def pad_right(rows: Sequence[Sequence[int]], device: torch.device) -> tuple[Int[Tensor, "B T"], Int[Tensor, "B T"]]:
    """Return (input ids, attention mask) with the padding after the tokens."""
    width = max(len(row) for row in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for index, row in enumerate(rows):
        ids[index, : len(row)] = torch.tensor(list(row))
        mask[index, : len(row)] = 1
    return ids.to(device), mask.to(device)
