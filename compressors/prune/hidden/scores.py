"""Which channels of the residual stream matter, gathered while calibration text streams by: energy, importance, principal directions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from attar.compressors.prune.hidden.cut import KeptChannels
from attar.compressors.prune.hidden.stream import stream_readings
from attar.compressors.prune.width.scores import highest

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# The two axes: channels as they are, and channels of the stream turned to its principal directions.
HIDDEN, ROTATED = "hidden", "rotated"
PREFIX = "stream."


@dataclass(frozen=True)
class StreamUnits:
    """What was seen of the stream.

    `energy`: mean square of each channel of the normalised state that a norm reads, of all that its channels hold, a row a norm.
    `importance`: Minitron's, mean square of what the norms give, summed over norms with equal weight (https://arxiv.org/abs/2407.14679).
    `rotation`: principal directions in columns, `variances`: the share of each, descending, over the states that all norms read.
    """

    importance: Float[Tensor, "D"]
    energy: Float[Tensor, "N D"]
    rotation: Float[Tensor, "D D"] | None = None
    variances: Float[Tensor, "D"] | None = None

    def keep(self, axis: str, count: int) -> KeptChannels:
        """Return the channels that stay where so many do. Each norm's factor is the root of the share of energy that they hold."""
        if axis == HIDDEN:
            channels = highest(self.importance, count)
            return KeptChannels(channels, self.energy[:, channels].sum(dim=1).sqrt())
        assert self.rotation is not None and self.variances is not None, "measured where the axis was asked for"
        share = self.variances[:count].sum().sqrt()
        return KeptChannels(torch.arange(count), share.expand(len(self.energy)), self.rotation)

    def tensors(self) -> dict[str, Tensor]:
        """Return all of it by name, for a file."""
        named = {f"{PREFIX}{name}": value for name, value in vars(self).items() if value is not None}
        return {name: value.float().contiguous() for name, value in named.items()}

    @staticmethod
    def of_tensors(tensors: Mapping[str, Tensor]) -> StreamUnits | None:
        """Return what such names hold; None where there are none."""
        named = {name.removeprefix(PREFIX): value for name, value in tensors.items() if name.startswith(PREFIX)}
        return StreamUnits(**named) if named else None


@dataclass
class StreamScan:
    """Running moments of the states that the norms read. Memory: O(norms * channels), with `is_rotated` O(channels^2) more."""

    model: PreTrainedModel
    is_rotated: bool = False
    num_tokens: int = 0
    _squares: dict[int, Tensor] = field(default_factory=dict)
    _covariance: Tensor | None = None

    @contextmanager
    def watching(self, attention_mask: Int[Tensor, "B T"]) -> Iterator[None]:
        """Add the tokens of the one forward pass that runs inside; padding does not count."""
        keep = attention_mask.bool()

        @torch.no_grad()
        def see(index: int, state: Tensor) -> None:
            tokens = state.detach()[keep].float()
            # every token alike, however large its state is
            tokens = tokens * tokens.pow(2).mean(dim=-1, keepdim=True).clamp(min=1e-30).rsqrt()
            total = tokens.pow(2).sum(dim=0).double()
            self._squares[index] = self._squares[index] + total if index in self._squares else total
            if self.is_rotated:
                product = (tokens.T @ tokens).double()
                self._covariance = product if self._covariance is None else self._covariance.add_(product)

        def hook(index: int):
            return lambda module, args: see(index, args[0])

        readings = stream_readings(self.model)
        hooks = [reading.norm.register_forward_pre_hook(hook(index)) for index, reading in enumerate(readings)]
        try:
            yield
        finally:
            for handle in hooks:
                handle.remove()
        self.num_tokens += int(keep.sum())

    def units(self) -> StreamUnits:
        """Return what was seen."""
        readings = stream_readings(self.model)
        squares = torch.stack([self._squares[index] for index in range(len(readings))]).cpu()
        weights = torch.stack([_weight(reading.norm) for reading in readings])
        given = squares * weights.pow(2)
        importance = (given / given.sum(dim=1, keepdim=True)).sum(dim=0)
        units = StreamUnits(importance.float(), (squares / squares.sum(dim=1, keepdim=True)).float())
        if self._covariance is None:
            return units
        variances, directions = torch.linalg.eigh(self._covariance.cpu())
        shares = (variances / variances.sum()).flip(0).clamp(min=0.0)
        return StreamUnits(units.importance, units.energy, directions.flip(1).float(), shares.float())


def _weight(norm: nn.Module) -> Tensor:
    weight: Tensor = norm.weight  # type: ignore[assignment]
    return weight.detach().double().cpu()
