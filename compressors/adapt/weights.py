"""Fine-tuning of the weights themselves: all of them, or those of the last blocks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from attar.compressors.models.blocks import decoder_blocks

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True, kw_only=True)
class FullWeights:
    """Train every weight of the blocks from `first_block` on, and the final norm; embedding and head stay."""

    def __call__(self, model: PreTrainedModel, first_block: int) -> PreTrainedModel:
        """Return the model with those weights trainable, in float32: an update of bf16 weights is lost to rounding."""
        return _train_only(model, [*decoder_blocks(model)[first_block:], *final_norms(model)])


@dataclass(frozen=True, kw_only=True)
class LastBlocks:
    """Train the last `num_blocks` blocks, the final norm and the head. A head tied to the embedding stays as it is."""

    num_blocks: int = 2

    def __call__(self, model: PreTrainedModel, first_block: int) -> PreTrainedModel:
        """Return the model with those weights trainable, in float32. Raises ValueError for more blocks than there are."""
        blocks = decoder_blocks(model)
        if self.num_blocks > len(blocks):
            raise ValueError(f"num_last_blocks is {self.num_blocks}, but the model has {len(blocks)} blocks")
        head = model.get_output_embeddings()
        assert isinstance(head, nn.Module), "Student checks that there is one"
        is_tied = head.weight is model.get_input_embeddings().weight
        trained: list[nn.Module] = [*blocks[max(first_block, len(blocks) - self.num_blocks) :], *final_norms(model)]
        return _train_only(model, trained if is_tied else [*trained, head])


def final_norms(model: PreTrainedModel) -> list[nn.Module]:
    """Return the modules between the last block and the head. They are the blocks' siblings with a norm's shape."""
    blocks = decoder_blocks(model)
    parent = next(m for m in model.modules() if any(child is blocks for child in m.children()))
    return [child for child in parent.children() if "norm" in type(child).__name__.lower()]


def _train_only(model: PreTrainedModel, trained: list[nn.Module]) -> PreTrainedModel:
    model.requires_grad_(False)
    for module in trained:
        module.to(torch.float32).requires_grad_(True)
    return model
