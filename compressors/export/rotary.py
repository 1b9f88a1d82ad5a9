"""Rotary embedding as one ONNX node over tables of all positions. Families whose function turns halves against each other have it."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def fuse_rotary(model: PreTrainedModel, positions: Callable[[], Tensor | None], stack: ExitStack) -> None:
    """Trace the family's rotary function as one node. The model hands on tables of all positions instead of rows of some.

    `positions` gives the position of each token once the trace is on. Raises ValueError for tables that depend on the text's length.
    """
    sources = {sys.modules[type(module).__module__] for module in model.modules()}
    sources = [source for source in sources if hasattr(source, "apply_rotary_pos_emb")]
    tables = [module for module in model.modules() if type(module).__name__.endswith("RotaryEmbedding")]
    if not sources or not tables or not all(_turns_halves(source.apply_rotary_pos_emb) for source in sources):
        return
    if getattr(
        model.config, "rope_interleave", False
    ):  # DeepSeek turns neighbours by a function beside, on whole tables
        return
    for module in tables:
        stack.enter_context(patch.object(module, "forward", _tables_door(module, model.config)))
    for source in sources:
        stack.enter_context(patch.object(source, "apply_rotary_pos_emb", _rotary_door(positions)))


def refuse_changing(module: nn.Module) -> None:
    """Raise ValueError for a rotary embedding whose angles depend on the text's length."""
    kinds = getattr(module, "rope_type", "default")
    kinds = set(kinds.values()) if isinstance(kinds, dict) else {kinds}
    if depends := kinds & {"dynamic", "longrope"}:
        raise ValueError(
            f"rotary embedding of type {depends.pop()!r} changes with the text's length; a graph has one table"
        )


def _tables_door(module: nn.Module, config: Any) -> Callable[..., tuple[Tensor, Tensor]]:
    refuse_changing(module)
    positions = torch.arange(config.max_position_embeddings)[None]
    has_kinds = "layer_type" in inspect.signature(module.forward).parameters
    with torch.no_grad():
        tables = {
            kind: tuple(
                table[0, :, : table.shape[-1] // 2].float().contiguous()  # both halves are the same
                for table in module(torch.zeros(1), positions, *([kind] if has_kinds else []))
            )
            for kind in (set(config.layer_types) if has_kinds else [None])
        }

    def forward(x: Tensor, position_ids: Tensor, layer_type: str | None = None) -> tuple[Tensor, Tensor]:
        return tables[layer_type]  # type: ignore[return-value]

    return forward


def _rotary_door(positions: Callable[[], Tensor | None]) -> Callable[..., tuple[Tensor, Tensor]]:
    def rotate(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, unsqueeze_dim: int = 1) -> tuple[Tensor, Tensor]:
        turned = []
        for entry in (q, k):
            states = entry if unsqueeze_dim == 1 else entry.transpose(1, 2)
            num_rows, num_heads, num_new, head_size = states.shape
            flat = states.transpose(1, 2).reshape(num_rows, num_new, num_heads * head_size)
            flat = torch.onnx.ops.symbolic(
                "com.microsoft::RotaryEmbedding",
                [flat, positions(), cos, sin],
                {"num_heads": num_heads, "rotary_embedding_dim": 2 * cos.shape[1]},
                dtype=states.dtype,
                shape=flat.shape,
                version=1,
            )
            heads = flat.reshape(num_rows, num_new, num_heads, head_size)
            turned.append(heads.transpose(1, 2) if unsqueeze_dim == 1 else heads)
        return turned[0], turned[1]

    return rotate


def _turns_halves(function: Callable[..., Any]) -> bool:
    """Say whether a family's function turns the first half of the leading channels against the second, which is what the node does."""
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(1, 2, 3, 12, generator=generator)
    for num_turned in (12, 8):
        half = torch.randn(1, 3, num_turned // 2, generator=generator)
        cos, sin = torch.cat([half.cos()] * 2, dim=-1), torch.cat([half.sin()] * 2, dim=-1)
        first, second = states[..., : num_turned // 2], states[..., num_turned // 2 : num_turned]
        turned = torch.cat([first * half.cos() - second * half.sin(), second * half.cos() + first * half.sin()], dim=-1)
        expected = torch.cat([turned, states[..., num_turned:]], dim=-1)
        try:
            actual = function(states, states, cos, sin)[0]
        except (RuntimeError, TypeError):  # a family without partial turning refuses the smaller table
            if num_turned == 12:
                return False
            continue
        if not torch.allclose(actual, expected, atol=1e-5):
            return False
    return True
