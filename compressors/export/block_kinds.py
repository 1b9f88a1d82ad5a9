"""Which blocks of a model compute the same but for the numbers of their weights. One of them can stand for all in a trace."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from attar.compressors.models.blocks import decoder_blocks
from attar.compressors.models.config_cut import per_block_settings

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PLAIN = (int, float, str, bool, tuple, list, dict, type(None))


def block_kinds(model: PreTrainedModel) -> list[int]:
    """Return for each block the index of the first of its kind. Blocks of a kind differ in their weights' numbers alone."""
    blocks = decoder_blocks(model)
    lists = per_block_settings(model.config, len(blocks)).values()
    firsts: dict[Any, int] = {}
    kinds = []
    for index, block in enumerate(blocks):
        described = (str([values[index] for values in lists]), tuple(_described(block)))
        kinds.append(firsts.setdefault(described, index))
    return kinds


def representatives(kinds: Sequence[int]) -> list[int]:
    """Return the blocks to trace, in order. The first two of each kind, one to repeat and one to check it against."""
    return [index for index, kind in enumerate(kinds) if list(kinds[:index]).count(kind) < 2]


def _described(block: nn.Module) -> Iterator[Any]:
    """Yield what a block is made of and the numbers it computes with; not its place, which the caches alone are addressed by."""
    for name, module in block.named_modules():
        public = {key: value for key, value in vars(module).items() if not key.startswith("_") and key != "layer_idx"}
        settings = {key: value for key, value in public.items() if isinstance(value, PLAIN)}
        # a tensor that is no weight is written into the graph as it is
        settings |= {key: value.tolist() for key, value in public.items() if isinstance(value, Tensor)}
        yield name, type(module), str(settings)
    for name, tensor in (*block.named_parameters(), *block.named_buffers()):
        yield name, tuple(tensor.shape), tensor.dtype
