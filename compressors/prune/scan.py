"""Score every window of every size from one forward pass: the Gram matrix of the residual states, reduced as it is made."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from compressors.prune.blocks import decoder_blocks
from compressors.prune.metrics import BlockMetric

Scores = dict[tuple[int, int], float]


@dataclass
class WindowScan:
    """Running mean of every metric over tokens, for the states before block i and after block j.

    `tokens`: `all` real tokens, or the `last` one of each sequence (as https://arxiv.org/abs/2403.17887 does).
    """

    metrics: Mapping[str, BlockMetric]
    tokens: Literal["all", "last"] = "all"
    num_tokens: int = 0
    _sums: dict[str, Tensor] = field(default_factory=dict)

    @torch.no_grad()
    def update(self, model: PreTrainedModel, input_ids: Int[Tensor, "B T"], attention_mask: Int[Tensor, "B T"]) -> None:
        """Run one batch (right-padded) and add its tokens to the means."""
        with residual_stream(model) as states:
            model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False, **last_logits_only(model))
        keep = attention_mask.bool() if self.tokens == "all" else _last_token(attention_mask)
        self.add(torch.stack([state[keep].float() for state in states]))

    def add(self, states: Float[Tensor, "L1 N D"]) -> None:
        """Add tokens whose residual states before each block, and after the last, are given."""
        unit = nn.functional.normalize(states, dim=-1, eps=1e-12).transpose(0, 1)  # N L1 D
        cosine = unit @ unit.transpose(1, 2)  # N L1 L1
        for name, metric in self.metrics.items():
            total = metric(cosine).sum(dim=0).double()
            self._sums[name] = self._sums[name] + total if name in self._sums else total
        self.num_tokens += states.shape[1]

    def scores(self, metric: str) -> Scores:
        """Return `{(first block, number of blocks): mean score}` for every window."""
        mean = (self._sums[metric] / self.num_tokens).tolist()
        num_blocks = len(mean) - 1
        return {
            (first, after - first): mean[first][after]
            for first in range(num_blocks)
            for after in range(first + 1, num_blocks + 1)
        }


def best_window(scores: Scores, num_blocks: int) -> int:
    """Return the first block of the lowest-scoring window of `num_blocks` blocks. Raises ValueError when there is none."""
    candidates = {first: score for (first, size), score in scores.items() if size == num_blocks}
    if not candidates:
        raise ValueError(f"no window of {num_blocks} blocks: the largest has {max(size for _, size in scores)}")
    return min(candidates, key=lambda first: (candidates[first], first))


@contextmanager
def residual_stream(model: PreTrainedModel) -> Iterator[list[Float[Tensor, "B T D"]]]:
    """Collect the L+1 residual states of the next forward: before each block, and after the last but before the final norm.

    `output_hidden_states` gives the last one after the norm, which makes every window that ends at the last block look different.
    """
    states: list[Tensor] = []
    blocks = decoder_blocks(model)

    def before(module: nn.Module, args: tuple, kwargs: dict) -> None:
        states.append(args[0] if args else kwargs["hidden_states"])

    def after(module: nn.Module, args: tuple, output: Tensor | tuple) -> None:
        states.append(output[0] if isinstance(output, tuple) else output)

    hooks = [block.register_forward_pre_hook(before, with_kwargs=True) for block in blocks]
    hooks.append(blocks[-1].register_forward_hook(after))
    try:
        yield states
    finally:
        for hook in hooks:
            hook.remove()


def _last_token(attention_mask: Int[Tensor, "B T"]) -> Tensor:
    last = attention_mask.sum(dim=1) - 1
    return nn.functional.one_hot(last, attention_mask.shape[1]).bool()


def last_logits_only(model: PreTrainedModel) -> dict[str, int]:
    """Return the forward option that spares the output head all but the last token, where the family has it."""
    return {"logits_to_keep": 1} if "logits_to_keep" in inspect.signature(model.forward).parameters else {}
