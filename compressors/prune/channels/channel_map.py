"""Which channels of a net come and go together. Every dimension of every tensor, by the space that it runs over.

A space is a set of channels with one order wherever they are written and read: what a residual stream carries through a stage, what a block
widens to, the heads of an attention. Taking a unit out of a space takes its entries out of all these tensors at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING, Any, Literal

import torch
from jaxtyping import Int
from torch import Tensor, nn

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Numbers of a family's config by name, and of units by space.
Counts = Mapping[str, int]
# Norms over channels, which a removed channel would change: those of layers, and the global response norm.
NormKind = Literal["layer", "response"]


@dataclass(frozen=True)
class Space:
    """Units that come and go together, of `width` channels each. `count`: how many there are once the config's numbers are others."""

    num_units: int
    count: Callable[[Counts], int]
    width: int = 1

    def channels(self, units: Int[Tensor, "U"]) -> Int[Tensor, "N"]:
        """Return the channels of some units, in order."""
        return (units[:, None] * self.width + torch.arange(self.width, device=units.device)).flatten()


@dataclass(frozen=True)
class Width:
    """A number of a family's config that can fall. Of channels, a multiple of `unit`; of heads; or a ratio between two widths."""

    value: int
    unit: int = 1
    least: int = 1
    kind: Literal["channels", "heads", "ratio"] = "channels"

    def step(self, name: str, multiple_of: int) -> int:
        """Return by how much it falls at least. Raises ValueError where multiples asked for and groups of channels do not divide."""
        if self.kind != "channels":
            return 1
        if multiple_of % self.unit and self.unit % multiple_of:
            raise ValueError(
                f"size.multiple_of is {multiple_of}, but the channels of {name} go in groups of {self.unit}; accepted: a multiple of {self.unit}, "
                "or a number that divides it"
            )
        return max(multiple_of, self.unit)


@dataclass(frozen=True)
class ChannelMap:
    """The spaces of a net, with its tensors' dimensions that run over them. The config's numbers say how many units they have."""

    spaces: Mapping[str, Space]
    # of each tensor, the space of each of its first dimensions; empty where the dimension stays
    dims: Mapping[str, tuple[str, ...]]
    norms: Mapping[str, NormKind]
    shapes: Mapping[str, tuple[int, ...]]
    widths: Mapping[str, Width]
    # writes numbers into a config; raises ValueError for those that the family cannot say
    tell: Callable[[Any, Counts], None]

    @property
    def values(self) -> dict[str, int]:
        """The config's numbers as they are."""
        return {name: width.value for name, width in self.widths.items()}

    def counts(self, values: Counts) -> dict[str, int]:
        """Return the units of each space under other numbers."""
        return {name: space.count(values) for name, space in self.spaces.items()}

    def num_parameters(self, values: Counts) -> int:
        """Return the parameters of the net under other numbers."""
        counts = self.counts(values)
        total = 0
        for name, shape in self.shapes.items():
            spaces = self.dims.get(name, ())
            sizes = [counts[space] * self.spaces[space].width if space else 0 for space in spaces]
            total += prod(
                now or was for was, now in zip(shape, [*sizes, *[0] * (len(shape) - len(sizes))], strict=True)
            )
        return total


@dataclass
class Walk:
    """Notes, module by module, which space each dimension of a net's tensors runs over."""

    model: PreTrainedModel
    spaces: dict[str, Space] = field(default_factory=dict)
    dims: dict[str, tuple[str, ...]] = field(default_factory=dict)
    norms: dict[str, NormKind] = field(default_factory=dict)
    widths: dict[str, Width] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._names = {module: name for name, module in self.model.named_modules()}

    def space(self, name: str, num_units: int, count: Callable[[Counts], int], width: int = 1) -> str:
        """Note a space and return its name."""
        self.spaces[name] = Space(num_units, count, width)
        return name

    def stream(self, name: str, num_channels: int, unit: int = 1) -> str:
        """Note a space whose number of channels the config says itself, and return its name."""
        self.widths[name] = Width(num_channels, unit, least=unit)
        return self.space(name, num_channels, lambda values: values[name])

    def matrix(self, module: nn.Module, into: str, out: str) -> None:
        """Note a convolution or matrix; what a grouped convolution reads of each group stays."""
        name = self._names[module]
        self.dims[f"{name}.weight"] = (out, "" if getattr(module, "groups", 1) > 1 else into)
        self.dims[f"{name}.bias"] = (out,)

    def vectors(self, module: nn.Module, space: str, kind: NormKind | None = None) -> None:
        """Note what has a number a channel, the last dimension of each of its tensors. `kind`: of a norm over the channels."""
        name = self._names[module]
        for tensor_name, tensor in module.state_dict().items():
            if tensor.ndim:
                self.dims[f"{name}.{tensor_name}"] = ("",) * (tensor.ndim - 1) + (space,)
        if kind:
            self.norms[name] = kind

    def vector(self, module: nn.Module, name: str, space: str) -> None:
        """Note one parameter of a module, with a number a channel."""
        self.dims[f"{self._names[module]}.{name}"] = (space,)

    def whole(self, tell: Callable[[Any, Counts], None]) -> ChannelMap:
        """Return the map of what was noted."""
        shapes = {name: tuple(parameter.shape) for name, parameter in self.model.named_parameters()}
        return ChannelMap(self.spaces, self.dims, self.norms, shapes, self.widths, tell)
