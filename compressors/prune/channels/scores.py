"""Scores of channels, heads and widths of image classifiers. Low means removable; one pass over images where a score reads any."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attar.compressors.prune.channels.channel_map import ChannelMap
from attar.compressors.prune.channels.gates import gate_slopes
from attar.compressors.prune.width.scores import Source

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class ImageWidthScore(Protocol):
    """Score of every unit of every space, at least 0. `is_loss`: in nats, so that units of two spaces compare."""

    source: ClassVar[Source]
    is_loss: ClassVar[bool]

    def of_weights(self, model: PreTrainedModel, channels: ChannelMap) -> dict[str, Float[Tensor, "U"]]:
        """Return the scores that the weights alone tell; of one that reads images, nothing."""
        ...


@dataclass(frozen=True)
class Taylor:
    """|slope of the loss by a gate on the unit|: first-order change of the loss without it, L2 over images. https://arxiv.org/abs/1906.10771"""

    source: ClassVar[Source] = "gradients"
    is_loss: ClassVar[bool] = True

    def of_weights(self, model: PreTrainedModel, channels: ChannelMap) -> dict[str, Float[Tensor, "U"]]:
        return {}


@dataclass(frozen=True)
class BatchNorm:
    """Mean |scale| of the batch norms that a unit goes through; no data. Network slimming. https://arxiv.org/abs/1708.06519"""

    source: ClassVar[Source] = "weights"
    is_loss: ClassVar[bool] = False

    def of_weights(self, model: PreTrainedModel, channels: ChannelMap) -> dict[str, Float[Tensor, "U"]]:
        scales: dict[str, list[Tensor]] = {}
        for name, module in model.named_modules():
            if isinstance(module, nn.BatchNorm2d) and (dims := channels.dims.get(f"{name}.weight")):
                width = channels.spaces[dims[0]].width
                scales.setdefault(dims[0], []).append(module.weight.detach().float().abs().unflatten(0, (-1, width)))
        if not scales:
            raise ValueError(
                f"score is 'batch_norm', but {type(model).__name__} has no batch norms; accepted: taylor, magnitude, random"
            )
        # what a gate squeezes into goes through none
        others = Magnitude().of_weights(model, channels)
        return {
            name: torch.stack(scales[name]).sum(dim=-1).mean(dim=0).cpu() if name in scales else others[name]
            for name in channels.spaces
        }


@dataclass(frozen=True)
class Magnitude:
    """L2 norm of all weights that a unit has, in every tensor; no data. DepGraph's group norm. https://arxiv.org/abs/2301.12900"""

    source: ClassVar[Source] = "weights"
    is_loss: ClassVar[bool] = False

    def of_weights(self, model: PreTrainedModel, channels: ChannelMap) -> dict[str, Float[Tensor, "U"]]:
        squares = {name: torch.zeros(space.num_units) for name, space in channels.spaces.items()}
        for name, parameter in model.named_parameters():
            for axis, space in enumerate(channels.dims.get(name, ()) if parameter.ndim > 1 else ()):
                if space:
                    by_channel = parameter.detach().float().square().movedim(axis, 0).flatten(1).sum(dim=1)
                    squares[space] += by_channel.unflatten(0, (-1, channels.spaces[space].width)).sum(dim=1).cpu()
        return {name: total.sqrt() for name, total in squares.items()}


@dataclass(frozen=True)
class Random:
    """Uniform in [0, 1), from a seed; no data. A control."""

    source: ClassVar[Source] = "weights"
    is_loss: ClassVar[bool] = False
    seed: int = 0

    def of_weights(self, model: PreTrainedModel, channels: ChannelMap) -> dict[str, Float[Tensor, "U"]]:
        generator = torch.Generator().manual_seed(self.seed)
        return {name: torch.rand(space.num_units, generator=generator) for name, space in channels.spaces.items()}


IMAGE_WIDTH_SCORES: dict[str, type[ImageWidthScore]] = {
    "taylor": Taylor,
    "batch_norm": BatchNorm,
    "magnitude": Magnitude,
    "random": Random,
}


@dataclass
class ImageWidthScan:
    """The scores of a net's units; of those that read images, summed as these stream by."""

    score: ImageWidthScore
    channels: ChannelMap
    num_images: int = 0
    _sums: dict[str, Tensor] = field(default_factory=dict)

    def update(self, model: PreTrainedModel, pixels: Float[Tensor, "B C H W"], labels: Sequence[int]) -> None:
        """Run one batch of images and add it. Not for scores that read weights alone."""
        for name, slopes in gate_slopes(model, self.channels, pixels, labels).items():
            squares = slopes.double().square().sum(dim=0).cpu()
            self._sums[name] = self._sums.get(name, torch.zeros_like(squares)) + squares
        self.num_images += len(pixels)

    def scores(self, model: PreTrainedModel) -> Mapping[str, Float[Tensor, "U"]]:
        """Return the scores of every space's units. Raises ValueError for one that is no number."""
        made = self.score.of_weights(model, self.channels)
        made |= {name: (total / self.num_images).sqrt() for name, total in self._sums.items()}
        for name, scores in made.items():
            if not torch.isfinite(scores).all():
                raise ValueError(f"{name}: a score of its channels is not a finite number")
        return made
