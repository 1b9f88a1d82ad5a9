"""A base in 8 bits computes alike in training and evaluation: bitsandbytes on a CPU rounds the inputs in evaluation alone."""

from __future__ import annotations

import pytest
import torch

from attar.registry.artifacts.handles import ModelArtifact
from attar.stages.artifacts.model.folder import load_base, load_model

CPU = torch.device("cpu")
IDS = torch.tensor([[5, 9, 30, 77, 12, 200]])


def logits(model: torch.nn.Module, *, is_training: bool) -> torch.Tensor:
    with torch.no_grad():
        return model.train(is_training)(input_ids=IDS, use_cache=False).logits


def test_a_base_in_8_bits_is_one_model(model: ModelArtifact) -> None:
    pytest.importorskip("bitsandbytes")
    base = load_base(model.path, torch.float32, CPU, "int8")
    torch.testing.assert_close(logits(base, is_training=True), logits(base, is_training=False), rtol=0, atol=0)
    plain = load_model(model.path, torch.float32, CPU, "int8")  # as it is delivered: with rounded inputs
    assert not torch.equal(logits(plain, is_training=True), logits(plain, is_training=False))
    expected = logits(load_model(model.path, "float32"), is_training=False)
    errors = [float((logits(some_model, is_training=False) - expected).norm()) for some_model in (base, plain)]
    assert errors[0] < errors[1]


@pytest.mark.parametrize("quantized", ["none", "nf4"])
def test_other_bases_are_loaded_as_they_are(model: ModelArtifact, quantized: str) -> None:
    pytest.importorskip("bitsandbytes")
    base = load_base(model.path, torch.float32, CPU, quantized)  # type: ignore[arg-type]
    other = load_model(model.path, torch.float32, CPU, quantized)  # type: ignore[arg-type]
    assert torch.equal(logits(base, is_training=False), logits(other, is_training=False))
