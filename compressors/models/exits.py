"""The two matrices through which a block adds to the residual stream. Families name them differently."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

from attar.compressors.models.blocks import decoder_blocks
from attar.compressors.models.paging import bring

if TYPE_CHECKING:
    from transformers import PreTrainedModel
    from transformers.pytorch_utils import Conv1D

    Matrix = nn.Linear | Conv1D

FEED_FORWARD_EXITS = ("mlp.down_proj", "mlp.c_proj", "mlp.dense_4h_to_h", "mlp.fc2", "fc2")
ATTENTION_NAMES = ("self_attn", "attn", "attention", "self_attention")
ATTENTION_EXITS = ("o_proj", "out_proj", "dense", "c_proj")
# A norm between the feed-forward matrix and the residual stream: a linear map cannot be moved through it.
NORMS_AFTER = ("post_feedforward_layernorm", "post_mlp_layernorm")


def feed_forward_exit(model: PreTrainedModel, block_index: int) -> Matrix:
    """Return the last feed-forward matrix of a block. Raises ValueError for families in which a patch cannot be folded."""
    modules = dict(bring(decoder_blocks(model)[block_index]).named_modules())
    for name in NORMS_AFTER:
        if name in modules:
            raise ValueError(
                f"{type(model).__name__}: {name} stands after the feed-forward part; a patch cannot be folded"
            )
    return _only([modules[name] for name in FEED_FORWARD_EXITS if name in modules], model, "last feed-forward matrix")


def attention_exit(model: PreTrainedModel, block_index: int) -> Matrix:
    """Return the last attention matrix of a block. Raises ValueError for families in which a patch cannot be folded."""
    block = bring(decoder_blocks(model)[block_index])
    parts = [getattr(block, name) for name in ATTENTION_NAMES if hasattr(block, name)]
    exits = [getattr(part, name) for part in parts for name in ATTENTION_EXITS if hasattr(part, name)]
    return _only(exits, model, "last attention matrix")


def by_input(matrix: Matrix) -> Tensor:
    """Return the weight as a view with a row for each input: Linear stores (out, in), Conv1D (in, out)."""
    return matrix.weight.T if isinstance(matrix, nn.Linear) else matrix.weight


def _only(modules: list[nn.Module], model: PreTrainedModel, what: str) -> Matrix:
    from transformers.pytorch_utils import Conv1D  # a second that a plan need not wait for

    if len(modules) != 1 or not isinstance(modules[0], nn.Linear | Conv1D):
        raise ValueError(f"{type(model).__name__}: no single {what} found; a patch cannot be folded")
    return modules[0]
