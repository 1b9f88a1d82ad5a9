"""A model without some experts is the whole model with routers that know only the others; what cannot be cut is refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from attar.compressors.models.experts import moe_layers
from attar.compressors.prune.experts.cut import check_config, cut_experts, fold_merged, masked_routers
from attar.compressors.prune.experts.methods import Assignment
from attar.stages.ingest.expert_families import EXPERT_FAMILIES
from attar.stages.ingest.tiny_model import random_model
from tests.expert_models import IDS, KEPT_EXPERTS, expert_model, routed_by_hand


@torch.no_grad()
def logits_of(model) -> torch.Tensor:
    return model(input_ids=IDS, use_cache=False).logits


@pytest.mark.parametrize("family", EXPERT_FAMILIES)
def test_cut_equals_a_router_masked_by_hand(family: str, tmp_path: Path) -> None:
    model = expert_model(family)
    untouched = logits_of(model)
    layers = moe_layers(model)
    assert [layer.block_index for layer in layers] == (
        [1, 2] if hasattr(model.config, "first_k_dense_replace") or family == "qwen2_moe" else [0, 1, 2]
    )
    with routed_by_hand(model, family, torch.arange(8)):
        # the routers restated here are the family's own, so that the mask is the only difference
        torch.testing.assert_close(logits_of(model), untouched, atol=1e-5, rtol=0)
    with routed_by_hand(model, family, KEPT_EXPERTS):
        expected = logits_of(model)
    assert (expected - untouched).abs().max() > 1e-2, "the removed experts did nothing: the test proves nothing"
    assignments = [Assignment(KEPT_EXPERTS)] * len(layers)
    with masked_routers(layers, assignments):
        torch.testing.assert_close(logits_of(model), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(logits_of(model), untouched, atol=0, rtol=0)
    check_config(model, layers, len(KEPT_EXPERTS))
    cut_experts(model, layers, assignments)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    for made in (model, loaded):
        torch.testing.assert_close(logits_of(made), expected, atol=1e-5, rtol=0)
    assert {layer.routing.num_experts for layer in moe_layers(loaded)} == {4}
    options = {"max_new_tokens": 12, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    assert torch.equal(
        loaded.generate(IDS[:1], use_cache=True, **options), loaded.generate(IDS[:1], use_cache=False, **options)
    )


@pytest.mark.parametrize("family", ["mixtral", "gpt_oss", "deepseek_v3"])
def test_merged_experts_hold_the_shares_of_all(family: str) -> None:
    model = expert_model(family, num_blocks=2)
    layer = moe_layers(model)[-1]
    shares = torch.zeros(4, 8, dtype=torch.float64)
    shares[[0, 0, 1, 1, 2, 2, 3, 3], [0, 1, 2, 3, 4, 5, 6, 7]] = torch.tensor([0.25, 0.75] * 4, dtype=torch.float64)
    before = {name: tensor.clone() for _, name, tensor in layer.tensors()}
    fold_merged([layer], [Assignment(torch.tensor([1, 3, 5, 7]), shares, has_mean_rows=True)])
    for _, name, tensor in layer.tensors():
        expected = 0.25 * before[name][0::2] + 0.75 * before[name][1::2]
        torch.testing.assert_close(tensor[1::2], expected, atol=1e-6, rtol=0)
        torch.testing.assert_close(tensor[0::2], before[name][0::2], atol=0, rtol=0)


def test_dense_models_and_unknown_experts_are_told_apart() -> None:
    assert moe_layers(random_model("llama")[0]) == []
    model = expert_model("mixtral")
    model.model.layers[1].mlp.gate = torch.nn.Linear(32, 8)
    with pytest.raises(ValueError, match="MixtralForCausalLM: its router is not of a known form"):
        moe_layers(model)
    model = expert_model("mixtral")
    model.model.layers[1].mlp.gate.register_buffer("temperature", torch.ones(3))
    with pytest.raises(ValueError, match="temperature of its experts or router has no entry an expert"):
        moe_layers(model)


def test_a_config_that_cannot_say_it_is_refused() -> None:
    model = expert_model("mixtral")
    layers = moe_layers(model)
    model.config.num_experts_per_tok = 6  # what a model built from it would do is another routing
    with pytest.raises(
        ValueError, match="its config cannot say that 4 of 8 experts are left: a token would go to another"
    ):
        check_config(model, layers, 4)
