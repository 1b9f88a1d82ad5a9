"""The dtype that a stage computes in: what was asked for, else bfloat16 where this CPU multiplies it clearly faster."""

from __future__ import annotations

import pytest
import torch

from attar.stages.runtime import device
from attar.stages.runtime.device import MIN_BF16_GAIN, bf16_gain, pick_dtype

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("has_products", "gain", "picked"),
    [
        (True, MIN_BF16_GAIN, torch.bfloat16),
        (True, MIN_BF16_GAIN - 0.01, torch.float32),  # some processors have the instructions and gain nothing
        (False, 9.0, torch.float32),
    ],
)
def test_auto_is_bfloat16_where_it_is_measured_to_pay(
    has_products: bool, gain: float, picked: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, "has_bf16_products", lambda: has_products)
    monkeypatch.setattr(device, "bf16_gain", lambda: gain)
    assert pick_dtype("auto", CPU) == picked
    assert pick_dtype("bfloat16", CPU) == torch.bfloat16
    assert pick_dtype("float32", CPU) == torch.float32


def test_the_gain_is_measured_once() -> None:
    bf16_gain.cache_clear()
    first = bf16_gain()
    assert first > 0.0
    assert bf16_gain() == first
