"""Hold the weights of one decoder block at a time in memory; the others stay in their store."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor, nn

from attar.compressors.models.blocks import decoder_blocks

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ATTRIBUTE = "_attar_pager"


class TensorStore(Protocol):
    """Where the weights of the other blocks lie, by the names they had when the model was loaded."""

    def dtype(self, name: str) -> torch.dtype:
        """Return the dtype that one tensor is stored in."""
        ...

    def read(self, name: str) -> Tensor:
        """Return one tensor of that dtype, on the CPU, in memory of its own."""
        ...

    def read_into(self, name: str, tensor: Tensor) -> None:
        """Fill a tensor of that dtype, on the CPU, with its numbers."""
        ...

    def write(self, name: str, tensor: Tensor) -> None:
        """Keep the new numbers of one tensor, which are read from now on."""
        ...

    def layered(self, name: str) -> TensorStore:
        """Return a store that reads what this one reads now, and keeps changes of its own under that name."""
        ...


@dataclass(frozen=True)
class Slot:
    """One parameter of a block: the module that holds it, its name there, its name in the store."""

    module: nn.Module
    key: str
    name: str

    @property
    def parameter(self) -> nn.Parameter:
        """The parameter as it is now, in memory or without numbers."""
        parameter = self.module._parameters[self.key]
        assert parameter is not None
        return parameter

    def put(self, tensor: Tensor) -> None:
        """Set the parameter, without a gradient."""
        self.module._parameters[self.key] = nn.Parameter(tensor, requires_grad=False)


@dataclass
class Buffers:
    """Memory that blocks take turns in: to allocate it anew costs more than to read a block."""

    _free: dict[tuple[torch.Size, torch.dtype, torch.device], list[Tensor]] = field(default_factory=dict)

    def take(self, shape: torch.Size, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Return a tensor with any numbers in it, which nobody else holds until it is given back."""
        free = self._free.get((shape, dtype, device))
        return free.pop() if free else torch.empty(shape, dtype=dtype, device=device)

    def give_back(self, tensor: Tensor) -> None:
        """Let another block have the memory."""
        self._free.setdefault((tensor.shape, tensor.dtype, tensor.device), []).append(tensor)


@dataclass
class Pager:
    """Brings a block's weights into memory before it runs or is read, and takes the block before it out again.

    A block whose weights were changed in between is written back to the store first, so that a walk along the blocks may change each.
    A reference to a weight is good until another block is brought: its memory is the next one's.
    """

    store: TensorStore
    device: torch.device
    slots: dict[nn.Module, list[Slot]]
    _current: nn.Module | None = None
    _versions: list[tuple[int, int]] = field(default_factory=list)
    _buffers: Buffers = field(default_factory=Buffers)
    _taken: list[Tensor] = field(default_factory=list)

    def bring(self, block: nn.Module) -> None:
        """Bring this block's weights into memory, and no other's."""
        if block is self._current:
            return
        self.leave()
        # a tensor made in inference mode could not be changed outside, and would not tell that it was
        with torch.inference_mode(False), torch.no_grad():
            for slot in self.slots[block]:
                self._taken.append(self._read(slot))
                slot.put(self._taken[-1])
        self._current, self._versions = block, self._read_versions(block)

    def leave(self) -> None:
        """Take the block in memory out, keeping what was changed."""
        block, self._current = self._current, None
        if block is None:
            return
        with torch.inference_mode(False), torch.no_grad():
            for slot, before, now in zip(self.slots[block], self._versions, self._read_versions(block), strict=True):
                if before != now:
                    self.store.write(slot.name, slot.parameter.detach())
                slot.put(torch.empty_like(slot.parameter, device="meta"))
            while self._taken:
                self._buffers.give_back(self._taken.pop())

    def _read(self, slot: Slot) -> Tensor:
        shape, dtype = slot.parameter.shape, slot.parameter.dtype
        stored = self._buffers.take(shape, self.store.dtype(slot.name), torch.device("cpu"))
        self.store.read_into(slot.name, stored)
        if stored.dtype == dtype and stored.device == self.device:
            return stored
        tensor = self._buffers.take(shape, dtype, self.device).copy_(stored)
        self._buffers.give_back(stored)
        return tensor

    def stored_names(self, blocks: Iterable[nn.Module]) -> dict[int, str]:
        """Return the name in the store of each parameter of these blocks, by the parameter's id."""
        return {id(slot.parameter): slot.name for block in blocks for slot in self.slots[block]}

    def _read_versions(self, block: nn.Module) -> list[tuple[int, int]]:
        return [(id(slot.parameter), slot.parameter._version) for slot in self.slots[block]]


def page_blocks(model: PreTrainedModel, store: TensorStore, device: torch.device) -> None:
    """Let a model whose blocks have no numbers (device "meta") read each block's from the store when it is needed.

    All else must be in memory. The model then runs as any other, without gradients, one block after the other.
    """
    names = {module: name for name, module in model.named_modules()}
    slots = {
        block: [
            Slot(module, key, f"{names[module]}.{key}")
            for module in block.modules()
            for key, parameter in module._parameters.items()
            if parameter is not None
        ]
        for block in decoder_blocks(model)
    }
    _point(model, Pager(store, device, slots))
    for block in decoder_blocks(model):
        block.register_forward_pre_hook(_before_run, prepend=True)


def pager_of(model: PreTrainedModel) -> Pager | None:
    """Return the pager of a model that is paged, else None."""
    return vars(model).get(ATTRIBUTE)


def bring(block: nn.Module) -> nn.Module:
    """Return a block with its weights in memory: what reads or changes them outside of a run says so."""
    pager: Pager | None = vars(block).get(ATTRIBUTE)
    if pager is not None:
        pager.bring(block)
    return block


def brought(model: PreTrainedModel) -> Iterator[nn.Module]:
    """Yield the blocks one after the other, each with its weights in memory."""
    return (bring(block) for block in decoder_blocks(model))


def twin(model: PreTrainedModel, dtype: torch.dtype, name: str) -> PreTrainedModel:
    """Return a copy of a model in another dtype. A paged one's copy is paged, its changes kept under that name."""
    pager = pager_of(model)
    if pager is None:
        return copy.deepcopy(model).to(dtype)  # type: ignore[arg-type]
    pager.leave()
    _point(model, None)
    try:
        other = copy.deepcopy(model).to(dtype)  # type: ignore[arg-type]
    finally:
        _point(model, pager)
    modules = dict(zip(model.modules(), other.modules(), strict=True))
    slots = {
        modules[block]: [Slot(modules[slot.module], slot.key, slot.name) for slot in pager.slots[block]]
        for block in decoder_blocks(model)
    }
    _point(other, Pager(pager.store.layered(name), pager.device, slots))
    return other


def _point(model: PreTrainedModel, pager: Pager | None) -> None:
    for module in (model, *decoder_blocks(model)):
        vars(module)[ATTRIBUTE] = pager


def _before_run(block: nn.Module, args: tuple) -> None:
    if "forward" not in vars(block):  # one that is passed by needs no weights
        bring(block)
