"""Folding against PEFT's own merge, on a family that stores (out, in) and one that stores (in, out)."""

from __future__ import annotations

import pytest
import torch
from peft import get_peft_model_state_dict

from compressors.adapt.lora import add_lora
from compressors.merge.fold import fold_lora
from stages.tiny_model import random_model


@pytest.mark.parametrize("family", ["llama", "gpt2", "phi3"])
def test_fold_equals_peft_merge(family: str) -> None:
    base, _ = random_model(family)
    original = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    wrapped = add_lora(base, rank=4, alpha=8.0, dropout=0.0, targets=[])
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_B" in name:  # zero at the start: an adapter that does nothing would prove nothing
                parameter.normal_(std=0.1, generator=torch.Generator().manual_seed(len(name)))
    folded = fold_lora(original, get_peft_model_state_dict(wrapped), scale=2.0, is_transposed=family == "gpt2")
    merged = wrapped.merge_and_unload().state_dict()
    changed = 0
    for name, tensor in folded.items():
        torch.testing.assert_close(tensor, merged[name], atol=1e-6, rtol=1e-6)
        changed += not torch.equal(tensor, original[name])
    assert changed >= 4 * 4, "four blocks with at least four matrices each"
