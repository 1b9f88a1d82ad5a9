"""Run an exported graph under the same interface as a torch model."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from compressors.export.graph import cache_names
from compressors.measure.runner import positions_of


class OnnxRunner:
    """An onnxruntime session with a KV cache, as a `CausalRunner`. `provider` is what the session must really run on.

    Raises ValueError when onnxruntime fell back to another provider: it does so silently.
    """

    def __init__(self, session: Any, provider: str = "CPUExecutionProvider") -> None:
        actual = session.get_providers()[0]
        if actual != provider:
            raise ValueError(f"onnxruntime runs on {actual}, not on {provider}: its library or driver is missing")
        self.session = session
        self.device = torch.device("cpu")
        past = [entry for entry in session.get_inputs() if entry.name.startswith("past_key_values.")]
        self._past_names = [entry.name for entry in past]
        self._head_shape = (past[0].shape[1], past[0].shape[3])
        self._output_names = ["logits", *cache_names(len(past) // 2, "present")]

    def forward(
        self, input_ids: Int[Tensor, "B T"], attention_mask: Int[Tensor, "B S"], cache: Any, last_only: bool
    ) -> tuple[Float[Tensor, "B T V"], Any]:
        """See CausalRunner.forward; the cache is the list of the graph's outputs."""
        num_rows = input_ids.shape[0]
        if cache is None:
            heads, head_size = self._head_shape
            cache = [np.zeros((num_rows, heads, 0, head_size), dtype=np.float32) for _ in self._past_names]
        feeds = {
            "input_ids": input_ids.numpy(),
            "attention_mask": attention_mask.numpy(),
            "position_ids": positions_of(attention_mask, input_ids.shape[1]).numpy(),
            **dict(zip(self._past_names, cache, strict=True)),
        }
        logits, *present = self.session.run(self._output_names, feeds)
        logits = torch.from_numpy(logits)
        return (logits[:, -1:] if last_only else logits), present

    def select_rows(self, cache: Any, rows: Int[Tensor, "R"]) -> Any:
        return [tensor[rows.numpy()] for tensor in cache]
