"""A plan as what a model is cut to, carried out in place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torch import Tensor

from attar.compressors.models.blocks import decoder_blocks
from attar.compressors.models.bypass import handing_on
from attar.compressors.prune.depth.block_refit import Matches
from attar.compressors.prune.depth.seam import Pairing, pair_parts, removed_parts, silent_parts
from attar.compressors.prune.hidden.cut import KeptChannels, cut_hidden, fewer_channels
from attar.compressors.prune.hidden.scores import HIDDEN, ROTATED
from attar.compressors.prune.solve.candidates import Units
from attar.compressors.prune.solve.items import Plan
from attar.compressors.prune.width.cut import cut_width, silenced

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Shape:
    """The blocks, seams and units that are left. `channels`, `groups`: the units of every block; `stream`: of the residual stream.

    None where all stay. What is shaped or cut is a model whose stream was rotated before, where `stream` asks for it.
    """

    num_blocks: int
    blocks: tuple[int, ...] = ()
    seams: tuple[int, ...] = ()
    channels: Sequence[Tensor] | None = None
    groups: Sequence[Tensor] | None = None
    stream: KeptChannels | None = None
    # how many tokens stay; cut by who has the tokenizer
    num_tokens: int | None = None
    # amounts of axes that others carry out
    others: Mapping[str, int] = field(default_factory=dict)

    @staticmethod
    def of(plan: Plan, num_blocks: int, units: Units) -> Shape:
        """Return what a plan leaves of a model of `num_blocks` blocks."""
        amounts = {item.axis: item.amount for item in plan.items}
        stays = {axis: units.highest(axis, amounts[axis]) for axis in ("channels", "groups") if axis in amounts}
        others = {axis: amount for axis, amount in amounts.items() if axis not in OWN_AXES}
        blocks, seams = (tuple(sorted(plan.amounts(axis))) for axis in ("depth", "seams"))
        streams = [units.keep(axis, amounts[axis]) for axis in (HIDDEN, ROTATED) if axis in amounts]
        return Shape(
            num_blocks,
            blocks,
            seams,
            stays.get("channels"),
            stays.get("groups"),
            stream=streams[0] if streams else None,
            num_tokens=amounts.get("vocabulary"),
            others=others,
        )

    @property
    def pairing(self) -> Pairing:
        """Which attention part stands with which feed-forward part. Raises ValueError where that is no whole block."""
        return Pairing.without(self.num_blocks, *removed_parts(self.num_blocks, self.blocks, self.seams))

    @property
    def matches(self) -> Matches:
        """What each block of the result is to give."""
        pairing = self.pairing
        return Matches.of_pairs(self.num_blocks, pairing.attention, pairing.feed_forward)

    @property
    def first_changed(self) -> int:
        """The first block of the result that is not the original's."""
        narrower = (self.channels, self.groups, self.stream)
        return self.matches.first if all(units is None for units in narrower) else 0

    @property
    def removed_blocks(self) -> tuple[int, ...]:
        """Blocks of the original of which a part went, ascending."""
        attention, feed_forward = removed_parts(self.num_blocks, self.blocks, self.seams)
        return tuple(sorted(attention | feed_forward))


OWN_AXES = ("depth", "seams", "seam_ends", "channels", "groups", HIDDEN, ROTATED, "vocabulary")


@contextmanager
def shaped(model: PreTrainedModel, shape: Shape) -> Iterator[None]:
    """Let the whole model compute, inside, what the cut one must."""
    attention, feed_forward = removed_parts(shape.num_blocks, (), shape.seams)
    with (
        fewer_channels(model, shape.stream.rotated) if shape.stream is not None else nullcontext(),
        silenced(model, channels=shape.channels, groups=shape.groups),
        silent_parts(model, attention, feed_forward),
        handing_on(model, shape.blocks),
    ):
        yield


def cut_to(model: PreTrainedModel, shape: Shape) -> None:
    """Cut a model in place. Raises ValueError when a plain config of the family cannot say what is left."""
    assert len(decoder_blocks(model)) == shape.num_blocks, "a shape is of one model"
    pairing = shape.pairing
    if shape.stream is not None:  # while every norm is still there
        cut_hidden(model, shape.stream.rotated)
    if shape.blocks or shape.seams:
        pair_parts(model, pairing)
    channels, groups = (
        units and [units[index] for index in blocks]
        for units, blocks in ((shape.channels, pairing.feed_forward), (shape.groups, pairing.attention))
    )
    if channels or groups:
        cut_width(model, channels=channels, groups=groups)
