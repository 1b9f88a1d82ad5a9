"""Run a model without some of its blocks, or from a recorded state on, leaving the model as it is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attar.compressors.models.blocks import decoder_blocks

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@contextmanager
def without_blocks(
    model: PreTrainedModel,
    removed: frozenset[int],
    resume_at: int = 0,
    state: Float[Tensor, "B T D"] | None = None,
    *,
    is_tuple: bool = False,
) -> Iterator[None]:
    """Let the model run without some blocks; with `state`, begin with it before block `resume_at` instead of at the embeddings.

    `is_tuple`: whether the family's blocks return tuples. Only for runs without a KV cache.
    """
    blocks = decoder_blocks(model)
    passed = removed | set(range(resume_at))

    def pass_on(entry: Tensor | None) -> Callable:
        def forward(*args: Tensor, **kwargs: Tensor) -> Tensor | tuple[Tensor, None]:
            hidden = entry if entry is not None else args[0] if args else kwargs["hidden_states"]
            return (hidden, None) if is_tuple else hidden

        return forward

    try:
        for index in passed:
            # the last block that is passed by before the entry hands on the state that belongs there
            blocks[index].forward = pass_on(state if index == resume_at - 1 else None)
        yield
    finally:
        for index in passed:
            del blocks[index].forward


@contextmanager
def handing_on(model: PreTrainedModel, removed: Iterable[int]) -> Iterator[None]:
    """Let some blocks hand their input on, whatever a family's blocks return. They still run: what later blocks take from them stays."""

    def hand_on(module: nn.Module, args: tuple, kwargs: dict, output: Tensor | tuple | list) -> Tensor | tuple:
        hidden = args[0] if args else kwargs["hidden_states"]
        return (hidden, *output[1:]) if isinstance(output, tuple | list) else hidden

    blocks = decoder_blocks(model)
    hooks = [blocks[index].register_forward_hook(hand_on, with_kwargs=True) for index in removed]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def stopped(module: nn.Module, *, is_before: bool = False) -> Iterator[list[Tensor]]:
    """End a model's run right behind a module (`is_before`: in front of it), keeping what it gave (received). The rest need not run."""
    outputs: list[Tensor] = []

    def receive(module: nn.Module, args: tuple, kwargs: dict) -> None:
        outputs.append(args[0] if args else kwargs["hidden_states"])
        raise _EnoughError

    def give(module: nn.Module, args: tuple, output: Tensor | tuple) -> None:
        outputs.append(output[0] if isinstance(output, tuple) else output)
        raise _EnoughError

    hook = (
        module.register_forward_pre_hook(receive, with_kwargs=True) if is_before else module.register_forward_hook(give)
    )
    try:
        yield outputs
    except _EnoughError:
        pass
    finally:
        hook.remove()


@torch.no_grad()
def returns_tuple(model: PreTrainedModel) -> bool:
    """Return whether the blocks of a model's family return tuples."""
    seen: list[bool] = []
    block = decoder_blocks(model)[0]
    hook = block.register_forward_hook(lambda module, args, output: seen.append(isinstance(output, tuple)))
    try:
        model(input_ids=torch.zeros(1, 1, dtype=torch.long, device=model.device), use_cache=False)
    finally:
        hook.remove()
    return seen[0]


class _EnoughError(Exception):
    """Ends a run whose rest is not needed."""
