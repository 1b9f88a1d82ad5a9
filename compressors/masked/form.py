"""How a causal model that fills masks reads. An answer in blocks, whose tokens see each other and all before, and a token that hides.

Logits at a token speak of the next one, as in the causal model that it was made of (as in Dream, https://arxiv.org/abs/2508.15487). The
prompt is read from left to right, so that its keys and values, and those of whole blocks, are computed once (block diffusion,
https://arxiv.org/abs/2503.09573).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

# The entry of config.json that says how such a model is read.
CONFIG_KEY = "masked_decoding"


@dataclass(frozen=True, kw_only=True)
class MaskedForm:
    """The token that stands for a hidden one, and how many tokens of an answer make a block."""

    mask_token: str
    mask_token_id: int
    block_size: int

    @staticmethod
    def in_config(config: Mapping[str, Any]) -> MaskedForm | None:
        """Return what a model's config says; None for a model that writes from left to right. Raises ValueError for an entry that is no form."""
        entry = config.get(CONFIG_KEY)
        if entry is None:
            return None
        names = ("mask_token", "mask_token_id", "block_size")
        token, token_id, size = (entry.get(name) if isinstance(entry, Mapping) else None for name in names)
        if not (
            isinstance(token, str) and isinstance(token_id, int) and isinstance(size, int) and token_id >= 0 < size
        ):
            raise ValueError(
                f"config.json: {CONFIG_KEY} is {str(entry)[:80]}; accepted: mask_token (text), mask_token_id (0 or more) and block_size "
                "(1 or more)"
            )
        return MaskedForm(mask_token=token, mask_token_id=token_id, block_size=size)

    def entry(self) -> dict[str, Any]:
        """Return what config.json says of it."""
        return {"mask_token": self.mask_token, "mask_token_id": self.mask_token_id, "block_size": self.block_size}

    def segments(self, num_prompt: int, num_answer: int) -> list[int]:
        """Return the segment of each token of a text. Every token of a prompt is its own, and so is every block of an answer."""
        return [*range(num_prompt), *(num_prompt + index // self.block_size for index in range(num_answer))]


def visible(segments: Int[Tensor, "B K"], is_real: Bool[Tensor, "B K"], num_queries: int) -> Bool[Tensor, "B 1 Q K"]:
    """Return which columns each of the last Q ones sees: real ones of its segment and of those before. Padding sees itself, so that its
    attention is a number."""
    queries = segments[:, -num_queries:]
    sees = (segments[:, None, :] <= queries[:, :, None]) & is_real[:, None, :]
    own = torch.eye(segments.shape[1], dtype=torch.bool, device=segments.device)[-num_queries:]
    return (sees | own)[:, None]
