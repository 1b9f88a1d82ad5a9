"""Trace a causal model into one ONNX graph with a KV cache that serves prefill (empty cache) and decode alike."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel


class CachedForward(nn.Module):
    """A causal model whose cache goes in and out as a flat list of tensors, which is what a graph can hold.

    In: input_ids, attention_mask (cache and input), position_ids, then key and value of every block. Out: logits and the grown cache.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(
        self,
        input_ids: Int[Tensor, "B T"],
        attention_mask: Int[Tensor, "B S"],
        position_ids: Int[Tensor, "B T"],
        past: list[Float[Tensor, "B heads past head_size"]],
    ) -> tuple[Tensor, ...]:
        cache = DynamicCache(list(zip(past[0::2], past[1::2], strict=True)))
        output = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=cache,
            use_cache=True,
        )
        present = [tensor for layer in output.past_key_values.layers for tensor in (layer.keys, layer.values)]
        return (output.logits, *present)


def cache_names(num_blocks: int, prefix: str) -> list[str]:
    """Return the graph's cache names in order: `prefix.0.key`, `prefix.0.value`, ..."""
    return [f"{prefix}.{index}.{part}" for index in range(num_blocks) for part in ("key", "value")]


def export_program(model: PreTrainedModel) -> torch.onnx.ONNXProgram:
    """Return the ONNX program of a model in float32, batch, input and cache lengths dynamic.

    Raises ValueError for a family whose forward lacks what the graph needs.
    """
    _check_exportable(model)
    num_blocks = model.config.num_hidden_layers
    example, shapes = _example_inputs(model)
    program = torch.onnx.export(
        CachedForward(model).eval(),
        kwargs=example,
        input_names=["input_ids", "attention_mask", "position_ids", *cache_names(num_blocks, "past_key_values")],
        output_names=["logits", *cache_names(num_blocks, "present")],
        dynamic_shapes=shapes,
        dynamo=True,
        optimize=True,
        verbose=False,
    )
    assert program is not None, "the dynamo exporter returns a program"
    return program


def cache_shape(config: Any) -> tuple[int, int]:
    """Return (key/value heads, head size) of a config."""
    num_heads = config.num_attention_heads
    head_size = getattr(config, "head_dim", None) or config.hidden_size // num_heads
    return getattr(config, "num_key_value_heads", None) or num_heads, head_size


def _check_exportable(model: PreTrainedModel) -> None:
    parameters = inspect.signature(model.forward).parameters
    if "position_ids" not in parameters or "past_key_values" not in parameters:
        raise ValueError(f"{type(model).__name__} takes no position_ids or no cache; it has no cached graph")
    if any(kind != "full_attention" for kind in getattr(model.config, "layer_types", None) or []):
        raise ValueError("sliding or linear attention keeps a cache of another shape; only full attention is exported")


def _example_inputs(model: PreTrainedModel) -> tuple[dict[str, Any], dict[str, Any]]:
    num_heads, head_size = cache_shape(model.config)
    num_rows, num_new, num_past = 2, 3, 5  # distinct and above 1: the tracer specialises on 0, 1 and on equal sizes
    past = [torch.randn(num_rows, num_heads, num_past, head_size) for _ in range(2 * model.config.num_hidden_layers)]
    example = {
        "input_ids": torch.ones(num_rows, num_new, dtype=torch.long),
        "attention_mask": torch.ones(num_rows, num_past + num_new, dtype=torch.long),
        "position_ids": torch.arange(num_past, num_past + num_new).repeat(num_rows, 1),
        "past": past,
    }
    batch, new = torch.export.Dim("batch"), torch.export.Dim("new")
    old, total = torch.export.Dim("past"), torch.export.Dim.DYNAMIC
    shapes = {
        "input_ids": {0: batch, 1: new},
        "attention_mask": {0: batch, 1: total},
        "position_ids": {0: batch, 1: new},
        "past": [{0: batch, 2: old} for _ in past],
    }
    return example, shapes
