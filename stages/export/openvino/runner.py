"""Run an OpenVINO folder under a torch model's interface. A request of the runtime holds the state of its rows."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from attar.compressors.models.runner import positions_of
from attar.compressors.models.slots import Slots
from attar.stages.export.openvino.representation import BEAMS, MODEL
from attar.stages.export.proof.runtimes import OPENVINO_EXACT


def open_folder(folder: Path) -> OpenVinoRunner:
    """Return a runner of the folder's model on the CPU, with as many threads as torch uses. Raises ValueError where it does not open."""
    openvino = importlib.import_module("openvino")
    settings = {**OPENVINO_EXACT, "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    try:
        return OpenVinoRunner(openvino.Core().compile_model(str(folder / MODEL), "CPU", settings))
    except RuntimeError as error:
        reason = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise ValueError(f"OpenVINO does not open {MODEL}: {reason[-1] if reason else error}") from error


class OpenVinoRunner:
    """A compiled model with its cache inside, as a `CausalRunner`. The cache that it hands on is the request whose state it is."""

    device = torch.device("cpu")
    shares_prefixes = False

    def __init__(self, compiled: Any) -> None:
        self._compiled = compiled

    @property
    def torch_model(self) -> None:
        return None

    def forward(
        self, input_ids: Int[Tensor, "B T"], attention_mask: Int[Tensor, "B S"], cache: Any, last_only: bool
    ) -> tuple[Float[Tensor, "B T V"], Any]:
        """See CausalRunner.forward; a cache that was given away has moved on."""
        request = self._compiled.create_infer_request() if cache is None else cache
        inputs = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "position_ids": positions_of(attention_mask, input_ids.shape[1]),
        }
        arrays = {name: np.ascontiguousarray(tensor.numpy()) for name, tensor in inputs.items()}
        request.infer({**arrays, BEAMS: np.arange(len(input_ids), dtype=np.int32)})
        logits = torch.from_numpy(np.array(request.get_tensor("logits").data))
        return (logits[:, -1:] if last_only else logits), request

    def open_slots(self, num_rows: int, num_prompt: int, num_new: int) -> Slots:
        return OpenVinoSlots(self, num_rows)


class OpenVinoSlots:
    """Slots of an OpenVINO model: a request a row, since a state has no columns to be refilled."""

    def __init__(self, runner: OpenVinoRunner, num_rows: int) -> None:
        self._runner = runner
        self._requests: list[Any] = [None] * num_rows

    def fill(self, rows: Sequence[int], prompts: Sequence[Sequence[int]]) -> None:
        for row, prompt in zip(rows, prompts, strict=True):
            self._requests[row] = None
            if len(prompt) > 1:
                ids = torch.tensor([list(prompt[:-1])])
                _, self._requests[row] = self._runner.forward(ids, torch.ones_like(ids), None, True)

    def step(self, tokens: Sequence[int], lengths: Sequence[int]) -> Float[Tensor, "B V"]:
        rows = []
        for row, (token, length) in enumerate(zip(tokens, lengths, strict=True)):
            mask = torch.ones(1, length + 1, dtype=torch.long)
            # a row that is done is stepped on as if it were empty
            request = self._requests[row] if length else None
            logits, self._requests[row] = self._runner.forward(torch.tensor([[token]]), mask, request, True)
            rows.append(logits[:, -1])
        return torch.cat(rows)

    def move(self, source: int, target: int) -> None:
        self._requests[target] = self._requests[source]
        self._requests[source] = None
