"""The refit of a cut block by block: exact on few tokens, the ridge regression of the whole data, refused where parts do not add up."""

from __future__ import annotations

import copy

import pytest
import torch

from attar.compressors.models.blocks import decoder_blocks, remove_blocks
from attar.compressors.models.exits import MatrixExit, attention_exit, by_input, feed_forward_exit
from attar.compressors.prune.depth.block_refit import Equations, Matches, refit_blocks
from attar.compressors.prune.depth.scan import residual_stream
from attar.stages.ingest.tiny_model import FAMILIES, random_model

REFUSED = ("gemma2", "gemma3", "olmo2")
FOLDED = [family for family in FAMILIES if family not in REFUSED]
IDS = torch.arange(3, 43)[
    None
]  # forty tokens, fewer than the 64 inputs of each matrix: a solution that is exact on them exists
ALL = torch.ones_like(IDS)


def refitted(family: str, removed: list[int], batches: list, ridge: float = 1e-9, dtype: torch.dtype = torch.float32):
    model, _ = random_model(family, num_blocks=6)
    model.to(dtype)
    cut = copy.deepcopy(model)
    remove_blocks(cut, removed)
    student, matches = copy.deepcopy(cut), Matches.of_removed(6, removed)
    fits = list(refit_blocks(model, student, batches, matches, ridge=ridge, first=matches.first))
    return model, cut, student, fits


@pytest.mark.parametrize("removed", [[2, 3], [1, 4], [0], [4, 5]])
@pytest.mark.parametrize("family", FOLDED)
def test_on_few_tokens_any_refitted_cut_is_the_original(family: str, removed: list[int]) -> None:
    model, cut, student, fits = refitted(family, removed, [(IDS, ALL)])
    with torch.no_grad():
        expected, plain, repaired = (run(input_ids=IDS).logits for run in (model, cut, student))
    error, without = (repaired - expected).norm(), (plain - expected).norm()
    assert error < 0.02 * without, f"{error:.3g} left of {without:.3g}"
    first = next(index for index, block in enumerate(decoder_blocks(student)) if _differs(block, cut, index))
    assert [fit.block_index for fit in fits] == list(range(first, 6 - len(removed)))
    assert max(fit.residual_fraction for fit in fits) < 1e-2


def _differs(block: torch.nn.Module, other: torch.nn.Module, index: int) -> bool:
    pairs = zip(block.parameters(), decoder_blocks(other)[index].parameters(), strict=True)
    return any(not torch.equal(first, second) for first, second in pairs)


def test_matches_say_whose_work_a_kept_block_takes_over() -> None:
    window, apart = Matches.of_removed(6, [2, 3]), Matches.of_removed(6, [0, 4])
    assert (window.was, window.upto, window.first) == ((0, 1, 4, 5), (0, 3, 4, 5), 1)
    assert (apart.was, apart.upto, apart.first) == ((1, 2, 3, 5), (1, 2, 4, 5), 0)
    assert Matches.of_removed(3, []).first == 3


def test_only_the_last_matrices_change_and_only_from_the_cut_on() -> None:
    _, cut, student, _ = refitted("llama", [2, 3], [(IDS, ALL)], ridge=0.1)
    before, after = dict(cut.named_parameters()), dict(student.named_parameters())
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {f"model.layers.{index}.mlp.down_proj.weight" for index in (1, 2, 3)} | {
        f"model.layers.{index}.self_attn.o_proj.weight" for index in (2, 3)
    }


def test_solution_is_the_weighted_ridge_regression_of_the_whole_data() -> None:
    """Streamed in two batches with padding, against least squares on all tokens at once."""
    batches = [torch.randint(3, 250, (3, 30), generator=torch.Generator().manual_seed(seed)) for seed in (0, 1)]
    mask = torch.ones_like(batches[0])
    mask[1, 20:] = 0
    _, _, student, fits = refitted("llama", [2, 3], [(ids, mask) for ids in batches], ridge=0.1)
    model, _ = random_model("llama", num_blocks=6)
    inputs, errors, targets = [], [], []
    hook = feed_forward_exit(model, 1).register_forward_pre_hook(
        lambda module, args: inputs.append(args[0][mask.bool()])
    )
    for ids in batches:
        with torch.no_grad(), residual_stream(model) as states:
            model(input_ids=ids, attention_mask=mask)
        errors.append((states[4] - states[2])[mask.bool()])
        targets.append(states[4][mask.bool()])
    hook.remove()
    a, e, weight = (
        torch.cat(inputs).double(),
        torch.cat(errors).double(),
        torch.cat(targets).double().norm(dim=-1).rsqrt(),
    )
    a, e = a * weight[:, None], e * weight[:, None]
    penalty = (0.1 * (a.T @ a).diagonal().mean()).sqrt() * torch.eye(128, dtype=torch.float64)
    expected = torch.linalg.lstsq(
        torch.cat([a, penalty]), torch.cat([e, torch.zeros(128, 64, dtype=torch.float64)])
    ).solution
    change = by_input(feed_forward_exit(student, 1)) - by_input(feed_forward_exit(model, 1))
    torch.testing.assert_close(change.double(), expected, atol=1e-4, rtol=1e-3)
    assert fits[0].residual_fraction == pytest.approx(float((a @ expected - e).pow(2).sum() / e.pow(2).sum()), abs=1e-4)


def test_padding_and_the_size_of_batches_change_nothing() -> None:
    ids = torch.randint(3, 250, (4, 24), generator=torch.Generator().manual_seed(2))
    together = refitted("qwen2", [2], [(ids, torch.ones_like(ids))], ridge=0.1)[2]
    padded, mask = torch.nn.functional.pad(ids[2:], (0, 9)), torch.nn.functional.pad(torch.ones_like(ids[2:]), (0, 9))
    apart = refitted("qwen2", [2], [(ids[:2], torch.ones_like(ids[:2])), (padded, mask)], ridge=0.1)[2]
    for actual, other in zip(together.parameters(), apart.parameters(), strict=True):
        torch.testing.assert_close(actual, other, atol=2e-4, rtol=1e-3)


def test_the_result_in_another_dtype_gets_the_updates_unrounded() -> None:
    model, _ = random_model("llama", num_blocks=6)
    result = copy.deepcopy(model)
    remove_blocks(result, [2, 3])
    student = copy.deepcopy(result).to(torch.bfloat16)
    matches = Matches.of_removed(6, [2, 3])
    list(refit_blocks(model.to(torch.bfloat16), student, [(IDS, ALL)], matches, ridge=0.1, first=1, result=result))
    for index in (1, 2, 3):
        actual, reference = feed_forward_exit(result, index).weight, feed_forward_exit(student, index).weight
        assert actual.dtype == torch.float32
        torch.testing.assert_close(actual.to(torch.bfloat16), reference, atol=2e-3, rtol=1e-2)
        assert not torch.equal(actual, reference.float())


def test_a_token_of_massive_activation_does_not_outweigh_the_others() -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(1, 400, 16, generator=generator)
    wanted = torch.randn(16, 16, generator=generator)
    error, target = inputs @ wanted, torch.randn(1, 400, 16, generator=generator)
    error[0, 0], target[0, 0] = (
        error[0, 0] - 3e3,
        target[0, 0] * 1e5,
    )  # the sink: an error that no map explains, on a huge state
    matrix = torch.nn.Linear(16, 16, bias=False)
    torch.nn.init.zeros_(matrix.weight)
    equations = Equations()
    equations.add(inputs, error, target, torch.ones(1, 400, dtype=torch.bool))
    with torch.no_grad():
        change, _ = equations.update([MatrixExit(matrix)], 1e-6)
    assert float((change - wanted).norm() / wanted.norm()) < 0.3
    plain = torch.linalg.lstsq(inputs[0], error[0]).solution
    assert float((plain - wanted).norm() / wanted.norm()) > 3.0


@pytest.mark.parametrize("family", REFUSED)
def test_families_with_a_norm_behind_the_matrices_are_refused(family: str) -> None:
    with pytest.raises(ValueError, match="stands after the feed-forward part; a patch cannot be folded"):
        refitted(family, [2], [(IDS, ALL)])


def test_a_block_that_is_not_the_sum_of_its_parts_is_refused() -> None:
    model, _ = random_model("llama", num_blocks=6)
    for block in decoder_blocks(model):
        block.register_forward_hook(
            lambda module, args, output: output * 1.5
        )  # as a learned gate on the residual would
    student = copy.deepcopy(model)
    remove_blocks(student, [2])
    with pytest.raises(ValueError, match="is not the sum of its state, attention and feed-forward part"):
        list(refit_blocks(model, student, [(IDS, ALL)], Matches.of_removed(6, [2]), ridge=0.1, first=1))


@pytest.mark.parametrize("family", FOLDED)
def test_the_exits_of_every_family_are_found(family: str) -> None:
    model, _ = random_model(family)
    assert attention_exit(model, 0) is not feed_forward_exit(model, 0)
