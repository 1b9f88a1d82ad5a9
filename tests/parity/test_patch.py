"""The closed-form patch: exact where it can be, folded without a trace, refused where it cannot be folded."""

from __future__ import annotations

import copy

import pytest
import torch

from attar.compressors.measure.likelihood import continuation_likelihoods
from attar.compressors.models.blocks import remove_blocks
from attar.compressors.models.exits import feed_forward_exit
from attar.compressors.models.runner import TorchRunner
from attar.compressors.prune.depth.patch import Patch, PatchFit, fold_patch
from attar.compressors.prune.depth.scan import residual_stream
from attar.stages.ingest.tiny_model import FAMILIES, random_model

REFUSED = ("gemma2", "gemma3", "olmo2")
FOLDED = [family for family in FAMILIES if family not in REFUSED]
FIRST, SIZE = 2, 2
IDS = torch.arange(3, 43)[None]  # forty tokens, fewer than the 64 dimensions: a map that is exact on them exists


def fitted(family: str, ids: torch.Tensor, ridge: float):
    model, _ = random_model(family, num_blocks=6)
    fit = PatchFit(SIZE, [FIRST])
    fit.update(model, ids, torch.ones_like(ids))
    return model, fit.solve(FIRST, ridge)


@pytest.mark.parametrize("family", FOLDED)
def test_on_few_tokens_the_patched_cut_is_the_original(family: str) -> None:
    model, patch = fitted(family, IDS, ridge=1e-12)
    assert patch.residual_fraction < 1e-4
    cut, patched = copy.deepcopy(model), copy.deepcopy(model)
    fold_patch(patched, patch)
    for pruned in (cut, patched):
        remove_blocks(pruned, range(FIRST, FIRST + SIZE))
    with torch.no_grad():
        expected, plain, repaired = (run(input_ids=IDS).logits for run in (model, cut, patched))
    error, without = (repaired - expected).abs().max(), (plain - expected).abs().max()
    assert error < 0.02 * without, f"{error:.3g} left of {without:.3g}"


@pytest.mark.parametrize("family", REFUSED)
def test_a_norm_after_the_feed_forward_part_is_refused(family: str) -> None:
    with pytest.raises(ValueError, match="stands after the feed-forward part; a patch cannot be folded"):
        feed_forward_exit(random_model(family)[0], 0)


def test_solution_is_the_ridge_regression_of_the_whole_data() -> None:
    """Streamed in two batches with padding, against numpy-style least squares on all tokens at once."""
    model, _ = random_model("llama", num_blocks=6)
    batches = [torch.randint(3, 250, (3, 30), generator=torch.Generator().manual_seed(seed)) for seed in (0, 1)]
    mask = torch.ones_like(batches[0])
    mask[1, 20:] = 0
    fit, outputs, changes = PatchFit(SIZE, [FIRST]), [], []
    for ids in batches:
        fit.update(model, ids, mask)
        seen: list[torch.Tensor] = []
        hook = feed_forward_exit(model, FIRST - 1).register_forward_hook(
            lambda module, args, output, seen=seen: seen.append(output)
        )
        with torch.no_grad(), residual_stream(model) as states:
            model(input_ids=ids, attention_mask=mask)
        hook.remove()
        outputs.append(seen[0][mask.bool()].double())
        changes.append((states[FIRST + SIZE] - states[FIRST])[mask.bool()].double())
    x, r = torch.cat(outputs), torch.cat(changes)
    weight = 1e-2 * (x.T @ x).diagonal().mean()
    stacked = torch.cat([x, weight.sqrt() * torch.eye(64, dtype=torch.float64)])
    expected = torch.linalg.lstsq(stacked, torch.cat([r, torch.zeros(64, 64, dtype=torch.float64)])).solution
    patch = fit.solve(FIRST, 1e-2)
    torch.testing.assert_close(patch.delta.double(), expected, atol=1e-4, rtol=1e-4)
    left = (x @ expected - r).pow(2).sum() / r.pow(2).sum()
    assert patch.residual_fraction == pytest.approx(float(left), abs=1e-5)
    assert fit.num_tokens == len(x) == 160


def test_a_patch_of_zero_changes_nothing() -> None:
    model, _ = random_model("gpt2")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    fold_patch(model, Patch(1, torch.zeros(64, 64), 1.0))
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_patch_brings_unseen_text_closer_to_the_original() -> None:
    ids = torch.randint(3, 250, (24, 40), generator=torch.Generator().manual_seed(0))
    model, patch = fitted("llama", ids, ridge=1e-2)
    cut, patched = copy.deepcopy(model), copy.deepcopy(model)
    fold_patch(patched, patch)
    for pruned in (cut, patched):
        remove_blocks(pruned, range(FIRST, FIRST + SIZE))
    text = model.generate(
        torch.tensor([[7, 8, 9]]), max_new_tokens=60, min_new_tokens=60, do_sample=False, pad_token_id=0
    )[0]
    pair = [(text[:3].tolist(), text[3:].tolist())]
    plain, repaired = (
        continuation_likelihoods(TorchRunner(student), pair, batch_size=1)[0].logprob_nats for student in (cut, patched)
    )
    assert repaired > plain + 5.0, "nats over sixty tokens of the original's own text"


def test_window_at_the_first_block_is_refused() -> None:
    with pytest.raises(ValueError, match="may not begin at block 0"):
        PatchFit(2, [0])
