"""Width scores and budgets: low means removable, padding is not seen, and the numbers are what their formulas say."""

from __future__ import annotations

import pytest
import torch

from attar.compressors.catalogue import build
from attar.compressors.measure.cost import num_parameters
from attar.compressors.models.blocks import decoder_blocks, remove_blocks
from attar.compressors.prune.width.budget import WidthCost, width_cost
from attar.compressors.prune.width.cut import cut_width
from attar.compressors.prune.width.layout import attention_parts, feed_forward_parts
from attar.compressors.prune.width.scores import WIDTH_SCORES, WidthScan, gate_effects, highest
from attar.stages.ingest.tiny_model import random_model

DATA_SCORES = [name for name in WIDTH_SCORES if WIDTH_SCORES[name].source != "weights"]
IDS = torch.randint(3, 250, (3, 24), generator=torch.Generator().manual_seed(0))
MASK = torch.ones_like(IDS)
MASK[1, 15:] = 0


def scores(model, parts, name: str, ids=IDS, mask=MASK) -> list[torch.Tensor]:
    scan = WidthScan(build(WIDTH_SCORES, name), parts)
    if scan.score.source != "weights":
        scan.update(model, ids, mask)
    return scan.scores()


def planted(kind: str):
    """A model in which unit 1 of block 2 does nothing, and its parts; every other unit does something."""
    model, _ = random_model("llama")
    block = decoder_blocks(model)[2]
    with torch.no_grad():
        if kind == "channels":
            block.mlp.down_proj.weight[:, 1] = 0
            block.mlp.gate_proj.weight[1] = 0
        else:
            block.self_attn.o_proj.weight[:, 32:] = 0
            block.self_attn.v_proj.weight[16:] = 0
    return model, feed_forward_parts(model) if kind == "channels" else attention_parts(model)


@pytest.mark.parametrize("kind", ["channels", "groups"])
@pytest.mark.parametrize("name", [name for name in WIDTH_SCORES if name != "random"])
def test_a_unit_that_does_nothing_scores_zero_and_goes_first(name: str, kind: str) -> None:
    model, parts = planted(kind)
    by_block = scores(model, parts, name)
    assert by_block[2][1] == 0.0 and by_block[2].argmin() == 1
    assert all((scores_of_block > 0).all() for index, scores_of_block in enumerate(by_block) if index != 2)
    num_units = len(by_block[2])
    assert highest(by_block[2], num_units - 1).tolist() == [unit for unit in range(num_units) if unit != 1]


@pytest.mark.parametrize("name", ["contribution", "taylor", "magnitude"])
def test_a_zero_outgoing_column_is_seen_even_when_the_unit_is_active(name: str) -> None:
    """Minitron's activation looks at the activation alone and cannot see this."""
    model, _ = random_model("llama")
    with torch.no_grad():
        decoder_blocks(model)[0].mlp.down_proj.weight[:, 5] = 0
        decoder_blocks(model)[1].self_attn.o_proj.weight[:, :32] = 0
    assert scores(model, feed_forward_parts(model), name)[0].argmin() == 5
    assert scores(model, attention_parts(model), name)[1].tolist()[0] == 0.0
    assert scores(model, feed_forward_parts(model), "activation")[0][5] > 0


@pytest.mark.parametrize("name", DATA_SCORES)
def test_a_scaled_up_channel_is_worth_more(name: str) -> None:
    model, _ = random_model("llama")
    before = scores(model, feed_forward_parts(model), name)[3]
    with torch.no_grad():
        decoder_blocks(model)[3].mlp.up_proj.weight[7] *= 20
    after = scores(model, feed_forward_parts(model), name)[3]
    assert after[7] > 3 * before[7]


@pytest.mark.parametrize("name", DATA_SCORES)
def test_padding_and_batching_change_nothing(name: str) -> None:
    model, _ = random_model("qwen3")
    model.double()
    for find in (feed_forward_parts, attention_parts):
        parts = find(model)
        scan = WidthScan(build(WIDTH_SCORES, name), parts)
        scan.update(model, IDS[:1], MASK[:1])
        scan.update(model, IDS[1:2, :15], MASK[1:2, :15])
        scan.update(model, IDS[2:], MASK[2:])
        for alone, padded in zip(scan.scores(), scores(model, parts, name), strict=True):
            torch.testing.assert_close(alone, padded, rtol=1e-5, atol=1e-9)


def test_activation_is_the_mean_over_tokens_then_l2_over_samples() -> None:
    model, _ = random_model("llama")
    seen: dict[str, torch.Tensor] = {}
    block = decoder_blocks(model)[1]
    hooks = [
        module.register_forward_pre_hook(lambda module, args, name=name: seen.__setitem__(name, args[0].detach()))
        for name, module in (("channels", block.mlp.down_proj), ("groups", block.self_attn.o_proj))
    ]
    model(input_ids=IDS, attention_mask=MASK)
    for hook in hooks:
        hook.remove()
    lengths = [24, 15, 24]
    channel = sum((seen["channels"][b, :t, 9].abs().sum() / t) ** 2 for b, t in enumerate(lengths)) / 3
    group = sum((seen["groups"][b, :t, 32:].norm(dim=-1).sum() / t) ** 2 for b, t in enumerate(lengths)) / 3
    assert scores(model, feed_forward_parts(model), "activation")[1][9] == pytest.approx(float(channel**0.5), rel=1e-5)
    assert scores(model, attention_parts(model), "activation")[1][1] == pytest.approx(float(group**0.5), rel=1e-5)


def test_contribution_is_the_norm_of_what_a_group_adds() -> None:
    model, _ = random_model("llama")
    module = decoder_blocks(model)[1].self_attn.o_proj
    seen: list[torch.Tensor] = []
    hook = module.register_forward_pre_hook(lambda module, args: seen.append(args[0].detach()))
    model(input_ids=IDS[:1])
    hook.remove()
    expected = (seen[0][0, :, 32:] @ module.weight[:, 32:].detach().T).norm(dim=-1).mean()
    contribution = scores(model, attention_parts(model), "contribution", IDS[:1], MASK[:1])[1][1]
    assert contribution == pytest.approx(float(expected), rel=1e-4)


@pytest.mark.parametrize("family", ["llama", "phi3", "gpt2", "opt"])
def test_taylor_is_the_derivative_of_the_loss_by_a_gate(family: str) -> None:
    """Against a finite difference: the unit's outgoing weights times 1 + h and 1 - h."""
    model, _ = random_model(family)
    model.double()
    part = feed_forward_parts(model)[1]
    effects = gate_effects(model, [part], IDS, MASK)[0]
    weight = part.exit.weight
    columns = weight.T if family != "gpt2" else weight  # Conv1D stores a row for each input

    def loss(sample: int, factor: float) -> float:
        length = int(MASK[sample].sum())
        ids = IDS[sample : sample + 1, :length]
        with torch.no_grad():
            columns[3] *= factor
            logprobs = model(input_ids=ids).logits[0, :-1].log_softmax(dim=-1)
            columns[3] /= factor
        return -float(logprobs.gather(-1, ids[0, 1:, None]).mean())

    # RMS norms compute in float32 even here: a small step would measure their rounding. OPT's ReLU has kinks instead.
    step = 1e-5 if family == "opt" else 1e-2
    for sample in range(3):
        slope = (loss(sample, 1 + step) - loss(sample, 1 - step)) / (2 * step)
        assert float(effects[sample, 3]) == pytest.approx(slope, rel=1e-3, abs=1e-5)
    assert effects[:, 3].abs().min() > 1e-4


def test_taylor_leaves_the_model_as_it_was() -> None:
    model, _ = random_model("llama")
    scores(model, feed_forward_parts(model), "taylor")
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("name", DATA_SCORES)
@pytest.mark.parametrize("find", [feed_forward_parts, attention_parts])
def test_low_scores_matter_less_than_high_ones(name: str, find) -> None:
    """What the score is for; with the wrong sign the two would change places."""

    def uneven():
        """Two groups of a random block matter alike: make one weaker."""
        model, _ = random_model("llama", seed=3)
        with torch.no_grad():
            for index, block in enumerate(decoder_blocks(model)):
                block.self_attn.v_proj.weight[16 * (index % 2) :][:16] *= 0.1
        return model

    model = uneven()
    by_block = scores(model, find(model), name)
    with torch.no_grad():
        original = model(input_ids=IDS, attention_mask=MASK).logits.log_softmax(dim=-1)
    losses = []
    for sign in (1.0, -1.0):
        cut = uneven()
        kept_units = [highest(sign * scores_of_block, len(scores_of_block) // 2) for scores_of_block in by_block]
        cut_width(cut, **{"channels" if find is feed_forward_parts else "groups": kept_units})
        with torch.no_grad():
            other = cut(input_ids=IDS, attention_mask=MASK).logits.log_softmax(dim=-1)
        losses.append(float((original.exp() * (original - other)).sum(dim=-1)[MASK.bool()].mean()))
    assert losses[0] < 0.8 * losses[1], losses


def test_random_follows_its_seed() -> None:
    _, parts = planted("channels")
    first, again, other = (
        WidthScan(build(WIDTH_SCORES, "random", {"seed": seed}), parts).scores() for seed in (1, 1, 2)
    )
    assert (
        torch.equal(first[0], again[0]) and not torch.equal(first[0], other[0]) and not torch.equal(first[0], first[1])
    )


def test_of_equal_scores_the_earlier_units_stay_and_order_is_kept() -> None:
    assert highest(torch.tensor([1.0, 5.0, 1.0, 9.0, 1.0]), 3).tolist() == [0, 1, 3]


COST = WidthCost(
    num_parameters=10_000,
    num_blocks=4,
    num_block_parameters=8_000,
    num_channels=128,
    channel_parameters=50,
    num_groups=4,
    group_parameters=300,
)


@pytest.mark.parametrize(
    ("budget", "num_removed_groups", "multiple_of", "num_channels"),
    [
        (9_999, 0, 1, 127),  # one parameter too many costs a channel
        (9_950, 0, 1, 127),
        (9_949, 0, 1, 126),
        (9_999, 0, 32, 96),
        (9_700, 1, 32, 128),  # the groups alone meet it: all channels stay
        (9_699, 1, 1, 127),
        (3_650, 0, 1, 1),
        (5_200, 0, 32, 32),
    ],
)
def test_budget_keeps_the_most_channels_that_fit(
    budget: int, num_removed_groups: int, multiple_of: int, num_channels: int
) -> None:
    assert COST.channels_for_budget(budget, num_removed_groups, multiple_of) == num_channels
    assert COST.parameters_at(num_channels, num_removed_groups) <= budget
    larger = num_channels + multiple_of
    assert larger > 128 or COST.parameters_at(larger, num_removed_groups) > budget


@pytest.mark.parametrize(
    ("budget", "num_removed_groups", "multiple_of", "message"),
    [
        (10_000, 0, 1, "10,000 parameters cannot be reached; accepted: 3,650 to 9,999"),
        (3_649, 0, 1, "3,649 parameters cannot be reached; accepted: 3,650 to 9,999"),
        (5_199, 0, 32, "accepted: 5,200 to 9,999"),
        (100, 2, 1, "with 2 of 4 KV groups gone; accepted: 3,050 to 9,999"),
    ],
)
def test_budget_out_of_reach_says_what_is_reachable(budget, num_removed_groups, multiple_of, message) -> None:
    with pytest.raises(ValueError, match=message):
        COST.channels_for_budget(budget, num_removed_groups, multiple_of)


@pytest.mark.parametrize(
    ("fraction", "multiple_of", "num_kept"), [(0.5, 32, 64), (0.6, 32, 64), (0.65, 32, 96), (0.01, 32, 32)]
)
def test_fraction_is_rounded_to_the_nearest_multiple(fraction: float, multiple_of: int, num_kept: int) -> None:
    assert COST.channels_for_fraction(fraction, multiple_of) == num_kept


@pytest.mark.parametrize("family", ["llama", "qwen2", "phi3", "gpt2", "opt"])
def test_costs_are_those_of_the_cut_model(family: str) -> None:
    model, _ = random_model(family)
    cost = width_cost(model)
    assert cost.num_parameters == num_parameters(model)
    kept_units = {"channels": [torch.arange(100)] * 4}
    if cost.num_groups:
        kept_units["groups"] = [torch.tensor([1])] * 4
    cut_width(model, **kept_units)
    assert (
        num_parameters(model)
        == cost.parameters_at(100, 1 if cost.num_groups else 0)
        == width_cost(model).num_parameters
    )
    deep, _ = random_model(family)
    remove_blocks(deep, [1, 2])
    assert num_parameters(deep) == cost.parameters_without_blocks(2)
