"""A guided model as one ONNX graph: `guidance_scale` is an input, one number a row, and there is one KV cache."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from compressors.export.graph import CachedForward, cache_names, check_exportable, example_inputs
from compressors.guidance.adapters import GuidanceAdapters

SCALE_NAME = "guidance_scale"


class GuidedForward(nn.Module):
    """A CachedForward of a model with adapters attached, which is told the scale of each row first."""

    def __init__(self, model: PreTrainedModel, adapters: GuidanceAdapters) -> None:
        super().__init__()
        self.cached, self.adapters = CachedForward(model), adapters

    def forward(
        self,
        input_ids: Int[Tensor, "B T"],
        attention_mask: Int[Tensor, "B S"],
        position_ids: Int[Tensor, "B T"],
        guidance_scale: Float[Tensor, "B"],
        past: list[Float[Tensor, "B heads past head_size"]],
    ) -> tuple[Tensor, ...]:
        with self.adapters.at(guidance_scale):
            return self.cached(input_ids, attention_mask, position_ids, past)


def guided_program(model: PreTrainedModel, adapters: GuidanceAdapters) -> torch.onnx.ONNXProgram:
    """Return the ONNX program of a float32 model with adapters attached: `export_program`'s graph with one input more."""
    check_exportable(model)
    num_blocks = model.config.num_hidden_layers
    example, shapes = example_inputs(model)
    num_rows = example["input_ids"].shape[0]
    example[SCALE_NAME] = torch.full((num_rows,), 1.5)
    shapes[SCALE_NAME] = {0: shapes["input_ids"][0]}
    order = ("input_ids", "attention_mask", "position_ids", SCALE_NAME, "past")
    program = torch.onnx.export(
        GuidedForward(model, adapters).eval(),
        kwargs={name: example[name] for name in order},
        input_names=[*order[:-1], *cache_names(num_blocks, "past_key_values")],
        output_names=["logits", *cache_names(num_blocks, "present")],
        dynamic_shapes={name: shapes[name] for name in order},
        dynamo=True,
        optimize=True,
        verbose=False,
    )
    assert program is not None, "the dynamo exporter returns a program"
    return program


@dataclass(frozen=True)
class ScaledSession:
    """A session of a guided graph at one scale: looks like that of a plain graph, so `OnnxRunner` takes it."""

    session: Any
    scale: float

    def get_providers(self) -> list[str]:
        """Return where the session runs."""
        return self.session.get_providers()

    def get_inputs(self) -> list[Any]:
        """Return the inputs that are left to feed."""
        return [entry for entry in self.session.get_inputs() if entry.name != SCALE_NAME]

    def run(self, names: list[str], feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
        """Run the graph with every row at the scale."""
        scales = np.full(len(feeds["input_ids"]), self.scale, dtype=np.float32)
        return self.session.run(names, {**feeds, SCALE_NAME: scales})
