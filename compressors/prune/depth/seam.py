"""Cut attention and feed-forward parts by themselves. What stays is paired anew into whole blocks, which a plain config can say."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor, nn

from attar.compressors.models.blocks import decoder_blocks, remove_blocks
from attar.compressors.models.exits import attention_exit, feed_forward_exit
from attar.compressors.models.skeleton import check_cut

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# What the two halves of a block are called where each is a norm and the part behind it, in the order in which they run.
ATTENTION_HALF = ("input_layernorm", "self_attn")
FEED_FORWARD_HALF = ("post_attention_layernorm", "mlp")


@dataclass(frozen=True)
class Pairing:
    """The blocks of a cut model: the attention part of block `attention[k]` with the feed-forward part of block `feed_forward[k]`.

    Where both are the same block it stayed whole; where they differ lies a seam: between them a feed-forward part, whole blocks and an
    attention part went. The order of all parts is the original's: attention[k] <= feed_forward[k] < attention[k + 1].
    """

    attention: tuple[int, ...]
    feed_forward: tuple[int, ...]

    @staticmethod
    def without(num_blocks: int, removed_attention: Collection[int], removed_feed_forward: Collection[int]) -> Pairing:
        """Return the pairing of what is left. Raises ValueError where parts of one kind would follow each other.

        Two attention parts in a row, or two feed-forward parts, are no block: only configs with blocks of a single part can say them.
        """
        attention = [index for index in range(num_blocks) if index not in removed_attention]
        feed_forward = [index for index in range(num_blocks) if index not in removed_feed_forward]
        kinds = sorted([(index, 0) for index in attention] + [(index, 1) for index in feed_forward])
        names = ("attention", "feed-forward")
        for position, (index, kind) in enumerate(kinds):
            if kind != position % 2:
                raise ValueError(
                    f"block {index}: its {names[kind]} part would follow another {names[kind]} part; a block of this family is one of "
                    "each. Accepted: whole blocks, and a feed-forward part together with the next attention part that stays before it"
                )
        if not kinds or len(kinds) % 2:
            raise ValueError(
                f"{len(attention)} attention and {len(feed_forward)} feed-forward parts make no whole blocks"
            )
        return Pairing(tuple(attention), tuple(feed_forward))

    @property
    def seams(self) -> list[tuple[int, int]]:
        """Return the blocks that are made of two."""
        return [pair for pair in zip(self.attention, self.feed_forward, strict=True) if pair[0] != pair[1]]


def pair_parts(model: PreTrainedModel, pairing: Pairing) -> None:
    """Leave only what the pairing names, in place; a block keeps the number of its attention part's kind.

    Raises ValueError for families whose blocks are not two halves behind each other, or whose config cannot say what is left.
    """
    blocks = decoder_blocks(model)
    num_blocks = len(blocks)
    for first, second in pairing.seams:
        for index in (first, second):
            check_halves(model, index)
        for name in FEED_FORWARD_HALF:
            setattr(blocks[first], name, getattr(blocks[second], name))
    removed = [index for index in range(num_blocks) if index not in set(pairing.attention)]
    if removed:
        check_cut(model, removed)
        remove_blocks(model, removed)


def check_halves(model: PreTrainedModel, index: int) -> None:
    """Raise ValueError unless a block is exactly a normed attention part and a normed feed-forward part behind it."""
    block, family = decoder_blocks(model)[index], type(model).__name__
    names = {name for name, child in block.named_children() if any(True for _ in child.parameters())}
    if names != {*ATTENTION_HALF, *FEED_FORWARD_HALF}:
        other = sorted(names ^ {*ATTENTION_HALF, *FEED_FORWARD_HALF})
        raise ValueError(
            f"{family}: block {index} is not a norm with attention and a norm with a feed-forward part ({', '.join(other)}); "
            "its parts cannot be cut apart"
        )


@contextmanager
def silent_parts(
    model: PreTrainedModel, attention: Collection[int] = (), feed_forward: Collection[int] = ()
) -> Iterator[None]:
    """Let these parts add nothing to the residual stream, inside: what a cut must leave the model to compute."""

    def silence(module: nn.Module, args: tuple, output: Tensor) -> Tensor:
        return output * 0.0

    exits = [attention_exit(model, index) for index in attention]
    exits += [feed_forward_exit(model, index) for index in feed_forward]
    hooks = [matrix.register_forward_hook(silence) for matrix in exits]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def removed_parts(
    num_blocks: int, blocks: Sequence[int], seams: Sequence[int]
) -> tuple[frozenset[int], frozenset[int]]:
    """Return which attention and which feed-forward parts go. A seam is named by its first block.

    A seam at block i takes its feed-forward part and the attention part of block i + 1. Raises ValueError where two want the same part.
    """
    attention, feed_forward = [*blocks, *(index + 1 for index in seams)], [*blocks, *seams]
    for what, indices in (("attention", attention), ("feed-forward", feed_forward)):
        twice = sorted({index for index in indices if indices.count(index) > 1 or not 0 <= index < num_blocks})
        if twice:
            raise ValueError(
                f"the {what} part of block {twice[0]} cannot go: it goes already, or the model has {num_blocks} blocks"
            )
    return frozenset(attention), frozenset(feed_forward)
