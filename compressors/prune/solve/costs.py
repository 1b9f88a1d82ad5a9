"""What every part of a model costs, in each quantity that a budget can limit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from torch import nn

from attar.compressors.measure.cost import num_matmul_parameters
from attar.compressors.models.blocks import decoder_blocks
from attar.compressors.prune.depth.block_cost import Costs, counted_costs, measured_latency
from attar.compressors.prune.depth.seam import FEED_FORWARD_HALF, check_halves
from attar.compressors.prune.width.layout import attention_parts

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Context at which a token's FLOPs and milliseconds are counted, as in the scan's own table of costs.
NUM_CONTEXT_TOKENS, NUM_ROUNDS = 128, 15


@dataclass(frozen=True)
class PartCosts:
    """One quantity: of each block's attention part and feed-forward part, and of all that is no block.

    A block that is not two halves counts whole as its attention part. `over_context`: FLOPs of all blocks over the cached tokens.
    """

    attention: tuple[float, ...]
    feed_forward: tuple[float, ...]
    rest: float
    over_context: float = 0.0

    @property
    def total(self) -> float:
        """Cost of the whole model."""
        return sum(self.attention) + sum(self.feed_forward) + self.rest

    @property
    def attention_alone(self) -> float:
        """Cost of all attention parts; 0 where they were not told from the blocks."""
        return sum(self.attention) if any(self.feed_forward) else 0.0

    def of_block(self, index: int) -> float:
        """Return what goes with a whole block."""
        return self.attention[index] + self.feed_forward[index]


def has_halves(model: PreTrainedModel) -> bool:
    """Return whether every block is an attention half and a feed-forward half behind it."""
    try:
        for index in range(len(decoder_blocks(model))):
            check_halves(model, index)
    except ValueError:
        return False
    return True


def part_costs(
    model: PreTrainedModel, *, is_timed: bool = False, on_round: Callable[[], None] = lambda: None
) -> dict[str, PartCosts]:
    """Return every quantity that can be told of the model: parameters, bytes, kv_bytes, flops, and ms where it is timed.

    Bytes are those of the dtype in memory. The cache counts bytes a token of context, for families whose heads are known. Attention over
    the context counts to the attention part.
    """
    blocks, split = decoder_blocks(model), has_halves(model)
    size = model.dtype.itemsize
    forward = [_half(block, FEED_FORWARD_HALF) if split else 0.0 for block in blocks]
    matrices = [_half(block, FEED_FORWARD_HALF, least_ndim=2) if split else 0.0 for block in blocks]
    counted = counted_costs(model, NUM_CONTEXT_TOKENS)
    parameters = _split(counted["parameters"], forward)
    scaled = [tuple(size * value for value in part) for part in (parameters.attention, parameters.feed_forward)]
    over_context = counted["flops"].total - 2.0 * num_matmul_parameters(model)
    costs = {
        "parameters": parameters,
        "bytes": PartCosts(scaled[0], scaled[1], size * parameters.rest),
        "flops": replace(_split(counted["flops"], [2.0 * count for count in matrices]), over_context=over_context),
    }
    cached = kv_bytes_per_block(model)
    if cached:
        costs["kv_bytes"] = PartCosts((cached,) * len(blocks), (0.0,) * len(blocks), 0.0)
    if is_timed:
        costs["ms"] = _timed(model, on_round, is_split=split)
    return costs


def kv_bytes_per_block(model: PreTrainedModel) -> float:
    """Return the bytes of keys and values that one block caches a token. 0 for families whose heads are not known."""
    try:
        parts = attention_parts(model)
    except ValueError:
        return 0.0
    part = parts[0]
    # latents, and blocks without attention, cache otherwise
    if not part.head_dim or len(parts) < len(decoder_blocks(model)):
        return 0.0
    return 2.0 * part.num_units * part.head_dim * model.dtype.itemsize


def _half(block: nn.Module, names: tuple[str, ...], least_ndim: int = 1) -> float:
    parameters = [parameter for name in names for parameter in getattr(block, name).parameters()]
    return float(sum(parameter.numel() for parameter in parameters if parameter.ndim >= least_ndim))


def _split(costs: Costs, feed_forward: list[float]) -> PartCosts:
    # a time of a part that is measured apart may come out above its block's
    attention = tuple(max(0.0, block - forward) for block, forward in zip(costs.blocks, feed_forward, strict=True))
    return PartCosts(attention, tuple(feed_forward), costs.rest)


def _timed(model: PreTrainedModel, on_round: Callable[[], None], *, is_split: bool) -> PartCosts:
    options = {"num_context_tokens": NUM_CONTEXT_TOKENS, "num_rounds": NUM_ROUNDS, "on_round": on_round}
    blocks = measured_latency(model, **options)["latency"]
    forward = [0.0] * len(blocks.blocks)
    if is_split:
        modules = [getattr(block, FEED_FORWARD_HALF[-1]) for block in decoder_blocks(model)]
        forward = [1e3 * seconds for seconds in measured_latency(model, modules=modules, **options)["latency"].blocks]
    in_ms = Costs(tuple(1e3 * seconds for seconds in blocks.blocks), 1e3 * blocks.rest)
    return _split(in_ms, forward)
