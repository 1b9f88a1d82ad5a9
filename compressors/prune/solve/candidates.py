"""Candidates of what lies inside blocks: whole blocks, seams, feed-forward channels, KV groups. Losses measured, savings counted."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from attar.compressors.models.blocks import decoder_blocks
from attar.compressors.prune.depth.calibration import Batch
from attar.compressors.prune.depth.scan import last_logits_only
from attar.compressors.prune.hidden.cut import KeptChannels
from attar.compressors.prune.hidden.rotate import check_rotation
from attar.compressors.prune.hidden.scores import HIDDEN, ROTATED, StreamScan, StreamUnits
from attar.compressors.prune.hidden.stream import check_stream
from attar.compressors.prune.solve.costs import PartCosts, has_halves
from attar.compressors.prune.solve.items import ATTENTION, FEED_FORWARD, PARTS, Item
from attar.compressors.prune.solve.probe import Probe, WithoutParts, WithoutUnits
from attar.compressors.prune.width.cut import config_changes
from attar.compressors.prune.width.layout import attention_parts, feed_forward_parts
from attar.compressors.prune.width.parts import Part
from attar.compressors.prune.width.scores import Taylor, WidthScan, highest

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Costs = Mapping[str, PartCosts]
# What a plain config of one width can say, by axis.
MEASURED_AXES = ("depth", "seams", "channels", "groups", HIDDEN, ROTATED, "vocabulary")
# The other half of a seam: its loss is told once, by the seam.
SEAM_ENDS = "seam_ends"
# Axes that people ask for, and why they are not offered as they stand.
NOT_SAYABLE = {
    "attention": "an attention part alone cannot go: a block of a plain config has one; accepted: seams, or depth where blocks are of "
    "a single part (Nemotron-H)",
    "feed_forward": "a feed-forward part alone cannot go: a block of a plain config has one; accepted: seams, or depth where blocks are "
    "of a single part (Nemotron-H)",
    "linear_attention": "a linear map in an attention part's stead (Neural Block Linearization) has no name in a plain config; matrices of "
    "an attention part can hold one, each token attending to itself by its biases, at the same parameters, cache and time; accepted: "
    "seams with patch refit, which fits the matrices before and behind in closed form",
    "block_channels": "another width in each block is more than one intermediate_size can say; accepted: channels",
}


@dataclass
class Units:
    """Scores of the units of every block, low means removable, by axis; and what was seen of the residual stream."""

    of_axis: dict[str, list[Float[Tensor, "U"]]] = field(default_factory=dict)
    stream: StreamUnits | None = None

    def highest(self, axis: str, count: int) -> list[Tensor]:
        """Return the units of every block that stay where so many do."""
        return [highest(scores, count) for scores in self.of_axis[axis]]

    def keep(self, axis: str, count: int) -> KeptChannels:
        """Return the channels of the stream that stay where so many do."""
        assert self.stream is not None, "measured where the axis was asked for"
        return self.stream.keep(axis, count)


def can_say(model: PreTrainedModel, axis: str) -> str:
    """Return why a model's family does not have an axis; empty where it has it."""
    if axis in NOT_SAYABLE:
        return NOT_SAYABLE[axis]
    try:
        if axis == "seams" and not has_halves(model):
            return "its blocks are not an attention half with a feed-forward half behind it"
        if axis == "channels":
            feed_forward_parts(model)
            config_changes(model, num_channels=max(1, feed_forward_parts(model)[0].num_units - 8), num_groups=None)
        if axis in (HIDDEN, ROTATED):
            check_stream(model)
        if axis == ROTATED:
            check_rotation(model)
        if axis == "groups" and attention_parts(model)[0].num_units < 2:
            return "it has one KV group, which cannot go"
    except ValueError as error:
        return str(error)
    return ""


@torch.no_grad()
def score_units(model: PreTrainedModel, batches: Sequence[Batch], axes: Sequence[str]) -> Units:
    """Return the Taylor scores of channels and KV groups, and the stream's moments, from one forward and one backward pass.

    Axes of the stream alone need no backward pass.
    """
    parts: dict[str, list[Part]] = {}
    if "channels" in axes:
        parts["channels"] = feed_forward_parts(model)
    if "groups" in axes:
        parts["groups"] = attention_parts(model)
    scan = WidthScan(Taylor(), [part for axis_parts in parts.values() for part in axis_parts]) if parts else None
    stream = StreamScan(model, is_rotated=ROTATED in axes) if {HIDDEN, ROTATED} & {*axes} else None
    for batch in batches if scan or stream else ():
        with stream.watching(batch.attention_mask) if stream else nullcontext():
            if scan:
                scan.update(model, batch.input_ids, batch.attention_mask)
            else:
                ids, mask = batch.input_ids, batch.attention_mask
                model(input_ids=ids, attention_mask=mask, use_cache=False, **last_logits_only(model))  # type: ignore[operator]
    scores = iter(scan.scores() if scan else ())
    of_axis = {axis: [next(scores) for _ in axis_parts] for axis, axis_parts in parts.items()}
    return Units(of_axis, stream.units() if stream else None)


def depth_items(probe: Probe, costs: Costs, protected: frozenset[int], on_run: Callable[[int], None]) -> list[Item]:
    """Return an item a block that may go."""
    free = [index for index in range(len(decoder_blocks(probe.model))) if index not in protected]
    losses = probe.losses([WithoutParts(frozenset({index})) for index in free], on_run)
    return [
        Item(
            axis="depth",
            where=f"block {index}",
            loss_nats=loss,
            savings={name: cost.of_block(index) for name, cost in costs.items()},
            group=f"block {index}",
            reach="block",
            amount=index,
            block=index,
            parts=PARTS,
        )
        for index, loss in zip(free, losses, strict=True)
    ]


def seam_items(probe: Probe, costs: Costs, protected: frozenset[int], on_run: Callable[[int], None]) -> list[Item]:
    """Return two items a seam. At block i the feed-forward part goes, at block i + 1 the attention part."""
    num_blocks = len(decoder_blocks(probe.model))
    firsts = [index for index in range(num_blocks - 1) if not {index, index + 1} & protected]
    cuts = [WithoutParts(attention=frozenset({index + 1}), feed_forward=frozenset({index})) for index in firsts]
    items = []
    for index, loss in zip(firsts, probe.losses(cuts, on_run), strict=True):
        for block, axis, part, lost in ((index, "seams", FEED_FORWARD, loss), (index + 1, SEAM_ENDS, ATTENTION, 0.0)):
            saved = {
                name: (cost.feed_forward if part == FEED_FORWARD else cost.attention)[block]
                for name, cost in costs.items()
            }
            items.append(
                Item(
                    axis=axis,
                    where=f"blocks {index} and {index + 1} as one",
                    loss_nats=lost,
                    savings=saved,
                    group=f"block {block}",
                    reach="block",
                    amount=index,
                    block=block,
                    parts=(part,),
                    enters=int(axis == SEAM_ENDS),
                    leaves=int(axis == "seams"),
                )
            )
    return items


def channel_items(
    probe: Probe, costs: Costs, units: Units, counts: Sequence[int], step: int, on_run: Callable[[int], None]
) -> list[Item]:
    """Return an item a width of all blocks. Measured at `counts`; multiples of `step` between them lie on straight lines."""
    parts = feed_forward_parts(probe.model)
    losses = probe.losses([WithoutUnits(channels=units.highest("channels", count)) for count in counts], on_run)
    measured = {parts[0].num_units: 0.0, **dict(zip(counts, losses, strict=True))}
    widths = sorted({*counts, *range(min(counts) // step * step, parts[0].num_units, step)} - {parts[0].num_units})
    unit = sum(part.unit_parameters for part in parts)
    return [
        _width_item("channels", FEED_FORWARD, costs, parts[0].num_units, count, unit, _between(measured, count))
        for count in widths
        if count >= min(counts)
    ]


def group_items(probe: Probe, costs: Costs, units: Units, on_run: Callable[[int], None]) -> list[Item]:
    """Return an item for each number of KV groups that a plain config of the family takes."""
    parts, counts = attention_parts(probe.model), []
    for count in range(1, parts[0].num_units):
        try:
            config_changes(probe.model, num_channels=None, num_groups=count)
        except ValueError:
            continue
        counts.append(count)
    losses = probe.losses([WithoutUnits(groups=units.highest("groups", count)) for count in counts], on_run)
    unit = sum(part.unit_parameters for part in parts)
    return [
        _width_item("groups", ATTENTION, costs, parts[0].num_units, count, unit, loss)
        for count, loss in zip(counts, losses, strict=True)
    ]


def _width_item(axis: str, part: str, costs: Costs, whole: int, count: int, unit: int, loss: float) -> Item:
    """Return one width as an item. Parameters are counted, cache and time fall with the units of the part."""
    share, gone = (whole - count) / whole, float((whole - count) * unit)
    savings = {"parameters": gone, "bytes": gone * costs["bytes"].total / costs["parameters"].total}
    savings["flops"] = 2.0 * gone
    if part == ATTENTION:
        savings["flops"] += share * costs["flops"].over_context
        savings |= {name: share * costs[name].total for name in ("kv_bytes",) if name in costs}
    if "ms" in costs:  # 0 for blocks that are no halves: their parts were not timed
        savings["ms"] = share * (sum(costs["ms"].feed_forward) if part == FEED_FORWARD else costs["ms"].attention_alone)
    return Item(
        axis=axis,
        where=f"{count:,} of {whole:,} in every block",
        loss_nats=loss,
        savings=savings,
        reach="blocks",
        amount=count,
        parts=(part,),
    )


def _between(measured: Mapping[int, float], count: int) -> float:
    """Return the loss at a width, on the straight line between the two measured ones beside it."""
    below = max(width for width in measured if width <= count)
    above = min(width for width in measured if width >= count)
    if below == above:
        return measured[below]
    share = (count - below) / (above - below)
    return (1 - share) * measured[below] + share * measured[above]
