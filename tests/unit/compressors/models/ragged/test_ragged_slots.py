"""Rows of different lengths in one pass: the same logits, no padding among the tokens, and shared prefixes read once."""

from __future__ import annotations

import pytest
import torch

from attar.compressors.models.decode import decode
from attar.compressors.models.ragged.lookup import Drafts
from attar.compressors.models.ragged.slots import RaggedTorchSlots, reads_ragged
from attar.compressors.models.runner import TorchRunner
from attar.compressors.models.sampling import Sampling
from attar.stages.ingest.tiny_model import random_model

# one is longer than rows that attend together, one begins like it, one is a single token
LOOP = [11, 12, 13, 14, 15, 16, 17]
PROMPTS = [[5, 6, 7], [9], LOOP * 7, [20, 21], LOOP * 3 + [30, 31], LOOP * 7]
FULL = ["llama", "qwen3", "gpt2", "opt", "olmo2", "phi3", "granite", "mixtral", "deepseek_v3"]
OTHERS = ["mistral", "gemma2", "gpt_oss"]


def runner(family: str = "llama") -> TorchRunner:
    return TorchRunner(random_model(family)[0])


def test_a_pass_over_ragged_rows_gives_each_rows_own_logits() -> None:
    model = random_model("llama")[0]
    slots = RaggedTorchSlots(model, num_rows=3, num_prompt=60, num_new=8)
    prompts, rests = [LOOP * 7, [5, 6, 7], [*LOOP, 8]], [[1, 2, 3], [], [4]]
    slots.fill([0, 1, 2], prompts)
    logits = slots.read(
        [[prompt[-1], *rest] if rest else [] for prompt, rest in zip(prompts, rests, strict=True)],
        [len(prompt) - 1 for prompt in prompts],
    )
    expected = []
    for prompt, rest in zip(prompts, rests, strict=True):
        if rest:
            whole = model(input_ids=torch.tensor([prompt + rest])).logits[0]
            expected.append(whole[len(prompt) - 1 :])
    torch.testing.assert_close(logits, torch.cat(expected), atol=2e-5, rtol=0)  # float32, sums in another order


def test_in_bfloat16_a_long_row_gives_its_own_logits_but_for_rounding() -> None:
    model = random_model("llama")[0].to(torch.bfloat16)
    slots = RaggedTorchSlots(model, num_rows=2, num_prompt=60, num_new=4)
    slots.fill([0, 1], [LOOP * 7, [5, 6, 7]])
    logits = slots.read([[LOOP[-1]], []], [7 * len(LOOP) - 1, 2])
    expected = model(input_ids=torch.tensor([LOOP * 7])).logits[0, -1:]
    assert (logits - expected).abs().mean() < 0.05 * expected.std(), "eight bits of fraction, through four blocks"
    assert reads_ragged(model)


class WatchedModel:
    """Notes the tokens of every pass of a model."""

    def __init__(self) -> None:
        self.model = random_model("llama")[0]
        self.passes: list[list[int]] = []
        self.model.register_forward_pre_hook(
            lambda _, args, kwargs: self.passes.append(kwargs["input_ids"].flatten().tolist()), with_kwargs=True
        )


def test_what_prompts_begin_with_is_read_once_and_nothing_is_padded() -> None:
    watched = WatchedModel()
    slots = RaggedTorchSlots(watched.model, num_rows=4, num_prompt=12, num_new=2)
    slots.fill([0, 1, 2, 3], [[*LOOP, 40, 41], [*LOOP, 50, 51, 52], [*LOOP, 50, 51, 52], [*LOOP, 60]])
    assert watched.passes[0] == LOOP
    # a prompt that is no longer than its start reads its last token again
    assert watched.passes[1:] == [[40, 50, 51, LOOP[-1]]]
    slots.fill([1], [[*LOOP[:4], 70, 71]])
    assert watched.passes[-1] == [70], "a later prompt shares what it begins with alike"


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(temperature=0.3), Sampling(temperature=0.8, top_p=0.9)])
@pytest.mark.parametrize("batch_size", [1, 4])
def test_texts_and_records_with_drafts_are_those_without(sampling: Sampling, batch_size: int) -> None:
    options = {"max_new_tokens": 24, "batch_size": batch_size, "sampling": sampling, "num_recorded": 5}
    stops = [decode(runner(), [PROMPTS[2]], max_new_tokens=8, stop_ids=())[0].token_ids[5]]
    plain = decode(runner(), PROMPTS, stop_ids=stops, **options)
    drafted = decode(runner(), PROMPTS, stop_ids=stops, drafts=Drafts(runner()), **options)
    for one_by_one, together in zip(plain, drafted, strict=True):
        assert together.token_ids == one_by_one.token_ids and together.is_finished == one_by_one.is_finished
        assert together.logprob_nats == pytest.approx(one_by_one.logprob_nats, abs=1e-3)
        torch.testing.assert_close(together.top_logprobs, one_by_one.top_logprobs, atol=1e-4, rtol=0)
    assert sum(text.num_drafted for text in drafted) > 0


def test_a_text_that_repeats_itself_takes_fewer_passes() -> None:
    watched = WatchedModel()
    source = TorchRunner(watched.model)
    prompts = [LOOP * 7]
    [plain] = decode(source, prompts, max_new_tokens=60, stop_ids=())
    num_plain = len(watched.passes)
    assert source.open_ragged(1, 1, 1) is not None
    watched.passes.clear()
    [drafted] = decode(source, prompts, max_new_tokens=60, stop_ids=(), drafts=Drafts(source))
    assert drafted.token_ids == plain.token_ids
    assert drafted.num_accepted > 0
    assert len(watched.passes) == num_plain - drafted.num_accepted


@pytest.mark.parametrize("family", FULL)
def test_families_with_full_attention_read_ragged_rows(family: str) -> None:
    assert reads_ragged(random_model(family)[0])


@pytest.mark.parametrize("family", OTHERS)
def test_other_families_say_so_and_write_as_before(family: str) -> None:
    source = runner(family)
    assert source.open_ragged(2, 4, 4) is None
    options = {"max_new_tokens": 4, "stop_ids": ()}
    plain, drafted = (
        decode(source, PROMPTS[:2], **options),
        decode(source, PROMPTS[:2], drafts=Drafts(source), **options),
    )
    assert [text.token_ids for text in plain] == [text.token_ids for text in drafted]
    assert not any(text.num_drafted for text in drafted)


def test_a_model_that_attends_otherwise_than_it_says_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    from attar.compressors.models.ragged import attention as module

    real = module._together
    monkeypatch.setattr(module, "_together", lambda *arguments: real(*arguments).flip(1))
    assert not reads_ragged(random_model("llama")[0])
