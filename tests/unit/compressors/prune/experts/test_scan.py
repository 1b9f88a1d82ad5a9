"""One pass over text gives every sum that scores need: those of a loop over tokens and experts, padding left out."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from attar.compressors.models.experts import moe_layers
from attar.compressors.prune.experts.scan import ExpertScan
from tests.expert_models import IDS, expert_model

FAMILIES = ["mixtral", "gpt_oss", "deepseek_v3"]


def seen_by_hand(model, ids: Tensor) -> list[list[tuple[int, float, Tensor, Tensor]]]:
    """(expert, weight, its output, the token's state) of every choice, a list a layer, each expert called alone."""
    layers, choices = moe_layers(model), []
    hooks, inputs = [], [[] for _ in layers]
    for layer, own in zip(layers, inputs, strict=True):
        hooks.append(layer.experts.register_forward_pre_hook(lambda _, args, own=own: own.append(args)))
    with torch.no_grad():
        model(input_ids=ids, use_cache=False)
    for hook in hooks:
        hook.remove()
    for layer, own in zip(layers, inputs, strict=True):
        (hidden, index, weights), entries = own[0], []
        for token in range(len(hidden)):
            for expert, weight in zip(index[token], weights[token], strict=True):
                one_hot = (hidden[token][None], expert[None, None], torch.ones(1, 1))
                with torch.no_grad():
                    entries.append((int(expert), float(weight), layer.experts(*one_hot)[0], hidden[token]))
        choices.append(entries)
    return choices


@pytest.mark.parametrize("is_dense", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_sums_are_those_of_a_loop(family: str, is_dense: bool) -> None:
    model = expert_model(family)
    layers = moe_layers(model)
    scan = ExpertScan(layers, is_dense=is_dense)
    mask = torch.ones_like(IDS)
    mask[1, 25:] = 0
    scan.update(model, IDS, mask)
    choices = [
        first + second
        for first, second in zip(seen_by_hand(model, IDS[:1]), seen_by_hand(model, IDS[1:, :25]), strict=True)
    ]
    for layer, routed, entries in zip(layers, scan.totals, choices, strict=True):
        assert routed.counts.sum() == 2 * 65 == len(entries)
        for expert in range(8):
            own = [(weight, float(output.norm())) for index, weight, output, _ in entries if index == expert]
            assert routed.counts[expert] == len(own)
            assert float(routed.weights[expert]) == pytest.approx(sum(w for w, _ in own), rel=1e-4, abs=1e-5)
            assert float(routed.norms[expert]) == pytest.approx(sum(n for _, n in own), rel=1e-4, abs=1e-5)
            assert float(routed.weighted_norms[expert]) == pytest.approx(sum(w * n for w, n in own), rel=1e-4, abs=1e-5)
        if is_dense:
            states = torch.stack([state for _, _, _, state in entries[::2]])
            for expert in range(8):
                index = torch.full((len(states), 1), expert)
                with torch.no_grad():
                    expected = layer.experts(states, index, torch.ones(len(states), 1)).double().sum(0)
                torch.testing.assert_close(routed.outputs[expert], expected, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("is_dense", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_watching_changes_nothing(family: str, is_dense: bool) -> None:
    model = expert_model(family)
    last = []
    hook = model.model.layers[-1].register_forward_hook(lambda _, args, output: last.append(output))
    ExpertScan(moe_layers(model), is_dense=is_dense).update(model, IDS, torch.ones_like(IDS))
    with torch.no_grad():
        model(input_ids=IDS, use_cache=False)
    hook.remove()
    seen, plain = (states[0] if isinstance(states, tuple) else states for states in last)
    torch.testing.assert_close(seen, plain, atol=1e-5, rtol=1e-5)


def test_batches_add_up() -> None:
    model = expert_model("mixtral")
    whole, parts = (ExpertScan(moe_layers(model)) for _ in range(2))
    whole.update(model, IDS, torch.ones_like(IDS))
    for row in IDS:
        parts.update(model, row[None], torch.ones_like(row)[None])
    for together, apart in zip(whole.totals, parts.totals, strict=True):
        assert torch.equal(together.counts, apart.counts)
        torch.testing.assert_close(together.weighted_norms, apart.weighted_norms, atol=1e-4, rtol=1e-4)
