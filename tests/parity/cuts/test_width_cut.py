"""A narrowed model is the original with the removed channels and heads set to zero by hand; what cannot be cut is refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from attar.compressors.models.blocks import decoder_blocks
from attar.compressors.models.exits import by_input
from attar.compressors.prune.width.cut import cut_width
from attar.compressors.prune.width.layout import attention_parts, feed_forward_parts
from attar.compressors.prune.width.refit import Refit
from attar.stages.ingest.tiny_model import FAMILIES, random_model

REFUSED_HEADS = {
    "gpt2": "GPT2LMHeadModel: its attention is hidden_size wide",
    "gpt_neox": "GPTNeoXForCausalLM: no attention of a known form|GPTNeoXForCausalLM: its attention is hidden_size wide",
    "opt": "OPTForCausalLM: its attention is hidden_size wide",
    "olmo2": "Olmo2ForCausalLM: q_norm is taken over all heads",
}
IDS = torch.randint(3, 250, (2, 40), generator=torch.Generator().manual_seed(0))
# Where the channels and the heads are read, written down here a second time: names per family, not the layout under test.
CHANNEL_READERS = {"gpt2": "mlp.c_proj", "gpt_neox": "mlp.dense_4h_to_h", "opt": "fc2"}
HEAD_DIM, HEADS_PER_GROUP, NUM_CHANNELS = 16, 2, 128


def zeroed(model: nn.Module, reader: str, gone: list[torch.Tensor]) -> torch.Tensor:
    """Run the original with some inputs of one matrix a block set to zero."""
    hooks = []
    for block, inputs in zip(decoder_blocks(model), gone, strict=True):

        def without(module, args, inputs=inputs):
            changed = args[0].clone()
            changed[..., inputs] = 0
            return (changed,)

        hooks.append(block.get_submodule(reader).register_forward_pre_hook(without))
    with torch.no_grad():
        logits = model(input_ids=IDS).logits
    for hook in hooks:
        hook.remove()
    return logits


def other_channels(kept_units: torch.Tensor) -> torch.Tensor:
    return torch.tensor([channel for channel in range(NUM_CHANNELS) if channel not in kept_units.tolist()])


def heads_of_other_group(kept_units: torch.Tensor) -> torch.Tensor:
    """Query heads 0 and 1 use KV head 0, query heads 2 and 3 KV head 1."""
    first = HEADS_PER_GROUP * (1 - int(kept_units)) * HEAD_DIM
    return torch.arange(first, first + HEADS_PER_GROUP * HEAD_DIM)


def reloaded(model, folder: Path):
    model.save_pretrained(folder)
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64).eval()


def check(model, saved_rows: dict, expected: torch.Tensor, untouched: torch.Tensor, folder: Path) -> None:
    cut_width(model, **saved_rows)
    loaded = reloaded(model, folder)
    with torch.no_grad():
        here, there = model(input_ids=IDS).logits, loaded(input_ids=IDS).logits
    # float64: what is left is the order of additions; a wrong row or column is off by more than 0.01
    torch.testing.assert_close(here, expected, atol=1e-9, rtol=0)
    torch.testing.assert_close(there, expected, atol=1e-9, rtol=0)
    assert (expected - untouched).abs().max() > 1e-2, "the removed units did nothing: the test proves nothing"
    options = {"max_new_tokens": 24, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    assert torch.equal(
        loaded.generate(IDS[:1], use_cache=True, **options), loaded.generate(IDS[:1], use_cache=False, **options)
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_channels(family: str, tmp_path: Path) -> None:
    model = random_model(family)[0].double()
    draw = torch.Generator().manual_seed(1)
    kept_units = [torch.randperm(NUM_CHANNELS, generator=draw)[:72].sort().values for _ in range(4)]
    reader = CHANNEL_READERS.get(family, "mlp.down_proj")
    expected = zeroed(model, reader, [other_channels(kept_unit) for kept_unit in kept_units])
    untouched = zeroed(model, reader, [torch.tensor([], dtype=torch.long)] * 4)
    check(model, {"channels": kept_units}, expected, untouched, tmp_path)
    text = AutoConfig.from_pretrained(tmp_path)
    assert 72 in (getattr(text, name, 0) for name in ("intermediate_size", "ffn_dim", "n_inner"))


@pytest.mark.parametrize("family", [family for family in FAMILIES if family not in REFUSED_HEADS])
def test_groups(family: str, tmp_path: Path) -> None:
    model = random_model(family)[0].double()
    kept_units = [torch.tensor([index]) for index in (0, 1, 1, 0)]
    expected = zeroed(model, "self_attn.o_proj", [heads_of_other_group(kept_unit) for kept_unit in kept_units])
    untouched = zeroed(model, "self_attn.o_proj", [torch.tensor([], dtype=torch.long)] * 4)
    check(model, {"groups": kept_units}, expected, untouched, tmp_path)
    config = AutoConfig.from_pretrained(tmp_path)
    assert (config.num_attention_heads, config.num_key_value_heads, config.head_dim) == (2, 1, 16)


def test_three_groups_of_three_heads_and_biases(tmp_path: Path) -> None:
    """SmolLM2's shape, with the biases that Llama can have: 9 query heads, 3 KV heads; the middle group goes."""
    config = AutoConfig.for_model(
        "llama", vocab_size=259, hidden_size=72, num_hidden_layers=2, num_attention_heads=9, num_key_value_heads=3,
        head_dim=8, intermediate_size=128, attention_bias=True, mlp_bias=True, initializer_range=0.15,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config).double().eval()
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                nn.init.normal_(parameter, std=0.3)
    expected = zeroed(model, "self_attn.o_proj", [torch.arange(24, 48)] * 2)
    untouched = zeroed(model, "self_attn.o_proj", [torch.tensor([], dtype=torch.long)] * 2)
    check(model, {"groups": [torch.tensor([0, 2])] * 2}, expected, untouched, tmp_path)
    config = AutoConfig.from_pretrained(tmp_path)
    assert (config.num_attention_heads, config.num_key_value_heads, config.head_dim) == (6, 2, 8)


@pytest.mark.parametrize("family", REFUSED_HEADS)
def test_heads_that_a_family_cannot_lose(family: str) -> None:
    model = random_model(family)[0]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ValueError, match=REFUSED_HEADS[family]):
        cut_width(model, groups=[torch.tensor([0])] * 4)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    ("model_type", "options", "find", "message"),
    [
        ("diffllama", {}, attention_parts, "attention has lambda_q1 of shape"),
        (
            "mixtral",
            {"num_local_experts": 2},
            feed_forward_parts,
            "MixtralForCausalLM: no feed-forward part of a known form",
        ),
    ],
)
def test_what_is_not_known_is_refused_by_name(model_type: str, options: dict, find, message: str) -> None:
    config = AutoConfig.for_model(
        model_type, vocab_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        head_dim=8, intermediate_size=32, **options,
    )  # fmt: skip
    with pytest.raises(ValueError, match=message):
        find(AutoModelForCausalLM.from_config(config))


def test_number_of_heads_that_the_config_refuses_names_those_it_takes() -> None:
    """Llama's config wants heads that divide hidden_size: 8 KV groups of one head each in 64 cannot become 7."""
    config = AutoConfig.for_model(
        "llama", vocab_size=64, hidden_size=64, num_hidden_layers=1, num_attention_heads=8, num_key_value_heads=8,
        head_dim=8, intermediate_size=64,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config)
    with pytest.raises(
        ValueError, match=r"config refuses num_attention_heads 7, .*accepted numbers of KV groups: 1, 2, 4"
    ):
        cut_width(model, groups=[torch.arange(7)])


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
def test_refit_is_the_ridge_regression_of_the_removed_contribution(family: str) -> None:
    """Streamed in two batches with padding, against least squares on all tokens at once."""
    model = random_model(family)[0]
    part = feed_forward_parts(model)[1]
    mask = torch.ones_like(IDS)
    mask[1, 30:] = 0
    seen: list[torch.Tensor] = []
    hook = part.exit.register_forward_pre_hook(lambda module, args: seen.append(args[0].detach()))
    fit = Refit([part])
    for row in (0, 1):
        fit.update(model, IDS[row : row + 1], mask[row : row + 1])
    hook.remove()
    inputs = torch.cat([seen[0][0], seen[1][0, :30]]).double()
    assert fit.num_tokens == len(inputs) == 70
    kept_units, before = torch.arange(0, 128, 2), by_input(part.exit).detach().double().clone()
    gone = torch.arange(1, 128, 2)
    target = inputs[:, gone] @ before[gone]
    penalty = (0.1 * inputs[:, kept_units].pow(2).sum(dim=0)).sqrt().diag()
    stacked = torch.cat([inputs[:, kept_units], penalty])
    expected = torch.linalg.lstsq(stacked, torch.cat([target, torch.zeros_like(before[kept_units])])).solution
    left = fit.fold(0, part, kept_units, 0.1)
    torch.testing.assert_close(
        by_input(part.exit).detach().double()[kept_units] - before[kept_units], expected, atol=1e-4, rtol=1e-3
    )
    error = (inputs[:, kept_units] @ expected - target).pow(2).sum() / target.pow(2).sum()
    assert left == pytest.approx(float(error), rel=1e-3) and left < 0.9


def test_refit_is_exact_where_a_kept_unit_can_stand_in() -> None:
    """Channel 1 copies channel 0: when it goes, channel 0 takes over and nothing changes."""
    model = random_model("llama")[0].double()
    with torch.no_grad():
        for block in decoder_blocks(model):
            block.mlp.gate_proj.weight[1] = block.mlp.gate_proj.weight[0]
            block.mlp.up_proj.weight[1] = block.mlp.up_proj.weight[0]
        expected = model(input_ids=IDS).logits
    parts, kept_units = feed_forward_parts(model), [torch.tensor([0, *range(2, 128)])] * 4
    plain = random_model("llama")[0].double()
    plain.load_state_dict(model.state_dict())
    fit = Refit(parts)
    fit.update(model, IDS, torch.ones_like(IDS))
    assert max(fit.fold(index, part, kept_units[index], 1e-9) for index, part in enumerate(parts)) < 1e-6
    for run in (model, plain):
        cut_width(run, channels=kept_units)
    with torch.no_grad():
        repaired, without = ((run(input_ids=IDS).logits - expected).abs().max() for run in (model, plain))
    assert repaired < 1e-3 * without
