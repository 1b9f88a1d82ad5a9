"""Hold the weights of one decoder block in memory, and of more where there is room. The others stay in their store."""

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
    """Brings a block's weights into memory before it runs or is read. The block before it goes, or stays where there is room.

    A block whose weights were changed in between is written back to the store first, so that a walk along the blocks may change each.
    A reference to a weight is good until another block is brought: its memory is the next one's.
    """

    store: TensorStore
    device: torch.device
    slots: dict[nn.Module, list[Slot]]
    # how many bytes of blocks stay in memory beside the one that is in use
    room_bytes: float = 0.0
    _current: nn.Module | None = None
    _versions: list[tuple[int, int]] = field(default_factory=list)
    _buffers: Buffers = field(default_factory=Buffers)
    # of the blocks in memory: the buffers that were read into
    _taken: dict[nn.Module, list[Tensor]] = field(default_factory=dict)
    # in which turn a block was last in use
    _turns: dict[nn.Module, int] = field(default_factory=dict)
    _turn: int = 0

    def bring(self, block: nn.Module) -> None:
        """Bring this block's weights into memory."""
        if block is self._current:
            return
        self.leave()
        if block not in self._taken:
            taken = self._taken[block] = []
            # a tensor made in inference mode could not be changed outside, and would not tell that it was
            with torch.inference_mode(False), torch.no_grad():
                for slot in self.slots[block]:
                    taken.append(self._read(slot))
                    slot.put(taken[-1])
        self._current, self._versions = block, self._read_versions(block)

    def leave(self) -> None:
        """End the turn of the block in use, keeping what was changed. It stays in memory where there is room."""
        block, self._current = self._current, None
        if block is None:
            return
        with torch.inference_mode(False), torch.no_grad():
            for slot, before, now in zip(self.slots[block], self._versions, self._read_versions(block), strict=True):
                if before != now:
                    self.store.write(slot.name, slot.parameter.detach())
        if not self._has_room(block):
            self._take_out(block)

    def empty(self) -> None:
        """Take every block out of memory."""
        self.leave()
        for block in list(self._taken):
            self._take_out(block)

    def _has_room(self, block: nn.Module) -> bool:
        """Say whether a block stays. One that was not in use since this one's turn before makes room: it is not of this round.

        Rounds go along the blocks: the block that was used longest ago is the next to be used, and the last one to be taken out.
        """
        before, self._turn = self._turns.get(block, 0), self._turn + 1
        self._turns[block] = self._turn
        others = sorted((other for other in self._taken if other is not block), key=self._turns.__getitem__)
        num_bytes = self._num_bytes(block) + sum(map(self._num_bytes, others))
        for other in others:
            if num_bytes <= self.room_bytes or self._turns[other] >= before:
                break
            num_bytes -= self._num_bytes(other)
            self._take_out(other)
        return num_bytes <= self.room_bytes

    def _num_bytes(self, block: nn.Module) -> int:
        return sum(slot.parameter.nbytes for slot in self.slots[block])

    def _take_out(self, block: nn.Module) -> None:
        with torch.inference_mode(False), torch.no_grad():
            for slot in self.slots[block]:
                slot.put(torch.empty_like(slot.parameter, device="meta"))
        for tensor in self._taken.pop(block):
            self._buffers.give_back(tensor)

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


def page_blocks(model: PreTrainedModel, store: TensorStore, device: torch.device, room_bytes: float = 0.0) -> None:
    """Let a model whose blocks have no numbers (device "meta") read each block's from the store when it is needed.

    All else must be in memory. The model then runs as any other, without gradients, one block after the other. Blocks of `room_bytes`
    in all stay in memory: a run reads the others alone.
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
    _point(model, Pager(store, device, slots, room_bytes))
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
    pager.empty()
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
