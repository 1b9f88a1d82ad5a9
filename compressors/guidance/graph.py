"""A guided model as one ONNX graph. `guidance_scale` is an input, one number a row, and there is one KV cache."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from attar.compressors.guidance.adapters import GuidanceAdapters

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SCALE_NAME = "guidance_scale"
PLAIN_INPUTS = ("input_ids", "attention_mask", "position_ids")


class GuidedForward(nn.Module):
    """A causal model with adapters attached, its cache a flat list of tensors. Key and value of every block in, the grown ones out."""

    def __init__(self, model: PreTrainedModel, adapters: GuidanceAdapters) -> None:
        super().__init__()
        self.model, self.adapters = model, adapters

    def forward(
        self,
        input_ids: Int[Tensor, "B T"],
        attention_mask: Int[Tensor, "B S"],
        position_ids: Int[Tensor, "B T"],
        guidance_scale: Float[Tensor, "B"],
        past: list[Float[Tensor, "B heads past head_size"]],
    ) -> tuple[Tensor, ...]:
        from transformers import DynamicCache  # a second that a plan need not wait for

        cache = DynamicCache(list(zip(past[0::2], past[1::2], strict=True)))
        with self.adapters.at(guidance_scale):
            output = self.model(
                input_ids=input_ids,
                attention_mask=attention_mask,
                position_ids=position_ids,
                past_key_values=cache,
                use_cache=True,
            )
        present = [tensor for layer in output.past_key_values.layers for tensor in (layer.keys, layer.values)]
        return (output.logits, *present)


def guided_program(model: PreTrainedModel, adapters: GuidanceAdapters) -> torch.onnx.ONNXProgram:
    """Return the ONNX program of a float32 model with adapters attached; batch, input and cache lengths dynamic.

    Raises ValueError for a family whose forward or cache is of another kind.
    """
    example, shapes = _example_inputs(model)
    num_tensors = len(example["past"])
    program = torch.onnx.export(
        GuidedForward(model, adapters).eval(),
        kwargs=example,
        input_names=[*PLAIN_INPUTS, SCALE_NAME, *_cache_names(num_tensors, "past_key_values")],
        output_names=["logits", *_cache_names(num_tensors, "present")],
        dynamic_shapes=shapes,
        dynamo=True,
        optimize=True,
        verbose=False,
    )
    assert program is not None, "the dynamo exporter returns a program"
    return program


@dataclass(frozen=True)
class GuidedGraph:
    """An onnxruntime session of a guided graph: one text at a time, each under a scale of its own."""

    session: Any

    def greedy(
        self, prompt: Sequence[int], scale: float, num_new_tokens: int
    ) -> tuple[list[int], Float[Tensor, "T V"]]:
        """Return (the greedy continuation, the logits of the prompt)."""
        past = [entry for entry in self.session.get_inputs() if entry.name.startswith("past_key_values.")]
        cache = [np.zeros((1, entry.shape[1], 0, entry.shape[3]), dtype=np.float32) for entry in past]
        written: list[int] = []
        tokens, prompt_logits = list(prompt), None
        for _ in range(num_new_tokens):
            num_seen = cache[0].shape[2]
            feeds = {
                "input_ids": np.array([tokens], dtype=np.int64),
                "attention_mask": np.ones((1, num_seen + len(tokens)), dtype=np.int64),
                "position_ids": np.arange(num_seen, num_seen + len(tokens), dtype=np.int64)[None],
                SCALE_NAME: np.array([scale], dtype=np.float32),
                **{entry.name: states for entry, states in zip(past, cache, strict=True)},
            }
            logits, *cache = self.session.run(["logits", *_cache_names(len(past), "present")], feeds)
            prompt_logits = torch.from_numpy(logits[0]) if prompt_logits is None else prompt_logits
            tokens = [int(logits[0, -1].argmax())]
            written += tokens
        assert prompt_logits is not None, "at least one token is asked for"
        return written, prompt_logits


def _cache_names(num_tensors: int, prefix: str) -> list[str]:
    return [f"{prefix}.{index // 2}.{('key', 'value')[index % 2]}" for index in range(num_tensors)]


@torch.no_grad()
def _example_inputs(model: PreTrainedModel) -> tuple[dict[str, Any], dict[str, Any]]:
    parameters = inspect.signature(model.forward).parameters
    if "position_ids" not in parameters or "past_key_values" not in parameters:
        raise ValueError(f"{type(model).__name__} takes no position_ids or no cache; it has no cached graph")
    if any(kind != "full_attention" for kind in getattr(model.config, "layer_types", None) or []):
        raise ValueError(
            "sliding or linear attention keeps a cache of another shape; guided graphs are of full attention"
        )
    num_rows, num_new, num_past = 2, 3, 5  # distinct and above 1: the tracer specialises on 0, 1 and on equal sizes
    seen = torch.ones(num_rows, num_past, dtype=torch.long)
    cache = model(input_ids=seen, use_cache=True).past_key_values
    past = [tensor for layer in cache.layers for tensor in (layer.keys, layer.values)]
    example = {
        "input_ids": torch.ones(num_rows, num_new, dtype=torch.long),
        "attention_mask": torch.ones(num_rows, num_past + num_new, dtype=torch.long),
        "position_ids": torch.arange(num_past, num_past + num_new).repeat(num_rows, 1),
        SCALE_NAME: torch.full((num_rows,), 1.5),
        "past": past,
    }
    batch, new = torch.export.Dim("batch"), torch.export.Dim("new")
    old, total = torch.export.Dim("past"), torch.export.Dim.DYNAMIC
    shapes = {
        "input_ids": {0: batch, 1: new},
        "attention_mask": {0: batch, 1: total},
        "position_ids": {0: batch, 1: new},
        SCALE_NAME: {0: batch},
        "past": [{0: batch, 2: old} for _ in past],
    }
    return example, shapes
