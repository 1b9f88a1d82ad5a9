"""Trace a model in ONNX' own operators alone. Attention is two products and a softmax, and its cache grows by columns at the end."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from attar.compressors.export.experts import TRAITS
from attar.compressors.export.fused import attending_by, attention_door, fuse_rms_norms
from attar.compressors.export.names import CachePart
from attar.compressors.export.rotary import refuse_changing
from attar.compressors.export.tracing import MASKED, Tracing

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@contextmanager
def standard_operators(model: PreTrainedModel, parts: Sequence[CachePart], *, fuse_norms: bool) -> Iterator[Tracing]:
    """Trace attention as elementary operators inside the block. RMS norms that allow it are one node, all else is the family's own code."""
    tracing = Tracing(parts, model.config.num_hidden_layers, is_causal=True)
    with ExitStack() as stack:
        stack.enter_context(attending_by(model, attention_door(tracing, model.config, attend)))
        if fuse_norms:
            fuse_rms_norms(model, stack)
        yield tracing


def refuse_other_nodes(model: PreTrainedModel, parts: Sequence[CachePart]) -> None:
    """Raise ValueError for a model whose graph needs onnxruntime's own nodes, or whose angles change with the text's length."""
    name = type(model).__name__
    if any(not part.is_growing for part in parts):
        raise ValueError(
            f"{name} keeps states of convolutions or recurrences, whose nodes are com.microsoft.CausalConvWithState and "
            "LinearAttention; accepted: operators fused"
        )
    for module in model.modules():
        if all(hasattr(module, trait) for trait in TRAITS):
            raise ValueError(
                f"{name} multiplies by chosen experts, whose node is com.microsoft.MoE; accepted: operators fused"
            )
        if type(module).__name__.endswith("RotaryEmbedding"):
            refuse_changing(module)


def attend(
    tracing: Tracing,
    states: list[Float[Tensor, "B H T D"]],
    past: list[Float[Tensor, "B K P D"]],
    sinks: Float[Tensor, "H"] | None,
    settings: dict[str, Any],
) -> list[Tensor]:
    """Trace softmax(scale q k' + bias) v over the past and the new columns. See `Attend`.

    scores = softcap tanh(scores / softcap) where there is a cap; sinks are a column more in the softmax that no value stands behind.
    """
    query, *new = states
    present = [torch.cat(pair, dim=2) for pair in zip(past, new, strict=True)]
    key, value = (_for_each_head(grown, query.shape[1]) for grown in present)
    scores = query @ key.transpose(2, 3) * settings["scale"]
    if cap := settings["softcap"]:
        scores = cap * torch.tanh(scores / cap)
    scores = scores + _bias(tracing, settings["local_window_size"])
    if sinks is not None:
        column = sinks.reshape(1, -1, 1, 1).expand(scores.shape[0], -1, scores.shape[2], 1)
        weights = torch.softmax(torch.cat([scores, column], dim=-1), dim=-1)[..., :-1]
    else:
        weights = torch.softmax(scores, dim=-1)
    return [(weights @ value).transpose(1, 2), *present]


def _for_each_head(states: Float[Tensor, "B K S D"], num_heads: int) -> Float[Tensor, "B H S D"]:
    num_rows, num_shared, num_columns, width = states.shape
    if num_shared == num_heads:
        return states
    # in this form runtimes know grouped heads, and read each key once
    grouped = states[:, :, None].expand(num_rows, num_shared, num_heads // num_shared, num_columns, width)
    return grouped.reshape(num_rows, num_heads, num_columns, width)


def _bias(tracing: Tracing, window: int) -> Float[Tensor, "B 1 T S"]:
    assert tracing.bias is not None and tracing.distances is not None, "begun before the model is called"
    return tracing.bias if window < 0 else torch.where(tracing.distances < window, tracing.bias, MASKED)
