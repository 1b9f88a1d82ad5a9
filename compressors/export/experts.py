"""Trace the experts of a block as one ONNX node that multiplies by the chosen alone. Where it does not fit, their weights are gathered."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Stands in a trace for a weight in the order that the node reads; `tidy` stores it so. No runtime knows it.
STORED = "attar::StoredExperts"
# What transformers' decorator of expert modules leaves on them.
TRAITS = ("has_gate", "has_bias", "has_post_expert_norm", "is_transposed", "num_experts")
# Logits of experts that were not chosen, and the least weight of a chosen one.
NOT_CHOSEN, LEAST_WEIGHT = -1e9, 1e-30


@dataclass(frozen=True)
class Gating:
    """How an expert's two halves become a single one. min(g, limit) sigmoid(alpha g) (clip(u, limit) + shift), the halves in turn or one by one."""

    is_interleaved: bool
    alpha: float = 1.0
    shift: float = 0.0
    limit: float = float("inf")

    def __call__(self, halves: Float[Tensor, "N I2"]) -> Float[Tensor, "N I"]:
        gate, up = (halves[..., ::2], halves[..., 1::2]) if self.is_interleaved else halves.chunk(2, dim=-1)
        gate, up = gate.clamp(max=self.limit), up.clamp(-self.limit, self.limit)
        return gate * torch.sigmoid(self.alpha * gate) * (up + self.shift)


def fuse_experts(model: PreTrainedModel, stack: ExitStack) -> None:
    """Let every module of experts that transformers dispatches be one node in the trace."""
    for module in model.modules():
        if all(hasattr(module, name) for name in TRAITS):
            stack.enter_context(patch.object(module, "forward", _experts_door(module)))


def stored_experts(weight: np.ndarray, *, is_turned: bool, is_interleaved: bool) -> np.ndarray:
    """Return weights (experts, outputs, inputs) or biases (experts, outputs) as the node reads them: gate and up output in turn."""
    rows = weight.swapaxes(1, 2) if is_turned else weight
    if not is_interleaved:
        halves = rows.reshape(len(rows), 2, rows.shape[1] // 2, *rows.shape[2:])
        rows = halves.swapaxes(1, 2).reshape(rows.shape)
    return np.ascontiguousarray(rows)


def _experts_door(module: nn.Module) -> Callable[..., Tensor]:
    from transformers.integrations.moe import batched_mm_experts_forward  # there since the model is

    gating = _gating(module)
    return partial(batched_mm_experts_forward, module) if gating is None else partial(_experts, module, gating)


@torch.no_grad()
def _gating(module: Any) -> Gating | None:
    """Return the form of an expert's gate that the node has, on random numbers; None where it computes something else."""
    if not module.has_gate or module.has_post_expert_norm:
        return None
    size = module.down_proj.shape[1 if module.is_transposed else 2]
    probe = 4.0 * torch.randn(5, 2 * size, generator=torch.Generator().manual_seed(0))
    expected = module._apply_gate(probe)
    clipped = {"alpha": float(getattr(module, "alpha", 1.0)), "limit": float(getattr(module, "limit", None) or "inf")}
    for is_interleaved in (False, True):
        for form in (Gating(is_interleaved), Gating(is_interleaved, shift=1.0, **clipped)):
            if torch.allclose(form(probe), expected, rtol=1e-5, atol=1e-6):
                return form
    return None


def _experts(
    module: Any,
    gating: Gating,
    hidden_states: Float[Tensor, "N D"],
    top_k_index: Int[Tensor, "N k"],
    top_k_weights: Float[Tensor, "N k"],
) -> Float[Tensor, "N D"]:
    """Trace sum over the chosen experts of weight * expert(x). The node takes logits: those of the weights' shares of their sum."""
    weights = top_k_weights.float()
    logits = torch.full((hidden_states.shape[0], module.num_experts), NOT_CHOSEN)
    logits = logits.scatter(1, top_k_index, weights.clamp(min=LEAST_WEIGHT).log())
    first = {"is_turned": bool(module.is_transposed), "is_interleaved": gating.is_interleaved}
    last, plain = {**first, "is_interleaved": True}, {**first, "is_turned": False}
    attributes: dict[str, Any] = {
        "activation_type": "swiglu",
        "swiglu_fusion": 1,
        "k": int(top_k_index.shape[1]),
        "normalize_routing_weights": 0,
        "activation_alpha": gating.alpha,
        "activation_beta": gating.shift,
    }
    if gating.limit != float("inf"):
        attributes["swiglu_limit"] = gating.limit
    output = torch.onnx.ops.symbolic(
        "com.microsoft::MoE",
        [
            hidden_states,
            logits,
            _stored(module.gate_up_proj, first),
            _stored(module.gate_up_proj_bias, plain) if module.has_bias else None,
            _stored(module.down_proj, last),
            module.down_proj_bias if module.has_bias else None,
        ],
        attributes,
        dtype=hidden_states.dtype,
        shape=hidden_states.shape,
        version=1,
    )
    return output * weights.sum(dim=1, keepdim=True)


def _stored(weight: Tensor, order: dict[str, bool]) -> Tensor:
    if order == {"is_turned": False, "is_interleaved": True}:
        return weight
    shape = list(weight.shape)
    if order["is_turned"]:
        shape[1], shape[2] = shape[2], shape[1]
    return torch.onnx.ops.symbolic(
        STORED,
        [weight],
        {name: int(value) for name, value in order.items()},
        dtype=weight.dtype,
        shape=shape,
        version=1,
    )
