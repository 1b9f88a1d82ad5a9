"""Take experts out of every mixture, or merge them, leaving a plain model of the same family with fewer."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from attar.compressors.models.experts import COUNT_NAMES, MoeLayer, moe_layers
from attar.compressors.models.skeleton import as_read
from attar.compressors.prune.experts.methods import Assignment

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel


def check_config(model: PreTrainedModel, layers: Sequence[MoeLayer], num_kept: int) -> None:
    """Raise ValueError unless a model built from the changed config has `num_kept` experts a block, else the same."""
    family = type(model).__name__
    refusal = f"{family}: its config cannot say that {num_kept} of {layers[0].routing.num_experts} experts are left"
    config = copy.deepcopy(model.config)
    _set_count(config, layers[0].routing.num_experts, num_kept)
    try:
        with torch.device("meta"):
            skeleton = type(model)(as_read(config))
        skeleton_layers = moe_layers(skeleton)
    except Exception as error:  # a config class may raise anything
        raise ValueError(f"{refusal}: {' '.join(str(error).split())[:300]}") from error
    cut = {id(tensor) for layer in layers for _, _, tensor in layer.tensors()}
    wanted = {
        name: (num_kept, *tensor.shape[1:]) if id(tensor) in cut else tuple(tensor.shape)
        for name, tensor in (*model.named_parameters(), *model.named_buffers())
    }
    shapes = {name: tuple(tensor.shape) for name, tensor in (*skeleton.named_parameters(), *skeleton.named_buffers())}
    for name in [*wanted, *shapes]:
        if wanted.get(name) != shapes.get(name):
            raise ValueError(f"{refusal}: {name} would be {shapes.get(name)}, not {wanted.get(name)}")
    if [layer.routing.top_k for layer in skeleton_layers] != [layer.routing.top_k for layer in layers]:
        raise ValueError(f"{refusal}: a token would go to another number of experts")


@torch.no_grad()
def fold_merged(layers: Sequence[MoeLayer], assignments: Sequence[Assignment]) -> None:
    """Write what merged experts become into the rows that stay, in place, in float32; nothing where experts only go."""
    for layer, assignment in zip(layers, assignments, strict=True):
        if assignment.shares is None:
            continue
        for module, _, tensor in layer.tensors():
            if module is layer.experts or assignment.has_mean_rows:
                shares = assignment.shares.to(tensor.device, torch.float32)
                mixed = (shares @ tensor.float().reshape(len(tensor), -1)).reshape(len(shares), *tensor.shape[1:])
                tensor[assignment.kept_experts.to(tensor.device)] = mixed.to(tensor.dtype)


@torch.no_grad()
def cut_experts(model: PreTrainedModel, layers: Sequence[MoeLayer], assignments: Sequence[Assignment]) -> None:
    """Keep only the assigned experts and their rows in the routers, in place, and say so in the config.

    A model loaded from the result computes what this one computes when its routers choose none of the others.
    """
    num_experts, num_kept = layers[0].routing.num_experts, len(assignments[0].kept_experts)
    for layer, assignment in zip(layers, assignments, strict=True):
        assert len(assignment.kept_experts) == num_kept, "every block keeps the same number"
        for module, name, tensor in list(layer.tensors()):
            rows = tensor[assignment.kept_experts.to(tensor.device)].contiguous()
            if name in module._parameters:
                setattr(module, name, nn.Parameter(rows, requires_grad=tensor.requires_grad))
            else:
                module._buffers[name] = rows
    for module in model.modules():  # routers, experts and the head's balancing loss noted it when they were built
        _set_noted(module, num_experts, num_kept)
    _set_count(model.config, num_experts, num_kept)


@contextmanager
def masked_routers(layers: Sequence[MoeLayer], assignments: Sequence[Assignment]) -> Iterator[None]:
    """Mask all but the assigned experts with minus infinity in the routers, inside. A cut must compute the same."""
    with torch.no_grad():
        corrections = [
            (tensor, tensor.clone(), _is_removed(layer, assignment).to(tensor.device))
            for layer, assignment in zip(layers, assignments, strict=True)
            for tensor in layer.router.buffers(recurse=False)
        ]
    try:
        for layer, assignment in zip(layers, assignments, strict=True):
            layer.router.forward = _masked(layer.router.forward, _is_removed(layer, assignment))
        for (
            tensor,
            _,
            is_removed,
        ) in corrections:  # a sigmoid makes 0 of minus infinity, which a correction may lift again
            tensor.masked_fill_(is_removed, -torch.inf)
        yield
    finally:
        for tensor, own, _ in corrections:
            tensor.copy_(own)
        for layer in layers:
            layer.router.__dict__.pop("forward", None)


class _MaskedLogits(TorchFunctionMode):
    """Fills some columns of what every linear map gives with minus infinity."""

    def __init__(self, is_removed: Bool[Tensor, "N"]) -> None:
        super().__init__()
        self.is_removed = is_removed

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Compute the function; mask it where it is a linear map."""
        output = func(*args, **(kwargs or {}))
        if func is nn.functional.linear:
            return output.masked_fill(self.is_removed.to(output.device), -torch.inf)
        return output


def _masked(forward: Any, is_removed: Bool[Tensor, "N"]) -> Any:
    def masked(*args: Any, **kwargs: Any) -> Any:
        with _MaskedLogits(is_removed):
            return forward(*args, **kwargs)

    return masked


def _is_removed(layer: MoeLayer, assignment: Assignment) -> Bool[Tensor, "N"]:
    is_removed = torch.ones(layer.routing.num_experts, dtype=torch.bool)
    is_removed[assignment.kept_experts] = False
    return is_removed


def _set_count(config: PretrainedConfig, num_experts: int, num_kept: int) -> None:
    """Set the number of experts under each name that the config has for it."""
    for name in COUNT_NAMES:
        if getattr(config, name, None) == num_experts:
            setattr(config, name, num_kept)


def _set_noted(module: nn.Module, num_experts: int, num_kept: int) -> None:
    for name in COUNT_NAMES:
        if vars(module).get(name) == num_experts:
            setattr(module, name, num_kept)
