"""How many channels and KV groups stay. What each costs, and how narrow a model must be to fit a number of parameters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from attar.compressors.measure.cost import num_parameters
from attar.compressors.models.blocks import decoder_blocks
from attar.compressors.prune.width.layout import attention_parts, feed_forward_parts
from attar.compressors.prune.width.parts import Part

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class WidthCost:
    """What a model's width costs. Parameters in all and in the blocks, and of one channel or KV group taken in every block.

    `num_channels` 0: channels cannot be removed, as of experts. `num_groups` 0: KV groups cannot.
    """

    num_parameters: int
    num_blocks: int
    num_block_parameters: int
    num_channels: int
    channel_parameters: int
    num_groups: int = 0
    group_parameters: int = 0

    def parameters_at(self, num_channels: int, num_removed_groups: int = 0) -> int:
        """Return the parameters of the model with `num_channels` channels a block and without some KV groups."""
        removed = (self.num_channels - num_channels) * self.channel_parameters
        return self.num_parameters - removed - num_removed_groups * self.group_parameters

    def parameters_without_blocks(self, num_removed_blocks: int) -> int:
        """Return the parameters that are left when whole blocks go instead; exact where blocks are of equal size."""
        return self.num_parameters - num_removed_blocks * self.num_block_parameters // self.num_blocks

    def check_groups(self, num_removed_groups: int) -> None:
        """Raise ValueError unless the model has more KV groups than are to go."""
        if self.num_groups and num_removed_groups >= self.num_groups:
            raise ValueError(
                f"num_removed_groups is {num_removed_groups}, but a block has {self.num_groups} KV groups; "
                f"accepted: at most {self.num_groups - 1}"
            )

    def channels_for_fraction(self, fraction: float, multiple_of: int) -> int:
        """Return `fraction` of the channels, rounded to the nearest multiple. Raises ValueError when that is all of them."""
        rounded = max(1, round(fraction * self.num_channels / multiple_of)) * multiple_of
        if rounded >= self.num_channels:
            raise ValueError(
                f"{fraction} of {self.num_channels} channels is {rounded} in multiples of {multiple_of}: nothing would be "
                f"removed; accepted: below {self.num_channels}, or a smaller multiple_of"
            )
        return rounded

    def channels_for_budget(self, budget: int, num_removed_groups: int, multiple_of: int) -> int:
        """Return the most channels a block, all or a multiple, with which the model has at most `budget` parameters.

        Raises ValueError with the reachable range when there are none, or when nothing would have to go.
        """
        most = self.parameters_at(self.num_channels, num_removed_groups)
        excess = max(0, most - budget)
        fitting = self.num_channels + (-excess // self.channel_parameters)  # floor of a negative: one more than needed
        if excess:
            fitting = fitting // multiple_of * multiple_of
        if fitting < 1 or budget >= self.num_parameters:
            least = self.parameters_at(min(multiple_of, self.num_channels), num_removed_groups)
            without = f" with {num_removed_groups} of {self.num_groups} KV groups gone" if num_removed_groups else ""
            raise ValueError(
                f"{budget:,} parameters cannot be reached{without}; accepted: {least:,} to {self.num_parameters - 1:,} "
                f"(the model has {self.num_parameters:,})"
            )
        return fitting


def width_cost(model: PreTrainedModel) -> WidthCost:
    """Count what channels and KV groups cost. Raises ValueError for families of which neither can go."""
    groups = _attention_parts_if_any(model)
    try:
        channels = feed_forward_parts(model)
    except ValueError:
        if not groups:
            raise
        channels = []
    return WidthCost(
        num_parameters=num_parameters(model),
        num_blocks=len(decoder_blocks(model)),
        num_block_parameters=sum(parameter.numel() for parameter in decoder_blocks(model).parameters()),
        num_channels=channels[0].num_units if channels else 0,
        channel_parameters=sum(part.unit_parameters for part in channels),
        num_groups=groups[0].num_units if groups else 0,
        group_parameters=sum(part.unit_parameters for part in groups),
    )


def _attention_parts_if_any(model: PreTrainedModel) -> list[Part]:
    try:
        return attention_parts(model)
    except ValueError:
        return []
