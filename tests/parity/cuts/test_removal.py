"""Metrics that run the model, against removing for real, finite differences and counting."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from attar.compressors.catalogue import build
from attar.compressors.measure.cost import flops_per_token, num_matmul_parameters, num_parameters
from attar.compressors.models.blocks import decoder_blocks, remove_blocks
from attar.compressors.prune.depth.block_cost import Costs, counted_costs, measured_latency, unlike_blocks
from attar.compressors.prune.depth.calibration import Sample, batches
from attar.compressors.prune.depth.gradient import gradient_scores
from attar.compressors.prune.depth.metrics import CONTROL_METRICS, GRADIENT_METRICS, REMOVAL_METRICS, WEIGHT_METRICS
from attar.compressors.prune.depth.removal import greedy_order, removal_scores
from attar.compressors.prune.depth.scan import window_table
from attar.stages.ingest.tiny_model import FAMILIES, random_model

CPU = torch.device("cpu")


def calibration(num_samples: int = 4, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    lengths = [9, 14, 14, 20][:num_samples]
    samples = [Sample(torch.randint(3, 250, (length,), generator=generator).tolist()) for length in lengths]
    return list(batches(samples, 2, CPU, skip_first=False))


def losses(model, batch) -> torch.Tensor:
    """Negative log-likelihood of each real token but the first, row by row, without padding."""
    rows = []
    for ids, mask in zip(batch.input_ids, batch.attention_mask, strict=True):
        real = ids[: int(mask.sum())][None]
        rows.append(nn.functional.cross_entropy(model(input_ids=real).logits[0, :-1], real[0, 1:], reduction="none"))
    return torch.cat(rows)


def mean_loss(model, data) -> torch.Tensor:
    return torch.cat([losses(model, batch) for batch in data]).mean()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_removal_scores_what_the_really_smaller_model_does(family: str) -> None:
    model, _ = random_model(family, num_blocks=5)
    data = calibration()
    candidates = [frozenset([1, 0]), frozenset([1, 3]), frozenset([1, 4])]
    metric = build(REMOVAL_METRICS, "perplexity_increase")
    scores = removal_scores(model, data, metric, candidates, gone=frozenset([1]))
    with torch.no_grad():
        for candidate, score in zip(candidates, scores, strict=True):
            cut = copy.deepcopy(model)
            remove_blocks(cut, sorted(candidate))
            assert score == pytest.approx(float(mean_loss(cut, data) - mean_loss(model, data)), abs=2e-5)
    assert all("forward" not in vars(block) for block in decoder_blocks(model)), "the model is as it was"


def test_kl_is_zero_without_a_loss_and_positive_with_one() -> None:
    model, _ = random_model("llama", num_blocks=4)
    for matrix in (decoder_blocks(model)[2].self_attn.o_proj, decoder_blocks(model)[2].mlp.down_proj):
        nn.init.zeros_(matrix.weight)
    data = calibration()
    metric = build(REMOVAL_METRICS, "kl_increase")
    idle, busy = removal_scores(model, data, metric, [frozenset([2]), frozenset([1])])
    assert idle == pytest.approx(0.0, abs=1e-6)
    with torch.no_grad():
        cut = copy.deepcopy(model)
        remove_blocks(cut, [1])
        expected = []
        for batch in data:
            p, q = (run(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits for run in (model, cut))
            kl = (p.softmax(-1) * (p.log_softmax(-1) - q.log_softmax(-1))).sum(-1)
            expected.append(kl[:, :-1][batch.attention_mask[:, 1:].bool()])
    assert busy == pytest.approx(float(torch.cat(expected).mean()), abs=1e-5) and busy > 0.01


@pytest.mark.parametrize("name", REMOVAL_METRICS)
def test_greedy_order_is_brute_force_step_by_step(name: str) -> None:
    """Re-scoring matters: two blocks that undo each other are each cheap to lose, but not both."""
    model, _ = random_model("llama", num_blocks=5, seed=3)
    data = calibration()
    metric = build(REMOVAL_METRICS, name)
    order = greedy_order(model, data, metric, num_steps=3, protected=frozenset([0]))
    gone: list[int] = []
    for step in order:
        left = [index for index in range(1, 5) if index not in gone]
        scores = {index: removal_scores(model, data, metric, [frozenset([*gone, index])])[0] for index in left}
        assert step.block == min(scores, key=lambda index: scores[index])
        assert step.score_nats == pytest.approx(scores[step.block], abs=2e-5)
        gone.append(step.block)


def test_greedy_re_scores_after_each_removal() -> None:
    """Blocks 1 and 2 write the same correction; one of them is redundant, both are not. One-shot scores would take both."""
    model, _ = random_model("llama", num_blocks=4, seed=1)
    blocks = decoder_blocks(model)
    data = calibration()
    metric = build(REMOVAL_METRICS, "kl_increase")
    order = greedy_order(model, data, metric, num_steps=3)
    one_shot = removal_scores(model, data, metric, [frozenset([index]) for index in range(len(blocks))])
    assert order[0].block == min(range(4), key=lambda index: one_shot[index])
    both = removal_scores(model, data, metric, [frozenset([order[0].block, order[1].block])])[0]
    assert order[1].score_nats == pytest.approx(both, abs=2e-5), "the second score is of the model without both"


def test_taylor_is_the_derivative_of_the_loss_in_a_scale_on_the_block() -> None:
    """d loss / d scale at scale 1, all of a block's weights multiplied by it, is the sum of w * dloss/dw."""
    model, _ = random_model("llama", num_blocks=3)
    model = model.double()
    data = calibration()
    scores = gradient_scores(model, data, {name: build(GRADIENT_METRICS, name) for name in GRADIENT_METRICS})
    step = 3e-3  # losses are float32: 5e-7 / 6e-3 is 1e-4
    for index in range(3):
        ends = []
        for scale in (1.0 + step, 1.0 - step):
            scaled = copy.deepcopy(model)
            with torch.no_grad():
                for parameter in decoder_blocks(scaled)[index].parameters():
                    parameter.mul_(scale)
                ends.append(float(mean_loss(scaled, data)))
        assert scores["taylor"][index] == pytest.approx(abs(ends[0] - ends[1]) / (2 * step), abs=1e-3)
        assert scores["taylor_elementwise"][index] >= scores["taylor"][index]
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())


def test_taylor_does_not_depend_on_how_samples_are_batched() -> None:
    model, _ = random_model("gpt2", num_blocks=3)
    generator = torch.Generator().manual_seed(0)
    samples = [Sample(torch.randint(3, 250, (length,), generator=generator).tolist()) for length in (9, 14, 20)]
    metric = {"taylor": build(GRADIENT_METRICS, "taylor")}
    singly, three = (list(batches(samples, size, CPU, skip_first=False)) for size in (1, 3))
    assert gradient_scores(model, singly, metric)["taylor"] == pytest.approx(
        gradient_scores(model, three, metric)["taylor"], rel=1e-3
    )


def test_magnitude_counts_matrices_and_scales_with_them() -> None:
    block = nn.Sequential(nn.Linear(3, 2), nn.LayerNorm(2))
    nn.init.constant_(block[0].weight, -0.5)
    assert build(WEIGHT_METRICS, "magnitude")(block.parameters()) == pytest.approx(3.0)


def test_controls() -> None:
    reverse, chance = (
        window_table(build(CONTROL_METRICS, name)(5, torch.Generator().manual_seed(7)))
        for name in ("reverse_order", "random")
    )
    assert [min(range(6 - size), key=lambda first: reverse[first, size]) for size in (1, 2, 4)] == [4, 3, 1]
    assert reverse[0, 5] == 0.0, "a window that ends at the last block"
    again = window_table(build(CONTROL_METRICS, "random")(5, torch.Generator().manual_seed(7)))
    other = window_table(build(CONTROL_METRICS, "random")(5, torch.Generator().manual_seed(8)))
    assert chance == again != other
    firsts = [
        min(range(4), key=lambda first: table[first, 2])
        for seed in range(400)
        for table in [window_table(build(CONTROL_METRICS, "random")(5, torch.Generator().manual_seed(seed)))]
    ]
    # 100 each expected, standard deviation 8.7: five of them
    assert all(abs(firsts.count(first) - 100) < 44 for first in range(4))


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "opt"])
def test_costs_of_blocks_and_rest_are_the_whole_models(family: str) -> None:
    model, _ = random_model(family, num_blocks=3)
    costs = counted_costs(model, num_context_tokens=100)
    assert costs["parameters"].total == num_parameters(model)
    assert costs["flops"].total == pytest.approx(flops_per_token(num_matmul_parameters(model), model.config, 100))
    cut = copy.deepcopy(model)
    remove_blocks(cut, [1])
    assert costs["parameters"].total - costs["parameters"].blocks[1] == num_parameters(cut)
    smaller = flops_per_token(num_matmul_parameters(cut), cut.config, 100)
    assert costs["flops"].total - costs["flops"].blocks[1] == pytest.approx(smaller)


def test_latency_is_told_block_by_block() -> None:
    model, _ = random_model("llama", num_blocks=3)
    table = measured_latency(model, num_context_tokens=16, num_rounds=3)
    costs = table["latency"]
    assert len(costs.blocks) == 3 and all(0.0 < seconds < 1.0 for seconds in (*costs.blocks, costs.rest))
    assert math.isfinite(costs.total)
    ends = zip(table["latency_low"].blocks, costs.blocks, table["latency_high"].blocks, strict=True)
    assert all(low <= median <= high for low, median, high in ends)


@pytest.mark.parametrize(
    ("seconds", "apart"), [((3.0, 2.0, 2.1), None), ((3.1, 2.0, 2.5), (0, 1)), ((1.0, 1.0, 1.0), None)]
)
def test_blocks_of_one_shape_that_take_unlike_times_are_told(seconds: tuple[float, ...], apart: tuple | None) -> None:
    model, _ = random_model("llama", num_blocks=3)
    assert unlike_blocks(model, Costs(seconds, rest=9.0)) == apart
