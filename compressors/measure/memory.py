"""Bytes that a model holds while it writes: its weights and its cache, counted tensor by tensor."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch

from attar.compressors.models.runner import CausalRunner


def held_bytes(runner: CausalRunner, weight_bytes: int, num_prompt_tokens: int) -> int:
    """Return weights plus the cache behind a prompt, batch 1, in bytes. Room that is made for tokens to come counts.

    `weight_bytes`: of a model that torch does not hold, such as a graph. Activations are not counted: they live for a moment.
    """
    prompt = torch.zeros(1, num_prompt_tokens, dtype=torch.long, device=runner.device)
    _, cache = runner.forward(prompt, torch.ones_like(prompt), None, last_only=True)
    model = runner.torch_model
    weights = weight_bytes if model is None else _distinct_bytes([*model.parameters(), *model.buffers()])
    return weights + _distinct_bytes(_tensors(cache, set()))


def _distinct_bytes(tensors: Any) -> int:
    """Return the bytes of the storages behind tensors, each once. Tied weights and views hold no more than what they share."""
    sizes: dict[int, int] = {}
    for tensor in tensors:
        if isinstance(tensor, np.ndarray):
            sizes[tensor.ctypes.data] = tensor.nbytes
        else:
            storage = tensor.untyped_storage()
            sizes[storage.data_ptr()] = storage.nbytes()
    return sum(sizes.values())


def _tensors(value: Any, seen: set[int]) -> Iterator[Any]:
    """Yield the tensors within a cache, whatever it is made of. Of what is no container only what it keeps in attributes is looked into."""
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, torch.Tensor | np.ndarray):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _tensors(inner, seen)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _tensors(inner, seen)
    elif (
        hasattr(value, "__dict__") and not isinstance(value, type) and not hasattr(value, "forward")
    ):  # a cache, not its model
        for name, inner in vars(value).items():
            if not name.startswith("_"):
                yield from _tensors(inner, seen)
