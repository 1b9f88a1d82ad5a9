"""The head's rows are one product, whatever slice they are, and give what the plain head gives."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import LlamaConfig, LlamaForCausalLM

from attar.compressors.models.row_products import lay_out_weights, multiply_rows_at_once

IDS = torch.arange(2, 14).reshape(3, 4)


class Products(TorchDispatchMode):
    """Notes which products torch computes."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func.__name__.partition(".")[0])
        return func(*args, **(kwargs or {}))


def small_model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 2, "num_hidden_layers": 1}
    return LlamaForCausalLM(LlamaConfig(vocab_size=64, **sizes)).to(torch.bfloat16).eval().requires_grad_(False)


def products_of_head(model: LlamaForCausalLM, states: Tensor) -> list[str]:
    with Products() as products:
        model.lm_head(states)
    return [name for name in products.names if name in ("bmm", "mm", "addmm")]


def test_rows_of_a_slice_under_a_frozen_head_are_one_product() -> None:
    model, states = small_model(), torch.randn(3, 4, 32, dtype=torch.bfloat16)
    assert products_of_head(model, states[:, -1:]) == ["bmm"], "torch folds them by itself now: this file can go"
    multiply_rows_at_once(model)
    assert products_of_head(model, states[:, -1:]) == ["mm"]
    assert products_of_head(model, states[:1, -1:]) == ["mm"]


def test_logits_are_those_of_the_plain_head_and_of_a_copy() -> None:
    model = small_model()
    expected = [model(IDS, logits_to_keep=count).logits for count in (0, 1)]
    multiply_rows_at_once(model)
    multiply_rows_at_once(model)  # a second time changes nothing
    for changed in (model, copy.deepcopy(model)):
        for count, logits in enumerate(expected):
            torch.testing.assert_close(changed(IDS, logits_to_keep=count).logits, logits, rtol=1e-2, atol=1e-2)
    twin = copy.deepcopy(model)
    nn.init.zeros_(twin.lm_head.weight)
    assert not twin(IDS).logits.any() and model(IDS).logits.any()  # the copy's head is its own


def test_laid_out_weights_give_the_same_logits_in_float32_and_are_not_made_elsewhere() -> None:
    model = small_model().float()
    expected = model(IDS).logits
    lay_out_weights(model)
    lay_out_weights(model)  # a second time changes nothing
    assert "forward" in vars(model.model.layers[0].mlp.up_proj)
    torch.testing.assert_close(model(IDS).logits, expected, rtol=0, atol=1e-5)  # sums in another order
    halves = small_model()
    lay_out_weights(halves)
    assert "forward" not in vars(halves.lm_head)
