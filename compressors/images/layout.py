"""Where the blocks of image classifiers are, which can go, and how each family's config says what is left.

A block can go where it hands on an image of its own shape: the input is added to what it computes. The others change width or size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Block:
    """One block: its stage, where it stands in a list of modules, and whether the net runs without it."""

    stage: int
    siblings: nn.ModuleList | nn.Sequential
    index: int
    can_go: bool

    @property
    def module(self) -> nn.Module:
        """The block itself."""
        return self.siblings[self.index]


@dataclass(frozen=True)
class Layout:
    """A family: its blocks in order, and what its config says once some of them are kept alone."""

    blocks: Callable[[Any], list[Block]]
    tell: Callable[[Any, Sequence[Block], Sequence[int]], None]


def _staged(base: str, has_shortcuts: bool) -> Callable[[Any], list[Block]]:
    """Return the blocks of an encoder in stages. `has_shortcuts`: the first of each projects what it adds; else all hand on."""

    def blocks(model: Any) -> list[Block]:
        made = []
        for stage, module in enumerate(getattr(model, base).encoder.stages):
            for index, layer in enumerate(module.layers):
                is_plain = isinstance(layer.shortcut, nn.Identity) if has_shortcuts else len(module.layers) > 1
                made.append(Block(stage, module.layers, index, is_plain))
        return made

    return blocks


def _tell_depths(config: Any, blocks: Sequence[Block], left: Sequence[int]) -> None:
    stages = [blocks[index].stage for index in left]
    config.depths = [stages.count(stage) for stage in range(len(config.depths))]


def _vit_blocks(model: Any) -> list[Block]:
    layers = model.base_model.layers
    return [Block(0, layers, index, True) for index in range(len(layers))]


def _tell_number(config: Any, blocks: Sequence[Block], left: Sequence[int]) -> None:
    config.num_hidden_layers = len(left)


def _mobile_blocks(model: Any) -> list[Block]:
    """Return the inverted residuals of an EfficientNet. The first of a stage changes width or size, unless its config gives it neither."""
    blocks, stage = model.base_model.encoder.blocks, -1
    made = []
    for index, block in enumerate(blocks):
        adds = block.projection.apply_dropout  # the family's word for: the input is added
        stage += not adds
        made.append(Block(stage, blocks, index, adds))
    return made


def _tell_repeats(config: Any, blocks: Sequence[Block], left: Sequence[int]) -> None:
    stages = [blocks[index].stage for index in left]
    config.num_block_repeats = [stages.count(stage) for stage in range(len(config.num_block_repeats))]
    config.depth_coefficient = 1.0  # the repeats are counted as they are now
    new_index = {old: new for new, old in enumerate(left)}
    config.depthwise_padding = [new_index[old] for old in config.depthwise_padding if old in new_index]


# By transformers' name of the family. Each is tried: cut, written, loaded, exported.
LAYOUTS: dict[str, Layout] = {
    "resnet": Layout(_staged("resnet", has_shortcuts=True), _tell_depths),
    "regnet": Layout(_staged("regnet", has_shortcuts=True), _tell_depths),
    "convnext": Layout(_staged("convnext", has_shortcuts=False), _tell_depths),
    "convnextv2": Layout(_staged("convnextv2", has_shortcuts=False), _tell_depths),
    "vit": Layout(_vit_blocks, _tell_number),
    "efficientnet": Layout(_mobile_blocks, _tell_repeats),
}


def image_blocks(model: PreTrainedModel) -> list[Block]:
    """Return the blocks of a classifier in order."""
    return LAYOUTS[model.config.model_type].blocks(model)


def check_image_cut(num_blocks: int, removable: Sequence[int], removed: Sequence[int]) -> None:
    """Raise ValueError unless `removed` are distinct blocks that hand on an image of their own shape."""
    for index in removed:
        if not 0 <= index < num_blocks:
            raise ValueError(f"block {index} does not exist: the model has {num_blocks} blocks, 0 to {num_blocks - 1}")
        if index not in removable:
            raise ValueError(
                f"block {index} changes width or size of what it reads, so that nothing can stand in for it; accepted: "
                f"{', '.join(map(str, removable)) or 'none of this model'}"
            )
    if len(set(removed)) != len(removed):
        raise ValueError(f"blocks {list(removed)}: an index is repeated")


def remove_image_blocks(model: PreTrainedModel, removed: Sequence[int]) -> None:
    """Remove blocks in place, and let the config say what is left. Raises ValueError for blocks that cannot go, or the last of a stage."""
    blocks = image_blocks(model)
    check_image_cut(len(blocks), [index for index, block in enumerate(blocks) if block.can_go], removed)
    left = [index for index in range(len(blocks)) if index not in set(removed)]
    for stage in {block.stage for block in blocks}:
        if not any(blocks[index].stage == stage for index in left):
            raise ValueError(f"removing blocks {list(removed)} leaves none of stage {stage}; accepted: one at least")
    LAYOUTS[model.config.model_type].tell(model.config, blocks, left)
    for index in sorted(removed, reverse=True):
        block = blocks[index]
        del block.siblings[block.index]


@contextmanager
def without_blocks(model: PreTrainedModel, removed: Sequence[int]) -> Iterator[None]:
    """Let these blocks hand on what they read, by hand, inside the context: what the cut model must compute."""
    blocks = image_blocks(model)
    handles = [blocks[index].module.register_forward_hook(_hand_on) for index in removed]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _hand_on(module: nn.Module, inputs: tuple[Tensor, ...], output: Any) -> Any:
    return (inputs[0], *output[1:]) if isinstance(output, tuple) else inputs[0]
