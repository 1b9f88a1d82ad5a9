"""Hold a model's blocks in shards, a part of every matrix in each process, by torch's FSDP2. The rest of the model is whole everywhere.

https://docs.pytorch.org/docs/stable/distributed.fsdp.fully_shard.html
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from attar.compressors.models.blocks import decoder_blocks
from attar.compressors.models.trained_weights import HasParameters, local

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.tensor import DTensor
    from transformers import PreTrainedModel


def shard_blocks(model: PreTrainedModel, mesh: DeviceMesh) -> None:
    """Leave each process of the mesh its part of every block and trained norm, on the mesh's device.

    A block's weights are gathered for its run and go behind it, forward and backward; gradients are averaged over the processes. Every
    process must hold the same weights before. Raises ValueError where something is trained that no block and no norm is.
    """
    from torch.distributed.fsdp import FSDPModule, fully_shard  # half a second that one process need not wait for

    base, device = model.base_model, torch.device(mesh.device_type)
    blocks = decoder_blocks(model)
    in_blocks = {id(parameter) for parameter in blocks.parameters()}
    norms = {
        id(parameter)
        for name, child in base.named_modules()
        if "norm" in type(child).__name__.lower()
        for parameter in child.parameters()
    }
    whole = [parameter for parameter in model.parameters() if id(parameter) not in in_blocks]
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and id(parameter) not in in_blocks | norms:
            raise ValueError(f"{name} is trained, but lies in no block: in shards only blocks and norms can be")
    ignored = {parameter for parameter in whole if not parameter.requires_grad}
    for block in blocks:
        fully_shard(block, mesh=mesh, reshard_after_forward=True)
    fully_shard(base, mesh=mesh, reshard_after_forward=True, ignored_params=ignored)
    for parameter in ignored:  # those are left where they were
        parameter.data = parameter.data.to(device)
    if device.type == "cpu":
        for module in base.modules():
            if isinstance(module, FSDPModule):
                module.set_force_sum_reduction_for_comms(True)  # sums that are divided: the way that is tested on a CPU


def is_sharded(model: HasParameters) -> bool:
    """Say whether a process holds only parts of some parameters."""
    return any(hasattr(parameter, "full_tensor") for parameter in model.parameters())


def whole(tensor: Tensor) -> Tensor:
    """Return a tensor with all of its parts. Every process must ask."""
    return cast("DTensor", tensor).full_tensor() if hasattr(tensor, "full_tensor") else tensor


@torch.no_grad()
def gather_trained(model: nn.Module) -> None:
    """Put whole parameters, on the CPU, in the place of the trained ones. Every process takes part; the model runs no more."""
    for module in model.modules():
        for key, parameter in list(module._parameters.items()):
            if parameter is not None and parameter.requires_grad:
                module._parameters[key] = nn.Parameter(whole(parameter).detach().cpu())


def local_state(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return an optimizer's state with this process's parts alone, plain tensors that a file can hold."""
    moments = {index: {name: _part(value) for name, value in entry.items()} for index, entry in state["state"].items()}
    return {**state, "state": moments}


def sharded_state(state: Mapping[str, Any], parameters: Iterable[nn.Parameter]) -> dict[str, Any]:
    """Return what `local_state` was made of: the parts of parameters that are sharded are so again."""
    moments = {}
    by_index = dict(enumerate(parameters))
    for index, entry in state["state"].items():
        parameter = by_index[index]
        moments[index] = {
            name: _as_part_of(parameter, value) if isinstance(value, Tensor) and value.dim() else value
            for name, value in entry.items()
        }
    return {**state, "state": moments}


def _part(value: Any) -> Any:
    return local(value) if isinstance(value, Tensor) else value


def _as_part_of(parameter: nn.Parameter, value: Tensor) -> Tensor:
    if not hasattr(parameter, "full_tensor"):
        return value
    from torch.distributed.tensor import DTensor  # loaded where parameters are such

    sharded = cast("DTensor", parameter)
    return DTensor.from_local(
        value, sharded.device_mesh, sharded.placements, run_check=False, shape=sharded.shape, stride=sharded.stride()
    )
