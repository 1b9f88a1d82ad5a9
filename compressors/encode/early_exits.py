"""Exits of an encoder. The vectors that it would give were it cut after some of its blocks, all from one forward pass."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from attar.compressors.models.blocks import decoder_blocks

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from attar.compressors.encode.encoder import SentenceEncoder


def exit_name(depth: int) -> str:
    """Return the name of an exit, in metrics and figures too."""
    return f"exit_{depth}"


@contextmanager
def states_after(model: PreTrainedModel, depths: Sequence[int]) -> Iterator[list[Tensor]]:
    """Collect the states behind these numbers of blocks, in their order, in each forward pass inside the block.

    Families of encoders that are taken have nothing behind their last block: there a cut model's states are these.
    """
    states: list[Tensor] = []

    def keep(module: nn.Module, args: tuple, output: Tensor | tuple) -> None:
        states.append(output[0] if isinstance(output, tuple) else output)

    blocks = decoder_blocks(model)
    hooks = [blocks[depth - 1].register_forward_hook(keep) for depth in depths]
    try:
        yield states
    finally:
        for hook in hooks:
            hook.remove()


class ExitVectors:
    """An encoder that gives the vectors of all its exits, one behind the other, as an `EmbeddingRunner`."""

    def __init__(self, encoder: SentenceEncoder, exits: Sequence[int]) -> None:
        self._encoder, self._exits = encoder, tuple(exits)

    @property
    def device(self) -> torch.device:
        """Where its weights lie."""
        return self._encoder.device

    @torch.inference_mode()
    def embed(self, input_ids: Int[Tensor, "B T"], attention_mask: Int[Tensor, "B T"]) -> Float[Tensor, "B ED"]:
        """Return the vectors of a batch padded on the right: of each text E exits' vectors of D numbers."""
        with states_after(self._encoder.model, self._exits) as states:
            self._encoder.model(input_ids=input_ids, attention_mask=attention_mask)
        return torch.cat([self._encoder.pooling(some, attention_mask) for some in states], dim=-1)
