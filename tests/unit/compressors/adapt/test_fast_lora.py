"""The fused low-rank layer computes what PEFT's own computes, forward and backward, and steps aside where it does not apply."""

from __future__ import annotations

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from attar.compressors.adapt.fast_lora import speed_up


class Two(nn.Module):
    """Two matrices that read the same state, as q and k do."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.config = {"model_type": "two"}
        self.q, self.k = nn.Linear(16, 8), nn.Linear(16, 8, bias=False)
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.q(x) * self.k(x)


def adapted(**options) -> nn.Module:
    model = get_peft_model(Two(), LoraConfig(r=4, lora_alpha=12.0, target_modules=["q", "k"], **options))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:  # zero at the start: nothing to see
            parameter.data = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    return model


@pytest.mark.parametrize("is_autocast", [False, True])
def test_fused_forward_and_gradients_equal_pefts(is_autocast):
    reference = adapted()
    ours = copy.deepcopy(reference)
    assert speed_up(ours) == 2
    x = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(2))
    inputs, outputs = [], []
    for model in (reference, ours):
        if is_autocast:
            model.base_model.model.requires_grad_(False).to(torch.bfloat16)
            for name, parameter in model.named_parameters():
                if "lora_" in name:
                    parameter.data = parameter.data.float()
                    parameter.requires_grad_(True)
        inputs.append(x.clone().requires_grad_(True))
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=is_autocast):
            outputs.append(model(inputs[-1]).float())
        outputs[-1].square().mean().backward()
    # float32 rounding; in bf16 three digits, and products of two of them
    tolerance = {"rtol": 5e-2, "atol": 3e-2} if is_autocast else {"rtol": 1e-5, "atol": 1e-5}

    def close(own: torch.Tensor, other: torch.Tensor) -> None:
        scale = other.abs().max()
        torch.testing.assert_close(own / scale, other / scale, **tolerance)

    close(outputs[1], outputs[0])
    close(inputs[1].grad, inputs[0].grad)
    gradients = [
        {name: p.grad for name, p in model.named_parameters() if p.requires_grad} for model in (reference, ours)
    ]
    assert gradients[0].keys() == gradients[1].keys() and len(gradients[0]) == 4
    for name, gradient in gradients[0].items():
        close(gradients[1][name], gradient)
    assert all(p.grad is None for p in ours.parameters() if not p.requires_grad)


def test_a_disabled_adapter_gives_the_base_alone():
    model = adapted()
    speed_up(model)
    x = torch.randn(3, 16, generator=torch.Generator().manual_seed(3))
    with torch.no_grad(), model.disable_adapter():
        torch.testing.assert_close(model(x), Two()(x), rtol=0, atol=0)
    assert not torch.allclose(model(x), Two()(x))


@pytest.mark.parametrize("options", [{"use_dora": True}, {"lora_dropout": 0.5}])
def test_layers_with_more_in_them_stay_pefts(options):
    assert speed_up(adapted(**options)) == 0
