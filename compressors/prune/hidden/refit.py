"""Training-free repair of a narrower stream: what reads it takes from the kept channels what the others held."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from jaxtyping import Int
from torch import Tensor

from attar.compressors.prune.depth.scan import last_logits_only
from attar.compressors.prune.hidden.cut import KeptChannels
from attar.compressors.prune.hidden.stream import stream_of, stream_readings

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass
class StreamRefit:
    """Normal equations of every norm, summed as calibration text streams by.

    With n what a norm gives in the whole model and p what it will give of the kept channels, minimise over M
    ||(n - p) - p M||^2 + ridge * sum over kept channels of mean(p_i^2) * ||M_i||^2, where n - p holds all channels, and add W M' to the
    kept columns of each matrix W that reads the norm: the matrices then read what they read before, as far as the kept channels tell.
    Memory is O(channels^2) a norm, whatever the number of tokens.
    """

    channels: KeptChannels
    num_tokens: int = 0
    _grams: dict[int, Tensor] = field(default_factory=dict)
    _cross: dict[int, Tensor] = field(default_factory=dict)
    _lost: dict[int, float] = field(default_factory=dict)

    @torch.no_grad()
    def update(self, model: PreTrainedModel, input_ids: Int[Tensor, "B T"], attention_mask: Int[Tensor, "B T"]) -> None:
        """Run one batch (right-padded) through the whole model and add its tokens to the equations."""
        keep = attention_mask.bool()

        def hook(index: int, factor: float):
            return lambda module, args, output: self._add(index, factor, args[0][keep].float(), output[keep].float())

        factors = self.channels.factors.tolist()
        readings = zip(stream_readings(model), factors, strict=True)
        hooks = [
            reading.norm.register_forward_hook(hook(index, factor)) for index, (reading, factor) in enumerate(readings)
        ]
        try:
            model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False, **last_logits_only(model))
        finally:
            for handle in hooks:
                handle.remove()
        self.num_tokens += int(keep.sum())

    def _add(self, index: int, factor: float, state: Tensor, given: Tensor) -> None:
        indices = self.channels.indices.to(state.device)
        # a norm of the cut model divides by what the kept channels hold, as if the others were zero
        share = state.norm(dim=-1, keepdim=True) / state[:, indices].norm(dim=-1, keepdim=True).clamp(min=1e-20)
        read = given[:, indices] * share * factor
        lacking = given.clone()
        lacking[:, indices] -= read
        gram, cross = read.T @ read, read.T @ lacking
        if index in self._grams:
            self._grams[index] += gram
            self._cross[index] += cross
        else:
            self._grams[index], self._cross[index] = gram, cross
        self._lost[index] = self._lost.get(index, 0.0) + float(lacking.double().pow(2).sum())

    @torch.no_grad()
    def fold(self, target: PreTrainedModel, ridge: float) -> list[float]:
        """Change the kept columns of every plain matrix that reads a norm, in place. A head that is the embedding stays.

        `target` is the model that the equations are of, or its copy in another dtype; all channels are still there and must be cut.

        Returns, for each norm, the share in [0, 1] of the squared error that is left.
        """
        table: Tensor = target.get_input_embeddings().weight  # type: ignore[union-attr, assignment]
        stream, left = stream_of(target, len(self.channels.indices)), []
        for index, reading in enumerate(stream.readings):
            gram, cross = self._grams.pop(index).double(), self._cross.pop(index).double()
            diagonal = gram.diagonal()
            penalty = ridge * diagonal.clamp(min=1e-6 * float(diagonal.mean()))
            change = torch.linalg.solve(gram + penalty.diag(), cross)  # K D
            products = float((change * (gram @ change)).sum()) - 2.0 * float((change * cross).sum())
            left.append((self._lost[index] + products) / max(self._lost[index], 1e-30))
            for matrix in stream.readers(reading.part):
                if matrix.weight is not table:
                    indices = self.channels.indices.to(matrix.weight.device)
                    update = matrix.weight.double() @ change.T.to(matrix.weight.device)
                    matrix.weight[:, indices] += update.to(matrix.weight.dtype)
        return left
