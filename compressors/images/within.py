"""What lies within a classifier on its way to logits. The vector that its last layer reads, and what its inner stages hand on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attar.compressors.images.classifier import last_layer
from attar.compressors.images.layout import image_blocks

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Parts of a net whose blocks are all of one width, which has no stages of its own: an inner end behind each part but the last.
NUM_PARTS = 3


@dataclass(frozen=True)
class Answer:
    """What a classifier makes of N images. Logits, the vectors that its last layer reads, and of each inner stage the mean over positions."""

    logits: Float[Tensor, "N K"]
    features: Float[Tensor, "N D"]
    stages: tuple[Float[Tensor, "N S"], ...] = ()


@dataclass(frozen=True)
class NetShape:
    """Sizes of a classifier that heads beside it are made by. `width`: of what the last layer reads; `class_counts`: training images a class."""

    num_classes: int
    num_channels: int
    image_size: tuple[int, int]
    width: int
    stage_widths: tuple[int, ...]
    class_counts: tuple[int, ...] = ()


def answered(model: PreTrainedModel, pixels: Float[Tensor, "N C H W"]) -> Answer:
    """Run a classifier and return its answer, with gradient where there is one."""
    features: list[Tensor] = []
    ends = inner_ends(model)
    stages: list[Tensor] = []
    handles: list[Any] = [last_layer(model).register_forward_pre_hook(lambda layer, args: features.append(args[0]))]
    handles += [end.register_forward_hook(_keeping(stages)) for end in ends]
    try:
        logits = model(pixel_values=pixels.to(model.device, model.dtype)).logits.float()
    finally:
        for handle in handles:
            handle.remove()
    return Answer(logits, features[0].float(), tuple(stages))


@torch.no_grad()
def shape_of(model: PreTrainedModel, image_size: tuple[int, int]) -> NetShape:
    """Return the sizes of a classifier that reads images of this height and width."""
    num_channels = int(model.config.num_channels)
    answer = answered(model, torch.zeros(1, num_channels, *image_size))
    stage_widths = tuple(stage.shape[-1] for stage in answer.stages)
    return NetShape(last_layer(model).out_features, num_channels, image_size, answer.features.shape[-1], stage_widths)


def inner_ends(model: PreTrainedModel) -> list[nn.Module]:
    """Return the last block of each stage but the last. Of a net without stages those behind equal parts of its blocks."""
    blocks = image_blocks(model)
    last_of = {block.stage: index for index, block in enumerate(blocks)}
    ends = sorted(last_of.values())[:-1]
    if not ends:
        ends = sorted({len(blocks) * part // NUM_PARTS - 1 for part in range(1, NUM_PARTS)} - {-1, len(blocks) - 1})
    return [blocks[index].module for index in ends]


def _keeping(into: list[Tensor]) -> Callable[..., None]:
    def keep(module: nn.Module, inputs: tuple[Tensor, ...], output: Any) -> None:
        states = output[0] if isinstance(output, tuple) else output
        # an image of channels, or of a transformer a sequence of vectors
        into.append(states.float().mean(dim=(2, 3) if states.ndim == 4 else 1))

    return keep
