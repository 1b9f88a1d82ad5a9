"""The low-rank update as one operation with its own gradient. Fewer passes over the activations, and none of them kept twice.

PEFT's layer casts its input to float32 and back and keeps what each of its small products needs. Here a layer keeps its input (one
tensor for q, k and v) and a state of rank columns. Weights, names and files stay PEFT's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

if TYPE_CHECKING:
    from peft.tuners.lora.layer import Linear as LoraLinear


def speed_up(model: nn.Module) -> int:
    """Give every plain low-rank layer over a frozen matrix the fused forward; return how many. DoRA, dropout and few-bit bases stay PEFT's."""
    from peft.tuners.lora.layer import Linear  # already in memory where there are such layers

    layers = [module for module in model.modules() if isinstance(module, Linear) and _is_plain(module)]
    for layer in layers:
        layer.forward = _Fused(layer)
    return len(layers)


class _Fused:
    """The forward of one layer. An object, not a closure: a model that has it can still be copied."""

    def __init__(self, layer: LoraLinear) -> None:
        self.layer = layer

    def __call__(self, x: Float[Tensor, "... D"], *args: Any, **kwargs: Any) -> Float[Tensor, "... E"]:
        layer, name = self.layer, self.layer.active_adapters
        if layer.disable_adapters or layer.merged or len(name) != 1 or args or kwargs:
            return type(layer).forward(layer, x, *args, **kwargs)
        base: nn.Linear = layer.base_layer  # type: ignore[assignment]
        down, up = layer.lora_A[name[0]].weight, layer.lora_B[name[0]].weight
        return _LowRankUpdate.apply(x, base.weight, base.bias, down, up, layer.scaling[name[0]])  # type: ignore[return-value]


class _LowRankUpdate(torch.autograd.Function):
    """y = x W' + b + scale * (x A') B', products in the dtype of W; gradients for x, A and B alone."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, down: Tensor, up: Tensor, scale: float
    ) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            x = x.to(weight.dtype)
            down, up = down.to(weight.dtype), up.to(weight.dtype)
            low = nn.functional.linear(x, down) * scale
            ctx.save_for_backward(x, weight, down, up, low)
            ctx.scale = scale
            out = nn.functional.linear(x, weight, bias)
            rows = out.view(-1, out.shape[-1])
            rows.addmm_(low.view(-1, low.shape[-1]), up.t())
            return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, weight, down, up, low = ctx.saved_tensors
        with torch.autocast(grad.device.type, enabled=False):
            rows = grad.to(weight.dtype).reshape(-1, grad.shape[-1])
            low_grad = (rows @ up) * ctx.scale
            x_grad = None
            if ctx.needs_input_grad[0]:
                x_grad = rows @ weight
                x_grad.addmm_(low_grad, down)
                x_grad = x_grad.view(x.shape)
            down_grad = low_grad.t() @ x.reshape(-1, x.shape[-1])
            up_grad = rows.t() @ low.reshape(-1, low.shape[-1])
        return x_grad, None, None, down_grad.float(), up_grad.float(), None


def _is_plain(layer: LoraLinear) -> bool:
    return (
        type(layer.base_layer) is nn.Linear  # bitsandbytes' layers are subclasses with products of their own
        and not layer.lora_variant
        and not layer.fan_in_fan_out
        and not layer.base_layer.weight.requires_grad
        and all(isinstance(dropout, nn.Identity) for dropout in layer.lora_dropout.values())
        and not any(getattr(layer, "lora_bias", {}).values())
    )
