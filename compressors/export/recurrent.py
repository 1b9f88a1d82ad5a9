"""Trace causal convolutions, gated delta rules and state-space scans as one ONNX node each. Their states come in and go out.

transformers calls them by functions of the family's module. Padding counts for nothing, be it before the tokens or behind them.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from types import ModuleType
from typing import TYPE_CHECKING, Any, Protocol
from unittest.mock import patch

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import silu, softplus

from attar.compressors.export.names import CONVOLUTION, RECURRENCE

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CHUNK_SCAN, SELECTIVE_SCAN = "mamba2_chunk_scan", "mamba_selective_scan"
# Added to the square of a key's or query's length, as the families do.
LENGTH_EPSILON = 1e-6


class StateTrace(Protocol):
    """What the nodes need of a trace. The state of the block that is being traced, and which tokens are no padding."""

    is_token: Float[Tensor, "B T"] | None

    def state(self, name: str) -> Tensor:
        """Return the state of this name that comes in."""
        ...

    def hand_on(self, name: str, state: Tensor) -> None:
        """Note the state of this name that goes out."""
        ...


def fuse_recurrent(model: PreTrainedModel, trace: StateTrace, stack: ExitStack) -> None:
    """Let a family's convolutions and recurrences be single nodes. What else keeps a state is missed by the caller's count of states."""
    doors: dict[str, Callable[..., Any]] = {
        "causal_conv1d_fn": _convolution_door(trace),
        "torch_chunk_gated_delta_rule": _delta_door(trace),
        CHUNK_SCAN: _chunk_scan_door(trace),
        SELECTIVE_SCAN: _selective_scan_door(trace),
        "apply_mask_to_padding_states": lambda states, mask=None: _without_padding(trace, states),
        "create_recurrent_attention_mask": lambda *args, **options: None,
    }
    for source in _sources(model):
        for name, door in doors.items():
            if hasattr(source, name):
                stack.enter_context(patch.object(source, name, door))


def node_state_size(model: PreTrainedModel, size: Sequence[int]) -> tuple[int, ...]:
    """Return the node's size (heads, keys, values) of a recurrent state. `size` is the family's own, behind the batch."""
    sources = _sources(model)
    if any(hasattr(source, CHUNK_SCAN) for source in sources):
        return (size[0], size[2], size[1])
    return (*size, 1) if any(hasattr(source, SELECTIVE_SCAN) for source in sources) else tuple(size)


def _sources(model: PreTrainedModel) -> list[ModuleType]:
    names = {type(module).__module__ for module in model.modules()}
    return [sys.modules[name] for name in names if name.startswith("transformers.models.")]


def _without_padding(trace: StateTrace, states: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
    assert trace.is_token is not None, "begun before the model is called"
    return states * trace.is_token[:, :, None]


def _convolution_door(trace: StateTrace) -> Callable[..., Tensor]:
    def convolve(
        hidden_states: Float[Tensor, "B C T"],
        weight: Float[Tensor, "C K"],
        bias: Float[Tensor, "C"] | None = None,
        activation: str | None = None,
        **options: Any,
    ) -> Float[Tensor, "B C T"]:
        if activation not in (None, "silu", "swish"):
            raise ValueError(f"a convolution with {activation} behind it; a graph is built for silu")
        past = trace.state(CONVOLUTION)
        output, present = torch.onnx.ops.symbolic_multi_out(
            "com.microsoft::CausalConvWithState",
            [hidden_states, weight.unsqueeze(1), bias, past],
            {"activation": "silu" if activation else "none"},
            dtypes=[hidden_states.dtype] * 2,
            shapes=[hidden_states.shape, past.shape],
            version=1,
        )
        trace.hand_on(CONVOLUTION, present)
        return output

    return convolve


def _delta_door(trace: StateTrace) -> Callable[..., tuple[Tensor, Tensor]]:
    def delta_rule(
        query: Float[Tensor, "B T H K"],
        key: Float[Tensor, "B T H K"],
        value: Float[Tensor, "B T V D"],
        g: Float[Tensor, "B T V"],
        beta: Float[Tensor, "B T V"],
        use_qk_l2norm_in_kernel: bool = False,
        **options: Any,
    ) -> tuple[Tensor, Tensor]:
        if use_qk_l2norm_in_kernel:
            query, key = (
                states * torch.rsqrt(states.square().sum(-1, keepdim=True) + LENGTH_EPSILON) for states in (query, key)
            )
        return _linear_attention(trace, query, key, value, g, beta, scale=key.shape[-1] ** -0.5)

    return delta_rule


def _chunk_scan_door(trace: StateTrace) -> Callable[..., Any]:
    def scan(
        hidden_states: Float[Tensor, "B T H P"],
        dt: Float[Tensor, "B T H"],
        rate: Float[Tensor, "H"],
        key: Float[Tensor, "B T G N"],
        query: Float[Tensor, "B T G N"],
        dt_bias: Float[Tensor, "H"] | None = None,
        dt_softplus: bool = False,
        dt_limit: tuple[float, float] = (0.0, math.inf),
        return_final_states: bool = False,
        **options: Any,
    ) -> Any:
        step = dt if dt_bias is None else dt + dt_bias
        step = (softplus(step) if dt_softplus else step).clamp(min=dt_limit[0])
        step = step if math.isinf(dt_limit[1]) else step.clamp(max=dt_limit[1])
        value = hidden_states * step[..., None]
        output, state = _linear_attention(trace, query, key, value, step * rate, None, scale=1.0)
        skip = options.get("D")
        output = output if skip is None else output + hidden_states * skip[:, None]
        return (output, state) if return_final_states else output

    return scan


def _selective_scan_door(trace: StateTrace) -> Callable[..., Any]:
    def scan(
        hidden_states: Float[Tensor, "B C T"],
        dt: Float[Tensor, "B C T"],
        rate: Float[Tensor, "C N"],
        key: Float[Tensor, "B N T"],
        query: Float[Tensor, "B N T"],
        z: Float[Tensor, "B C T"] | None = None,
        delta_bias: Float[Tensor, "C"] | None = None,
        delta_softplus: bool = False,
        return_last_state: bool = False,
        **options: Any,
    ) -> Any:
        """Trace a head a channel: all of them read by the same query, each state entry with a decay of its own."""
        step = (dt if delta_bias is None else dt + delta_bias[:, None]).transpose(1, 2)
        step = softplus(step) if delta_softplus else step
        value, decay = hidden_states.transpose(1, 2) * step, step[..., None] * rate
        query_heads, key_heads = (states.transpose(1, 2)[:, :, None] for states in (query, key))
        output, state = _linear_attention(
            trace, query_heads, key_heads, value[..., None], decay.flatten(2), None, scale=1.0
        )
        output, skip = output.squeeze(-1).transpose(1, 2), options.get("D")
        output = output if skip is None else output + hidden_states * skip[:, None]
        output = output if z is None else output * silu(z)
        return (output, state) if return_last_state else output

    return scan


def _linear_attention(
    trace: StateTrace,
    query: Float[Tensor, "B T H K"],
    key: Float[Tensor, "B T H K"],
    value: Float[Tensor, "B T V D"],
    decay: Float[Tensor, "B T E"],
    beta: Float[Tensor, "B T V"] | None,
    scale: float,
) -> tuple[Float[Tensor, "B T V D"], Tensor]:
    """Trace S <- exp(decay) S + key' (value - retrieved), o = scale query S as one node; without beta nothing is retrieved.

    `decay` is of a whole state or of each of its keys.
    """
    past = trace.state(RECURRENCE)
    num_heads, num_states = query.shape[2], value.shape[2]
    flat = [states.flatten(2) for states in (query, key, value)]
    output, present = torch.onnx.ops.symbolic_multi_out(
        "com.microsoft::LinearAttention",
        [*flat, past, decay, *([] if beta is None else [beta])],
        {
            "q_num_heads": num_heads,
            "kv_num_heads": num_states,
            "update_rule": "gated" if beta is None else "gated_delta",
            "scale": float(scale),
        },
        dtypes=[value.dtype] * 2,
        shapes=[flat[2].shape, past.shape],
        version=1,
    )
    trace.hand_on(RECURRENCE, present)
    return output.reshape(value.shape), present
