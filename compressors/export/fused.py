"""Trace attention, recurrences, experts, rotary embedding and RMS norms of any family as one ONNX node each.

transformers calls them through few doors: the attention interface, functions of the family's module, and modules. Where families
compute different things behind a door, it is replaced only if it computes what the node does, on random numbers.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, cast
from unittest.mock import patch

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attar.compressors.export.experts import fuse_experts
from attar.compressors.export.names import GROWING, CachePart
from attar.compressors.export.recurrent import fuse_recurrent
from attar.compressors.export.rotary import fuse_rotary
from attar.compressors.export.tracing import Tracing

if TYPE_CHECKING:
    from transformers import PreTrainedModel

INTERFACE = "attar_graph"
RMS_NORM_OPSET = 23
# How a graph attends, from the trace, queries, keys and values of one size, the past of both, sinks and the settings, to what the heads
# give (rows, tokens, heads, size), and the grown keys and values.
Attend = Callable[[Tracing, list[Tensor], list[Tensor], Tensor | None, dict[str, Any]], list[Tensor]]


@contextmanager
def attending_by(model: PreTrainedModel, attend: Callable[..., Any]) -> Iterator[None]:
    """Let this function be the model's attention inside the block, by transformers' own interface. No mask is made for it."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, AttentionInterface  # there since the model is

    config = model.config
    before = config._attn_implementation
    AttentionInterface.register(INTERFACE, attend)
    config._attn_implementation = INTERFACE
    try:
        yield
    finally:
        config._attn_implementation = before
        ALL_ATTENTION_FUNCTIONS._global_mapping.pop(INTERFACE, None)


@contextmanager
def fused_operators(model: PreTrainedModel, parts: Sequence[CachePart], *, fuse_norms: bool) -> Iterator[Tracing]:
    """Trace attention, recurrences and experts (and rotary embeddings and norms that allow it) as single nodes inside the block."""
    tracing = Tracing(parts, model.config.num_hidden_layers)
    with ExitStack() as stack:
        stack.enter_context(attending_by(model, attention_door(tracing, model.config, _grouped_attention)))
        if fuse_norms:
            fuse_rms_norms(model, stack)
        fuse_rotary(model, lambda: tracing.position_ids, stack)
        fuse_recurrent(model, tracing, stack)
        fuse_experts(model, stack)
        yield tracing


def fuse_rms_norms(model: PreTrainedModel, stack: ExitStack) -> None:
    """Trace RMS norms as one node of ONNX' own each."""
    for module in model.modules():
        if norm := _norm_door(module):
            stack.enter_context(patch.object(module, "forward", norm))


def attention_door(tracing: Tracing, config: Any, attend_by: Attend) -> Callable[..., tuple[Tensor, None]]:
    """Return what stands behind transformers' attention interface during the trace. `attend_by` makes the nodes."""

    def attend(
        module: nn.Module,
        query: Float[Tensor, "B H T D"],
        key: Float[Tensor, "B K T D"],
        value: Float[Tensor, "B K T V"],
        attention_mask: Tensor | None,
        scaling: float | None = None,
        softcap: float | None = None,
        sliding_window: int | None = None,
        s_aux: Float[Tensor, "H"] | None = None,
        **options: Any,
    ) -> tuple[Tensor, None]:
        if options.get("position_bias") is not None:
            raise ValueError(f"{type(module).__name__} adds a position bias to its scores; no graph is built for it")
        index = block_of(module)
        source, value_size = tracing.keys_of(key, index), value.shape[-1]
        settings = {
            "scale": float(scaling if scaling is not None else query.shape[-1] ** -0.5),
            "softcap": float(softcap or 0.0),
            "local_window_size": sliding_window or _window(config, index) or -1,
        }
        past = [tracing.past[source, name] for name in GROWING]
        heads, *present = attend_by(tracing, _of_one_size(query, key, value), past, s_aux, settings)
        if source == index:
            tracing.present |= {(index, name): states for name, states in zip(GROWING, present, strict=True)}
        return heads if value_size == heads.shape[-1] else heads[..., :value_size], None

    return attend


def _grouped_attention(
    tracing: Tracing,
    states: list[Float[Tensor, "B H T D"]],
    past: list[Tensor],
    sinks: Float[Tensor, "H"] | None,
    settings: dict[str, Any],
) -> list[Tensor]:
    """Trace onnxruntime's node. See `Attend`."""
    bias = tracing.bias
    assert bias is not None, "begun before the model is called"
    ends = [tracing.last_columns, tracing.num_columns, *[None] * 3, bias, *([] if sinks is None else [sinks])]
    num_rows, num_heads, num_new, width = states[0].shape
    flat = [entry.transpose(1, 2).reshape(num_rows, num_new, -1) for entry in states]
    num_shared = states[1].shape[1]
    grown = (num_rows, num_shared, bias.shape[3], width)
    output, *present = torch.onnx.ops.symbolic_multi_out(
        "com.microsoft::GroupQueryAttention",
        [*flat, *past, *ends],
        {"num_heads": num_heads, "kv_num_heads": num_shared, **settings},
        dtypes=[states[0].dtype] * 3,
        shapes=[flat[0].shape, grown, grown],
        version=1,
    )
    return [output.reshape(num_rows, num_new, num_heads, width), *present]


def block_of(module: nn.Module) -> int:
    """Return the number of the block that an attention is in. Raises ValueError where the family does not tell it."""
    index = getattr(module, "layer_idx", None)
    if not isinstance(index, int):
        raise ValueError(f"{type(module).__name__} does not know its block; no graph is built for it")
    return index


def _of_one_size(*states: Tensor) -> list[Tensor]:
    """Pad queries, keys and values with zeros to the largest of their sizes, which changes no score: the node has one size for all."""
    width = max(entry.shape[-1] for entry in states)
    return [
        nn.functional.pad(entry, (0, width - entry.shape[-1])) if entry.shape[-1] < width else entry for entry in states
    ]


def _window(config: Any, index: int) -> int | None:
    kinds = getattr(config, "layer_types", None)
    return config.sliding_window if kinds and kinds[index] == "sliding_attention" else None


def _norm_door(module: nn.Module) -> Callable[[Tensor], Tensor] | None:
    """Return the one-node form of an RMS norm, None for other modules and for norms that compute something else."""
    weight = getattr(module, "weight", None)
    epsilon = getattr(module, "variance_epsilon", None) or getattr(module, "eps", None)
    if "RMSNorm" not in type(module).__name__ or weight is None or weight.ndim != 1 or epsilon is None:
        return None
    if len(inspect.signature(module.forward).parameters) != 1:  # one with a gate beside
        return None
    probe = torch.randn(3, len(weight), generator=torch.Generator().manual_seed(0))
    scaled = probe * torch.rsqrt(probe.square().mean(-1, keepdim=True) + epsilon)
    with torch.no_grad():
        expected = module(probe)
    for offset in (0.0, 1.0):  # Gemma keeps what it adds to one
        if torch.allclose(scaled * (offset + weight.detach()), expected, rtol=1e-5, atol=1e-6):
            return _rms_norm(module, offset, float(epsilon))
    return None


def _rms_norm(module: nn.Module, offset: float, epsilon: float) -> Callable[[Tensor], Tensor]:
    def norm(hidden_states: Tensor) -> Tensor:
        # read while the trace is on: so the graph knows it as the weight that it is
        weight = cast(Tensor, module.weight)
        gain = weight + offset if offset else weight
        return torch.onnx.ops.symbolic(
            "RMSNormalization",
            [hidden_states, gain],
            {"axis": -1, "epsilon": epsilon, "stash_type": 1},
            dtype=hidden_states.dtype,
            shape=hidden_states.shape,
            version=RMS_NORM_OPSET,
        )

    return norm
