"""The patch against least squares written down by hand: its weights, its bias, and a family that scales what a block adds."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from attar.compressors.models.blocks import decoder_blocks, remove_blocks
from attar.compressors.models.exits import feed_forward_exit
from attar.compressors.prune.depth.patch import Patch, PatchFit, feed_forward_outputs, fold_patch
from attar.stages.ingest.tiny_model import random_model

IDS = torch.arange(3, 43)[None]


def tensor(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("is_weighted", [False, True])
def test_each_tokens_squared_error_is_divided_by_the_length_of_the_state_after_the_window(is_weighted: bool) -> None:
    """min sum_i ||x_i D - r_i||^2 / ||h'_i|| + ridge mean(w x^2) ||D||^2: by its length, not by the square of it."""
    output, before, change = tensor(200, 6, seed=0), tensor(200, 6, seed=1), tensor(200, 6, seed=2)
    scale = torch.logspace(-1, 2, 200)[
        :, None
    ]  # lengths over three decades, which a wrong power of them would weigh otherwise
    output, before, change = output * scale, before * scale, change * scale
    fit = PatchFit(1, [1], is_weighted=is_weighted)
    fit.add_states(1, output[:120], before[:120], (before + change)[:120])
    fit.add_states(1, output[120:], before[120:], (before + change)[120:])
    x, r = output.double(), change.double()
    weight = 1.0 / (before + change).double().norm(dim=-1, keepdim=True) if is_weighted else torch.ones(200, 1).double()
    gram = x.T @ (weight * x)
    ridge = 1e-2 * gram.diagonal().mean() * torch.eye(6, dtype=torch.float64)
    expected = torch.linalg.solve(gram + ridge, x.T @ (weight * r))
    patch = fit.solve(1, 1e-2)
    torch.testing.assert_close(patch.delta.double(), expected, atol=1e-5, rtol=1e-4)
    left = (weight * (x @ expected - r).square()).sum() / (weight * r.square()).sum()
    assert patch.residual_fraction == pytest.approx(float(left), rel=1e-4)
    assert patch.first_block == 1


@pytest.mark.parametrize("family", ["llama", "gpt2", "opt", "gpt_neox"])
def test_the_folded_matrix_says_what_the_map_makes_of_its_output_bias_included(family: str) -> None:
    """Biases of random models are zero: here they are not."""
    model, _ = random_model(family)
    matrix = feed_forward_exit(model, 1)
    if matrix.bias is not None:
        matrix.bias.data.copy_(tensor(*matrix.bias.shape, seed=3))
    num_inputs = matrix.weight.shape[1] if isinstance(matrix, nn.Linear) else matrix.weight.shape[0]
    inputs, delta = tensor(5, num_inputs, seed=4), 0.3 * tensor(64, 64, seed=5)
    with torch.no_grad():
        expected = matrix(inputs) @ (torch.eye(64) + delta)
        fold_patch(model, Patch(2, delta, 0.0))
        torch.testing.assert_close(matrix(inputs), expected, atol=1e-4, rtol=1e-4)
    assert (matrix.bias is not None) == (family != "llama"), "families of both kinds are here"


def scaled_granite(multiplier: float) -> nn.Module:
    model, _ = random_model("granite", num_blocks=6)
    model.config.residual_multiplier = multiplier
    for block in decoder_blocks(model):
        assert hasattr(block, "residual_multiplier"), "a block of this family scales what it adds"
        block.residual_multiplier = multiplier
    return model


def test_what_a_block_adds_is_counted_as_the_family_scales_it() -> None:
    model = scaled_granite(0.25)
    states: list[torch.Tensor] = []
    block = decoder_blocks(model)[1]
    hooks = [
        block.post_attention_layernorm.register_forward_pre_hook(lambda module, args: states.append(args[0])),
        block.register_forward_hook(lambda module, args, output: states.append(output)),
    ]
    with torch.no_grad(), feed_forward_outputs(model, [2]) as outputs:
        model(input_ids=IDS)
    for hook in hooks:
        hook.remove()
    between, after = states
    torch.testing.assert_close(outputs[1], after - between, atol=1e-5, rtol=1e-4)


def test_a_patch_of_a_scaled_family_is_exact_where_it_can_be() -> None:
    """Fewer tokens than dimensions: a map exists that loses nothing, if what it maps is what the block really adds."""
    model = scaled_granite(0.25)
    fit = PatchFit(2, [2])
    fit.update(model, IDS, torch.ones_like(IDS))
    cut, patched = copy.deepcopy(model), copy.deepcopy(model)
    fold_patch(patched, fit.solve(2, 1e-12))
    for pruned in (cut, patched):
        remove_blocks(pruned, range(2, 4))
    with torch.no_grad():
        expected, plain, repaired = (run(input_ids=IDS).logits for run in (model, cut, patched))
    assert (repaired - expected).abs().max() < 0.02 * (plain - expected).abs().max()
