"""Block influence of attention and feed-forward parts by themselves, from the forward pass that scores windows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from attar.compressors.models.blocks import decoder_blocks
from attar.compressors.models.exits import attention_exit, feed_forward_exit

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def adds_parts(model: PreTrainedModel) -> bool:
    """Return whether every block adds what a known attention matrix gives, and what a known feed-forward matrix gives."""
    try:
        for index in range(len(decoder_blocks(model))):
            attention_exit(model, index)
            feed_forward_exit(model, index)
    except ValueError:
        return False
    return True


@dataclass
class PartInfluence:
    """Running means of 1 - cos between the states before and behind each part. Memory: O(blocks), and one state at a time."""

    num_tokens: int = 0
    _attention: dict[int, float] = field(default_factory=dict)
    _feed_forward: dict[int, float] = field(default_factory=dict)

    @contextmanager
    def watching(self, model: PreTrainedModel, counted: Bool[Tensor, "B T"]) -> Iterator[None]:
        """Add the tokens `counted` of the one forward pass that runs inside."""
        # Granite scales what a part adds to the state
        scale = float(getattr(model.config, "residual_multiplier", 1.0))
        before: dict[int, Tensor] = {}
        between: dict[int, Tensor] = {}
        hooks = []

        def enter(index: int):
            def hook(module: nn.Module, args: tuple, kwargs: dict) -> None:
                before[index] = args[0] if args else kwargs["hidden_states"]

            return hook

        def middle(index: int):
            def hook(module: nn.Module, args: tuple, output: Tensor) -> None:
                state = before[index]
                between[index] = state + scale * output.reshape(state.shape)
                self._add(self._attention, index, state, between[index], counted)

            return hook

        def leave(index: int):
            def hook(module: nn.Module, args: tuple, output: Tensor | tuple) -> None:
                state = output[0] if isinstance(output, tuple) else output
                before.pop(index)
                self._add(self._feed_forward, index, between.pop(index), state, counted)

            return hook

        for index, block in enumerate(decoder_blocks(model)):
            hooks.append(block.register_forward_pre_hook(enter(index), with_kwargs=True))
            hooks.append(attention_exit(model, index).register_forward_hook(middle(index)))
            hooks.append(block.register_forward_hook(leave(index)))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()
        self.num_tokens += int(counted.sum())

    def scores(self) -> dict[str, list[float]]:
        """Return the influence of each block's attention part and feed-forward part, in [0, 2]; 0: the state keeps its direction."""
        by_part = {"attention": self._attention, "feed_forward": self._feed_forward}
        return {
            part: [sums[index] / max(1, self.num_tokens) for index in sorted(sums)] for part, sums in by_part.items()
        }

    @torch.no_grad()
    def _add(
        self,
        sums: dict[int, float],
        index: int,
        state: Float[Tensor, "B T D"],
        after: Float[Tensor, "B T D"],
        counted: Bool[Tensor, "B T"],
    ) -> None:
        cosine = torch.cosine_similarity(state[counted].float(), after[counted].float(), dim=-1)
        sums[index] = sums.get(index, 0.0) + float((1.0 - cosine).double().sum())
