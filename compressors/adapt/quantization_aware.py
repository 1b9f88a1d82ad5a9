"""Training on the numbers that a low-bit format will store. Every pass multiplies by rounded weights; those behind them learn.

https://arxiv.org/abs/2305.17888 (by distillation), https://arxiv.org/abs/1712.05877 (in the forward pass); the slope of rounding is taken
to be 1: https://arxiv.org/abs/1308.3432
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from attar.compressors.adapt.weights import FullWeights
from attar.compressors.models.blocks import decoder_blocks
from attar.compressors.quantize.roundings import BlockIntegers, Rounding

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# What torch puts into the name of a weight that another is computed from.
COMPUTED = ".parametrizations.weight.original"


@dataclass(frozen=True, kw_only=True)
class QuantizationAware:
    """Train all weights of the blocks through their rounding. The first pass computes what the rounded model computes.

    `head`: the rounding of embedding and output head, which stay; None leaves them in float.
    """

    rounding: Rounding = field(default_factory=BlockIntegers)
    head: Rounding | None = field(default_factory=lambda: BlockIntegers(bits=8))

    def __call__(self, model: PreTrainedModel, first_block: int) -> PreTrainedModel:
        """Return the model with those weights trainable, in float32; blocks before `first_block` are rounded for good.

        Raises ValueError, naming the matrix, for a width of no whole blocks.
        """
        blocks = decoder_blocks(model)
        FullWeights()(model, first_block)
        for name, matrix in _products(blocks):
            _refuse_width(name, matrix, self.rounding)
            if matrix.weight.requires_grad:
                parametrize.register_parametrization(matrix, "weight", _Rounded(self.rounding))
            else:
                _round_for_good(matrix, self.rounding)
        if self.head is not None:
            # tied ones are one tensor; rounding it again would change nothing but take time
            tables = {id(table.weight): table for table in _tables(model)}
            for table in tables.values():
                _round_for_good(table, self.head)
        return model


class _Rounded(nn.Module):
    """The rounded weight, with the gradient of the weight itself."""

    def __init__(self, rounding: Rounding) -> None:
        super().__init__()
        self.rounding = rounding

    def forward(self, weight: Tensor) -> Tensor:
        return weight + (self.rounding(weight.detach()) - weight.detach())


def plain_name(name: str) -> str:
    """Return the name that a trained weight has in the model's own files."""
    return name.replace(COMPUTED, ".weight")


def _products(blocks: nn.ModuleList) -> list[tuple[str, nn.Linear]]:
    return [(name, module) for name, module in blocks.named_modules() if isinstance(module, nn.Linear)]


def _tables(model: PreTrainedModel) -> list[nn.Module]:
    tables = (model.get_input_embeddings(), model.get_output_embeddings())
    return [table for table in tables if isinstance(table, nn.Module)]


def _refuse_width(name: str, matrix: nn.Linear, rounding: Rounding) -> None:
    try:
        rounding(matrix.weight[:1].detach())
    except ValueError as error:
        raise ValueError(f"block {name}: {error}") from error


@torch.no_grad()
def _round_for_good(module: nn.Module, rounding: Rounding) -> None:
    weight = module.weight
    assert isinstance(weight, Tensor), "a matrix"
    for rows in weight.split(4096):
        rows.copy_(rounding(rows))
