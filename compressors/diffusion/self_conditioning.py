"""Condition the later blocks of a denoiser on what its middle makes of the image. Features that say most are learned there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attar.compressors.diffusion.net import position_rows

# The name of the path among a net's modules, and of its tensors' beginnings.
PATH = "self_conditioning"


@dataclass(frozen=True, eq=False)
class Bottleneck:
    """Of a net: the block whose output is read, and what is told timestep and class behind it.

    `argument`: which argument of those modules is that condition.
    """

    block: nn.Module
    readers: tuple[nn.Module, ...]
    argument: int
    width: int
    condition_width: int


class SelfConditioning(nn.Module):
    """c' = c + P mean_n h_n for every block behind the one that gives h. P is zero at the start: the net is as it was.

    The mean is over positions. https://arxiv.org/abs/2505.10999
    """

    def __init__(self, bottleneck: Bottleneck) -> None:
        super().__init__()
        self.projection = nn.Linear(bottleneck.width, bottleneck.condition_width)
        nn.init.zeros_(self.projection.weight)
        nn.init.zeros_(self.projection.bias)
        self._argument = bottleneck.argument
        # of the pass that runs: a list, which tracers let a hook fill
        self._added: list[Tensor] = []

    # hooks are methods of this module: a copy of the whole net copies them onto its own path
    def keep(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """Keep what is added to the conditions of this pass."""
        self._added[:] = [self.projection(pooled(output))]

    def add(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return the arguments of a module with the condition among them changed."""
        [added] = self._added
        changed = list(args)
        changed[self._argument] = changed[self._argument] + added
        return tuple(changed)

    def forget(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """Drop what a finished pass added: it holds the pass's graph."""
        self._added.clear()


def add_self_conditioning(net: nn.Module, bottleneck: Bottleneck) -> None:
    """Put a fresh path into a net, among its modules. Raises ValueError for a net without a block behind the one that is read."""
    if not bottleneck.readers:
        raise ValueError("self_conditioning: no block stands behind the one that is read; accepted: two blocks or more")
    path = SelfConditioning(bottleneck).to(next(net.parameters()).device)
    net.add_module(PATH, path)
    bottleneck.block.register_forward_hook(path.keep)
    for reader in bottleneck.readers:
        reader.register_forward_pre_hook(path.add)
    net.register_forward_hook(path.forget)


def pooled(output: Tensor | tuple[Tensor, ...]) -> Float[Tensor, "B C"]:
    """Return the mean over positions of what a block gives: the features of an image."""
    return position_rows(output).mean(dim=1)


@torch.no_grad()
def pooled_features(
    net: nn.Module,
    bottleneck: Bottleneck,
    states: Float[Tensor, "B C H W"],
    times: Tensor,
    classes: Tensor,
) -> Float[Tensor, "B F"]:
    """Return what a net's middle makes of noised images, pooled."""
    outputs: list[Tensor] = []
    handle = bottleneck.block.register_forward_hook(lambda module, args, output: outputs.append(pooled(output)))
    try:
        net(states, times, class_labels=classes, return_dict=False)
    finally:
        handle.remove()
    return outputs[0].float()
