"""Folding against PEFT's own merge, on a family that stores (out, in) and one that stores (in, out)."""

from __future__ import annotations

import pytest
import torch
from peft import get_peft_model_state_dict

from attar.compressors.adapt.lora import Lora
from attar.compressors.merge.fold import fold_adapter
from attar.stages.ingest.tiny_model import random_model

METHODS = {"lora": Lora(rank=4, alpha=8.0), "rslora": Lora(rank=4, alpha=8.0, is_rank_stabilized=True)}
METHODS["dora"] = Lora(rank=4, alpha=8.0, is_decomposed=True)
SCALES = {"lora": 2.0, "rslora": 4.0, "dora": 2.0}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("family", ["llama", "gpt2", "phi3"])
def test_fold_equals_peft_merge(family: str, method: str) -> None:
    base, _ = random_model(family)
    original = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    wrapped = METHODS[method](base, 0)
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_B" in name:  # zero at the start: an adapter that does nothing would prove nothing
                parameter.normal_(std=0.1, generator=torch.Generator().manual_seed(len(name)))
            if "magnitude" in name:
                parameter.mul_(1.1)
    adapter = get_peft_model_state_dict(wrapped)
    folded = fold_adapter(original, adapter, scale=SCALES[method], is_transposed=family == "gpt2")
    merged = wrapped.merge_and_unload().state_dict()
    changed = 0
    for name, tensor in folded.items():
        torch.testing.assert_close(tensor, merged[name], atol=1e-5, rtol=1e-5)
        changed += not torch.equal(tensor, original[name])
    assert changed >= 4 * 4, "four blocks with at least four matrices each"
