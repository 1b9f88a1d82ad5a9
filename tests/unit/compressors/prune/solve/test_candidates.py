"""Candidates: losses are those of cuts really made, savings those of models really built, and every plan of a tiny model is as good as told."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from attar.compressors.measure.cost import num_parameters
from attar.compressors.prune.depth.calibration import Sample, batches
from attar.compressors.prune.depth.removal import batch_logits, removal_scores, summed_loss
from attar.compressors.prune.depth.scores.removal import KLIncrease
from attar.compressors.prune.hidden.cut import cut_hidden
from attar.compressors.prune.hidden.rotate import rotate_stream
from attar.compressors.prune.solve.candidates import (
    NOT_SAYABLE,
    Units,
    can_say,
    channel_items,
    depth_items,
    group_items,
    score_units,
    seam_items,
)
from attar.compressors.prune.solve.costs import part_costs
from attar.compressors.prune.solve.exact import pareto, solve
from attar.compressors.prune.solve.hidden import hidden_items, stream_widths
from attar.compressors.prune.solve.items import Item, Plan, Problem
from attar.compressors.prune.solve.probe import Probe
from attar.compressors.prune.solve.shape import Shape, cut_to
from attar.stages.ingest.tiny_model import random_model

AXES = ("depth", "seams", "channels", "groups", "hidden", "rotated")
SAMPLES = [
    Sample(torch.randint(3, 250, (24,), generator=torch.Generator().manual_seed(seed)).tolist()) for seed in range(4)
]


def ignore(count: int) -> None:
    pass


def measured(model, counts: tuple[int, ...] = (64, 96)) -> tuple[Problem, Units, Probe]:
    rows = list(batches(SAMPLES, 2, torch.device("cpu"), skip_first=False))
    costs, units, probe = part_costs(model), score_units(model, rows, AXES), Probe(model, rows, KLIncrease())
    items = [
        *depth_items(probe, costs, frozenset(), ignore),
        *seam_items(probe, costs, frozenset(), ignore),
        *channel_items(probe, costs, units, counts, 32, ignore),
        *group_items(probe, costs, units, ignore),
        *hidden_items(probe, costs, units, "hidden", [48, 56], ignore),
        *hidden_items(probe, costs, units, "rotated", [48], ignore),
    ]
    return (
        Problem({name: cost.total for name, cost in costs.items()}, len(costs["flops"].attention), items),
        units,
        probe,
    )


@pytest.fixture(scope="module")
def llama():
    model, _ = random_model("llama", num_blocks=4)
    return model, *measured(model)


def test_losses_of_blocks_are_those_of_the_scan(llama) -> None:
    model, problem, _, probe = llama
    expected = removal_scores(model, probe.batches, KLIncrease(), [frozenset({index}) for index in range(4)])
    losses = [item.loss_nats for item in problem.items if item.axis == "depth"]
    assert losses == pytest.approx(expected, rel=1e-4)


def test_every_plan_saves_what_its_model_has_fewer(llama) -> None:
    """Parameters of cut models, counted, against what the items say together: of every pair of a depth cut and a width."""
    model, problem, units, _ = llama
    whole = problem.totals["parameters"]
    assert whole == num_parameters(model)
    by_axis = {axis: [item for item in problem.items if item.axis == axis] for axis in (*AXES, "seam_ends")}
    seams = list(zip(by_axis["seams"], by_axis["seam_ends"], strict=True))
    for depth, widths in itertools.product(
        [by_axis["depth"][:1], by_axis["depth"][1:3], list(seams[1]), [*seams[2], by_axis["depth"][0]]],
        [[], by_axis["channels"][:1], by_axis["groups"], [by_axis["channels"][-1], *by_axis["groups"][:1]]],
    ):
        for stream in ([], by_axis["hidden"][:1], by_axis["rotated"]):
            plan = Plan.of(problem, [*depth, *widths, *stream])
            cut = copy.deepcopy(model)
            cut_to(cut, Shape.of(plan, 4, units))
            assert plan.left["parameters"] == pytest.approx(num_parameters(cut), rel=1e-12), str(plan)


def test_solve_on_a_tiny_model_is_brute_force(llama) -> None:
    _, problem, _, _ = llama
    groups = problem.groups("block", "blocks", "share")
    plans = []
    for choice in itertools.product(*([None, *group] for group in groups)):
        taken = [item for item in choice if item is not None]
        if is_whole(taken):
            plans.append(Plan.of(problem, taken))
    for share in (0.95, 0.85, 0.7, 0.5):
        budget = {"parameters": share * problem.totals["parameters"], "kv_bytes": 0.9 * problem.totals["kv_bytes"]}
        fitting = [plan for plan in plans if all(plan.left[name] <= most for name, most in budget.items())]
        best = min(plan.predicted_nats for plan in fitting)
        assert solve(problem, budget).predicted_nats == pytest.approx(best, rel=1e-9)
    front = pareto(problem, "flops")
    assert all(
        not any(
            plan.predicted_nats < point.predicted_nats and plan.left["flops"] < point.left["flops"] for plan in plans
        )
        for point in front
    )


def is_whole(taken: list[Item]) -> bool:
    """Whether both halves of each seam go together, and a block is left."""
    seams = {item.amount for item in taken if item.axis == "seams"}
    ends = {item.amount for item in taken if item.axis == "seam_ends"}
    whole = sum(item.axis == "depth" for item in taken)
    return seams == ends and whole + len(seams) < 4


def test_losses_of_the_stream_are_those_of_narrower_models(llama) -> None:
    model, problem, units, probe = llama
    items = {(item.axis, item.amount): item for item in problem.items if item.axis in ("hidden", "rotated")}
    for axis in ("hidden", "rotated"):
        cut, channels = copy.deepcopy(model), units.keep(axis, 48)
        if channels.rotation is not None:
            rotate_stream(cut, channels.rotation)
        cut_hidden(cut, channels.rotated)
        with torch.no_grad():
            losses = [
                summed_loss(KLIncrease(), batch, original, batch_logits(cut, batch))
                for batch, original in zip(probe.batches, probe.logits, strict=True)
            ]
        assert items[axis, 48].loss_nats == pytest.approx(sum(losses) / probe.num_tokens, rel=1e-3)
        assert items[axis, 48].saving("kv_bytes") == 0.0
    assert items["hidden", 48].loss_nats > items["hidden", 56].loss_nats > 0


def test_widths_of_the_stream_are_the_nearest_that_the_config_takes(llama) -> None:
    assert stream_widths(llama[0], [0.75, 0.8, 0.95], 4) == [48, 52, 60]
    config = AutoConfig.for_model(
        "llama", vocab_size=64, hidden_size=72, num_hidden_layers=2, num_attention_heads=9, num_key_value_heads=3, head_dim=8,
        intermediate_size=64,
    )  # fmt: skip
    three = AutoModelForCausalLM.from_config(config)
    assert stream_widths(three, [0.75, 0.88], 1) == [54, 63]
    assert stream_widths(three, [0.75, 0.88], 1, [2, 1]) == [54]  # 6 and 3 heads divide it too
    with pytest.raises(ValueError, match="takes no hidden_size from 0.9 of 64 on in multiples of 37"):
        stream_widths(llama[0], [0.9], 37)


def test_widths_between_two_measured_lie_on_a_line(llama) -> None:
    model, _, units, probe = llama
    items = channel_items(probe, part_costs(model), units, [32, 96], 32, ignore)
    losses = {item.amount: item.loss_nats for item in items}
    assert losses[64] == pytest.approx((losses[32] + losses[96]) / 2)
    assert sorted(losses) == [32, 64, 96]


@pytest.mark.parametrize("axis", NOT_SAYABLE)
def test_what_a_plain_config_cannot_say_has_its_reason(axis: str, llama) -> None:
    assert "accepted: " in can_say(llama[0], axis)


def test_a_linear_map_in_an_attention_parts_stead_takes_the_room_of_the_part() -> None:
    """Query and key weights of zero, large biases: each token attends to itself, and values times output weights are the map."""
    config = AutoConfig.for_model(
        "llama", vocab_size=64, hidden_size=64, num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=2, intermediate_size=64,
        attention_bias=True, initializer_range=0.15,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config).eval()
    attention, seen = model.model.layers[0].self_attn, {}
    attention.v_proj.register_forward_hook(lambda module, args, output: seen.update(values=output))
    attention.o_proj.register_forward_hook(lambda module, args, output: seen.update(given=output))
    with torch.no_grad():
        for matrix in (attention.q_proj, attention.k_proj):
            matrix.weight.zero_()
            matrix.bias.fill_(30.0)
        model(input_ids=torch.arange(24)[None])
        own = seen["values"].unflatten(-1, (2, 16)).repeat_interleave(2, dim=2).flatten(2)  # two query heads a KV head
        torch.testing.assert_close(seen["given"], attention.o_proj(own), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("family", "axis"),
    [("gpt2", "seams"), ("gpt2", "groups"), ("gemma2", "seams"), ("gemma2", "hidden"), ("smollm3", "rotated")],
)
def test_a_family_without_an_axis_says_why(family: str, axis: str) -> None:
    model, _ = random_model(family)
    assert can_say(model, axis)
    assert not can_say(model, "depth")
