"""How a denoiser's net is asked, as a function: (states, timesteps, classes) to what it predicts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

# (states, timesteps, classes) to what a net predicts there
Predict = Callable[[Tensor, Tensor, Tensor], Tensor]


def predictor(net: nn.Module, weights: Mapping[str, Tensor] | None = None) -> Predict:
    """Return what asks a net of diffusers' form. `weights`: by name, in place of its own, which stay where they are."""

    def predict(
        states: Float[Tensor, "B C H W"], times: Int[Tensor, "B"], classes: Int[Tensor, "B"]
    ) -> Float[Tensor, "B C H W"]:
        inputs: dict[str, Any] = {"class_labels": classes, "return_dict": False}
        if not weights:
            return net(states, times, **inputs)[0]
        return torch.func.functional_call(net, dict(weights), (states, times), inputs)[0]

    return predict


def position_rows(output: Tensor | tuple[Tensor, ...]) -> Float[Tensor, "B N C"]:
    """Return what a block gives as rows of channels: of maps each pixel, of tokens each."""
    features = output if isinstance(output, Tensor) else output[0]
    return features.flatten(2).transpose(1, 2) if features.ndim == 4 else features


def guided(predict: Predict, scale: float, any_class: int) -> Predict:
    """Return what guidance predicts: p_u + w (p_c - p_u), two forwards; w = 1 is the net itself, one. https://arxiv.org/abs/2207.12598"""
    if scale == 1.0:
        return predict

    def both(states: Tensor, times: Tensor, classes: Tensor) -> Tensor:
        return two_passes(predict, states, times, classes, states.new_full((len(states),), scale), any_class)

    return both


def two_passes(
    predict: Predict,
    states: Float[Tensor, "B C H W"],
    times: Int[Tensor, "B"],
    classes: Int[Tensor, "B"],
    scales: Float[Tensor, "B"],
    any_class: int,
) -> Float[Tensor, "B C H W"]:
    """Return p_u + w (p_c - p_u) of each image at its own scale."""
    unguided = predict(states, times, torch.full_like(classes, any_class))
    conditional = predict(states, times, classes)
    return unguided + scales.to(unguided.device)[:, None, None, None] * (conditional - unguided)
