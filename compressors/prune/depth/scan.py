"""Score every window of every size from one forward pass. The Gram matrix of the residual states, reduced as it is made."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from attar.compressors.models.blocks import decoder_blocks

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Scores = dict[tuple[int, int], float]


# Tokens whose states are gathered at once: their L+1 states stay in the processor's cache.
CHUNK = 64


class CosineMetric(Protocol):
    """Maps the cosine between the states before and after a window to a score, elementwise. Lower: closer to an identity."""

    def __call__(self, cosine: Float[Tensor, ...]) -> Float[Tensor, ...]: ...


@dataclass
class WindowScan:
    """Running mean of every metric over tokens, for the states before block i and after block j. Memory: O(L^2) a metric."""

    metrics: Mapping[str, CosineMetric]
    num_tokens: int = 0
    _sums: dict[str, Tensor] = field(default_factory=dict)

    @torch.no_grad()
    def update(
        self,
        model: PreTrainedModel,
        input_ids: Int[Tensor, "B T"],
        attention_mask: Int[Tensor, "B T"],
        counted: Bool[Tensor, "B T"] | None = None,
    ) -> None:
        """Run one batch (right-padded) and add its tokens to the means: those `counted`, else all that are no padding."""
        with residual_stream(model) as states:
            model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False, **last_logits_only(model))
        keep = (attention_mask.bool() if counted is None else counted).flatten()
        rows = [state.flatten(end_dim=1) for state in states]
        if not keep.all():
            token_indices = keep.nonzero().squeeze(1).to(rows[0].device)
            rows = [state.index_select(0, token_indices) for state in rows]
        self.add(rows)

    def add(self, states: Sequence[Float[Tensor, "N D"]]) -> None:
        """Add tokens whose residual states before each block, and after the last, are given in any precision."""
        before, after = torch.triu_indices(len(states), len(states), 1, device=states[0].device)
        for start in range(0, len(states[0]), CHUNK):
            # one copy as float32, states outermost: the product reads it as it lies
            chunk = torch.stack([state[start : start + CHUNK] for state in states]).float()  # L1 N D
            gram = chunk.permute(1, 0, 2) @ chunk.permute(1, 2, 0)  # N L1 L1
            inverse_norm = gram.diagonal(dim1=1, dim2=2).clamp(min=1e-24).rsqrt()
            # each pair once: half the entries, and half the arccos, of the whole matrix
            cosine = gram.flatten(1).index_select(1, before * len(states) + after)
            cosine *= inverse_norm.index_select(1, before)
            cosine *= inverse_norm.index_select(1, after)
            for name, metric in self.metrics.items():
                total = metric(cosine).sum(dim=0).double()
                self._sums[name] = self._sums[name] + total if name in self._sums else total
        self.num_tokens += len(states[0])

    def scores(self, metric: str) -> Scores:
        """Return `{(first block, number of blocks): mean score}` for every window."""
        means = self._sums[metric] / self.num_tokens
        num_states = round((1 + math.sqrt(1 + 8 * len(means))) / 2)  # len = L1 (L1 - 1) / 2
        matrix = means.new_zeros(num_states, num_states)
        before, after = torch.triu_indices(num_states, num_states, 1, device=means.device)
        matrix[before, after] = means
        return window_table(matrix[:-1])


def window_table(scores: Float[Tensor, "L L1"]) -> Scores:
    """Return `{(first block, number of blocks): score}` of a matrix of scores from before block i to before block j."""
    rows = scores.tolist()
    num_blocks = len(rows[0]) - 1
    return {
        (first, after - first): rows[first][after]
        for first in range(num_blocks)
        for after in range(first + 1, num_blocks + 1)
    }


@contextmanager
def residual_stream(model: PreTrainedModel) -> Iterator[list[Float[Tensor, "B T D"]]]:
    """Collect the L+1 residual states of the next forward. Before each block, and after the last but before the final norm.

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


def last_logits_only(model: PreTrainedModel) -> dict[str, int]:
    """Return the forward option that spares the output head all but the last token, where the family has it."""
    return {"logits_to_keep": 1} if "logits_to_keep" in inspect.signature(model.forward).parameters else {}
