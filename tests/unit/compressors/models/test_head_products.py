"""The head's logits are float32 from the product on, whatever the dtype of the base and whatever autocast says."""

from __future__ import annotations

import pytest
import torch

from attar.compressors.models import head as head_module
from attar.compressors.models.head import OutputHead


def tensor(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("is_autocast", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("has_bias", [False, True])
def test_logits_are_the_exact_products_rounded_once(
    dtype: torch.dtype, has_bias: bool, is_autocast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Logits near 20, where bf16 numbers are 0.125 apart."""
    monkeypatch.setattr(head_module, "ENTRIES_AT_ONCE", 7)  # of 50: the last piece is a short one
    hidden, weight = (4.0 * tensor(9, 32, seed=0)).to(dtype), tensor(50, 32, seed=1).to(dtype)
    bias = tensor(50, seed=2).to(dtype) if has_bias else None
    exact = hidden.double() @ weight.double().T + (0.0 if bias is None else bias.double())
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=is_autocast):
        logits = OutputHead(weight, bias).logits(hidden)
    assert logits.dtype == torch.float32 and float(exact.abs().max()) > 20
    torch.testing.assert_close(logits.double(), exact, atol=2e-4, rtol=1e-5)  # float32 sums of 32 products


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_gradients_are_those_of_the_plain_products(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head_module, "ENTRIES_AT_ONCE", 16)
    given = (tensor(6, 8, seed=3), tensor(40, 8, seed=4), tensor(40, seed=5))
    slopes = tensor(6, 40, seed=6)
    leaves = [value.to(dtype).requires_grad_() for value in given]
    (OutputHead(leaves[1], leaves[2]).logits(leaves[0]) * slopes).sum().backward()
    plain = [leaf.detach().float().requires_grad_() for leaf in leaves]
    (torch.nn.functional.linear(plain[0], plain[1], plain[2]) * slopes).sum().backward()
    for actual, reference in zip(leaves, plain, strict=True):
        assert actual.grad is not None and reference.grad is not None and actual.grad.dtype == dtype
        # summed in float32 and rounded once, to half a step of bf16
        torch.testing.assert_close(
            actual.grad.float(), reference.grad, atol=1e-5, rtol=4e-3 if dtype != torch.float32 else 1e-5
        )
