"""The residual after the patch: what a patch really leaves, and the window whose patched cut is the best."""

from __future__ import annotations

import copy

import pytest
import torch

from attar.compressors.models.blocks import decoder_blocks, remove_blocks
from attar.compressors.prune.depth.patch import PatchFit, fold_patch
from attar.compressors.prune.depth.scan import residual_stream
from attar.compressors.prune.depth.scores.patch_residual import PatchResidual
from attar.stages.ingest.tiny_model import random_model

NUM_BLOCKS = 6


def text(num_rows: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.randint(3, 250, (num_rows, 24), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[1, 20:] = 0
    return ids, mask


def scores_of(model, sizes: list[int]):
    ids, mask = text()
    fit = PatchResidual().start(NUM_BLOCKS, sizes)
    fit.update(model, ids[:5], mask[:5])
    fit.update(model, ids[5:], mask[5:])
    return fit.scores()


@pytest.mark.parametrize("family", ["llama", "gpt2", "opt"])
def test_it_is_the_error_of_the_folded_patch_relative_to_the_next_blocks_input(family: str) -> None:
    """Fold the patch, remove the window, and compare the state that enters the block after the cut with the original's."""
    model, _ = random_model(family, num_blocks=NUM_BLOCKS)
    ids, mask = text()
    scores = scores_of(model, [2])
    assert sorted(scores) == [(first, 2) for first in range(1, NUM_BLOCKS - 1)], "block 0 cannot be patched"
    for first in (1, 3):
        fit = PatchFit(2, [first])
        fit.update(model, ids, mask)
        cut = copy.deepcopy(model)
        fold_patch(cut, fit.solve(first, 1e-2))
        remove_blocks(cut, [first, first + 1])
        with torch.no_grad():
            with residual_stream(model) as wanted:
                model(input_ids=ids, attention_mask=mask)
            with residual_stream(cut) as reached:
                cut(input_ids=ids, attention_mask=mask)
        keep = mask.bool()
        target, state = wanted[first + 2][keep].double(), reached[first][keep].double()
        share = (state - target).pow(2).sum(-1) / target.pow(2).sum(-1)
        assert scores[first, 2] == pytest.approx(float(share.mean()), rel=1e-3)


def test_several_sizes_from_one_pass_are_each_what_they_are_alone() -> None:
    model, _ = random_model("llama", num_blocks=NUM_BLOCKS)
    together = scores_of(model, [1, 3])
    alone = {**scores_of(model, [1]), **scores_of(model, [3])}
    assert together == pytest.approx(alone, rel=1e-9)


def test_a_window_that_a_map_can_replace_is_preferred() -> None:
    """Block 3 does a lot, but all of it is linear in block 2's feed-forward output; the others do nothing of the kind."""
    model, _ = random_model("llama", num_blocks=NUM_BLOCKS)
    outputs: list[torch.Tensor] = [torch.empty(0)]
    decoder_blocks(model)[2].mlp.register_forward_hook(lambda module, args, output: outputs.__setitem__(0, output))
    decoder_blocks(model)[3].register_forward_hook(lambda module, args, output: args[0] + 1.5 * outputs[0])
    scores = scores_of(model, [1])
    assert min(scores, key=lambda window: scores[window]) == (3, 1)
    others = [score for (first, _), score in scores.items() if first != 3]
    assert scores[3, 1] < 0.02 * min(others)


def test_tokens_with_massive_activations_hide_a_bad_patch_from_the_plain_share_but_not_from_the_score() -> None:
    """Four tokens a thousand times as large make up nearly all of the squared change: fitted alone, the share left looks perfect."""
    generator = torch.Generator().manual_seed(3)
    output, before = torch.randn(400, 16, generator=generator), torch.randn(400, 16, generator=generator)
    after = before + output @ torch.randn(16, 16, generator=generator)  # a map does it all
    even, massive = (PatchResidual().start(2, [1]) for _ in range(2))
    scale = torch.ones(400, 1)
    scale[:4] = 1000.0
    even.fits[1].add(1, output, before, after)
    massive.fits[1].add(1, output * scale, before * scale, after * scale)
    even.num_tokens = massive.num_tokens = 400
    assert even.fits[1].patch.solve(1, 1e-2).residual_fraction < 0.01
    assert massive.fits[1].patch.solve(1, 1e-2).residual_fraction < 0.01
    assert even.scores()[1, 1] < 0.01
    assert massive.scores()[1, 1] > 0.2


def test_weights_keep_massive_tokens_from_spoiling_the_patch_of_all_others() -> None:
    """With 1/||h'|| as weight, four tokens a thousand times as large do not push the ridge so far that nothing else is fitted."""
    generator = torch.Generator().manual_seed(3)
    output, before = torch.randn(400, 16, generator=generator), torch.randn(400, 16, generator=generator)
    output[:4] *= 1000.0
    before[:4] *= 1000.0
    wanted = torch.randn(16, 16, generator=generator)
    plain, weighted = PatchFit(1, [1]), PatchFit(1, [1], is_weighted=True)
    for fit in (plain, weighted):
        fit.add_states(1, output, before, before + output @ wanted)
    errors = [float((fit.solve(1, 1e-2).delta - wanted).norm() / wanted.norm()) for fit in (plain, weighted)]
    assert errors[1] < 0.2 * errors[0]


def test_weights_change_nothing_where_all_states_are_equally_long() -> None:
    generator = torch.Generator().manual_seed(3)
    output, after = torch.randn(100, 16, generator=generator), torch.randn(100, 16, generator=generator)
    after = 7.0 * after / after.norm(dim=-1, keepdim=True)
    fits = [PatchFit(1, [1], is_weighted=is_weighted) for is_weighted in (False, True)]
    for fit in fits:
        fit.add_states(1, output, after - 0.1 * output, after)
    torch.testing.assert_close(fits[0].solve(1, 1e-2).delta, fits[1].solve(1, 1e-2).delta, atol=1e-5, rtol=1e-4)
